"""The catalogue a model is built on, from a prepared data set."""

import numpy as np
import torch

from hm4sr.data.dataset import Dataset, EventLog
from hm4sr.errors import UserError
from hm4sr.features.store import feature_names, load_features
from hm4sr.runtime import numpy_generator
from hm4sr.training.events import learned_events, seen_events
from hm4sr.training.settings import Experiment
from hm4sr.types import Catalog, Histories, ItemFeatures


def build_catalog(dataset: Dataset, experiment: Experiment) -> Catalog:
    """Collect what the model may know about the items.

    Raises:
        UserError: a modality that the experiment names was never extracted.
    """
    categories = dataset.item_categories()
    log = learned_events(seen_events(dataset, experiment.data), experiment.data)
    return Catalog(
        num_items=dataset.num_items,
        features=_features(dataset, experiment),
        categories=None if categories is None else torch.from_numpy(categories),
        num_categories=len(dataset.category_names),
        clock=log.clock(),
        max_length=experiment.data.max_length,
        counts=torch.from_numpy(log.train_counts(dataset.num_items)),
        target_counts=torch.from_numpy(log.target_counts(dataset.num_items)),
        histories=_training_histories(log) if experiment.model_class.reads_histories else None,
    )


def _features(dataset: Dataset, experiment: Experiment) -> dict[str, ItemFeatures]:
    """Vectors of each modality; those of `data.drop_features` without some of their items."""
    shares, known = experiment.data.drop_features, feature_names(dataset)
    for name in shares:
        if name not in known:
            raise UserError(
                f"data.drop_features names {name!r}, but {dataset.path} has "
                f"{', '.join(known) or 'no features'}: name one of those."
            )
    features = {name: load_features(dataset, name) for name in experiment.modalities(dataset)}
    return {
        name: drop(found, shares[name], numpy_generator(experiment.data.drop_seed, f"drop {name}"))
        if shares.get(name)
        else found
        for name, found in features.items()
    }


def drop(features: ItemFeatures, share: float, rng: np.random.Generator) -> ItemFeatures:
    """Treat a share of the items that have a modality as if they lacked it.

    The items are drawn in one order: with the same generator a smaller share is part of a larger one.
    """
    having = features.present.nonzero().squeeze(1)
    gone = having[torch.from_numpy(rng.permutation(len(having))[: round(share * len(having))])]
    present = features.present.clone()
    present[gone] = False
    levels = None if features.levels is None else features.levels * present[:, None, None]
    return ItemFeatures(features.vectors * present[:, None], present, levels, features.start)


def _training_histories(log: EventLog) -> Histories:
    mask = log.train_mask()
    starts = np.concatenate([[0], np.cumsum(log.train_end - log.starts[:-1])])
    return Histories(
        torch.from_numpy(log.items[mask]), torch.from_numpy(log.times[mask]), torch.from_numpy(starts)
    )
