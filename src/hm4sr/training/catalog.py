"""The catalogue a model is built on, from a prepared data set."""

import numpy as np
import torch

from hm4sr.data.dataset import Dataset, EventLog
from hm4sr.evaluation.popularity import popularity
from hm4sr.features.store import load_features
from hm4sr.training.settings import Experiment
from hm4sr.types import Catalog, Histories


def build_catalog(dataset: Dataset, experiment: Experiment) -> Catalog:
    """Collect what the model may know about the items.

    Raises:
        UserError: a modality that the experiment names was never extracted.
    """
    categories = dataset.item_categories()
    return Catalog(
        num_items=dataset.num_items,
        features={name: load_features(dataset, name) for name in experiment.modalities(dataset)},
        categories=None if categories is None else torch.from_numpy(categories),
        num_categories=len(dataset.category_names),
        clock=dataset.clock(),
        max_length=experiment.data.max_length,
        counts=torch.from_numpy(popularity(dataset.events, dataset.num_items)),
        histories=_training_histories(dataset.events) if experiment.model_class.reads_histories else None,
    )


def _training_histories(log: EventLog) -> Histories:
    mask = log.train_mask()
    starts = np.concatenate([[0], np.cumsum(log.train_end - log.starts[:-1])])
    return Histories(
        torch.from_numpy(log.items[mask]), torch.from_numpy(log.times[mask]), torch.from_numpy(starts)
    )
