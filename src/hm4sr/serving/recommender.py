"""Recommendations from a trained run, for known users and for new histories.

recommender = Recommender.load("runs/games-hm4sr-1")
for answer in recommender.recommend(users=["A1", "A2"], k=5):
    print(answer.request, [item.title for item in answer.items])
history = [("B0001", 1405296000), ("B0002", 1405382400)]
print(recommender.recommend(histories=history).table())
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.models.base import SeqRecModel
from hm4sr.runtime import choose_device, numpy_generator
from hm4sr.serving.base import BaseRecommender, Served
from hm4sr.serving.explain import Explanation, explain
from hm4sr.serving.histories import History, InventedTimes
from hm4sr.serving.index import IndexConfig, build_index
from hm4sr.serving.new_items import FeatureSources, Vectors, new_features, read_new_items
from hm4sr.serving.ranker import DotProductRanker, Ranker, TableRanker
from hm4sr.serving.requests import PaddedHistories, Users
from hm4sr.serving.search import Floats
from hm4sr.serving.shelf import Shelf
from hm4sr.training.run import Run
from hm4sr.types import SeqBatch


class Recommender(BaseRecommender):
    """A trained model with its catalogue and its users, ready to answer.

    Attributes:
        dataset: the prepared data set that the model was trained on.
        model: the trained model.
    """

    def __init__(
        self,
        model: SeqRecModel,
        dataset: Dataset,
        device: torch.device | None = None,
        index: IndexConfig | None = None,
    ):
        self.dataset = dataset
        self._device = device or torch.device("cpu")
        self.model = model.eval()
        shelf = Shelf(dataset.items, dataset.events.train_counts(dataset.num_items))
        users = {user: row for row, user in enumerate(dataset.users["user_id"].to_list())}
        self._adding = threading.Lock()
        super().__init__(
            Served(shelf, self._ranker()),
            Users(users, dataset.events, str(dataset.path)),
            invented_times(dataset),
            model.catalog.max_length,
        )
        if index is not None:
            self._use_index(index)

    @classmethod
    def load(
        cls,
        run: str | Path,
        data: str | Path | None = None,
        device: str = "auto",
        index: IndexConfig | None = None,
    ) -> "Recommender":
        """Load a finished run.

        Args:
            run: the run folder.
            data: the prepared data set it was trained on, if that has moved.
            device: "auto", "cpu", "cuda", ...
            index: how items are searched; exactly if left out.

        Raises:
            UserError: the run is unfinished or damaged, its data set is missing or has changed, or the index
                cannot be had or finds too little.
        """
        where = choose_device(device)
        opened = Run.open(run)
        dataset = opened.dataset(data)
        return cls(opened.load_model(dataset, where), dataset, where, index)

    def history(self, user: str) -> list[tuple[str, int]]:
        """All events of a known user as (raw item id, seconds since 1970), oldest first.

        Raises:
            UserError: the user is unknown.
        """
        stored = self._users.stored(int(self._users.rows_of([user])[0]))
        ids = self.served.shelf.ids
        return [(ids[item - 1], time) for item, time in zip(stored.items, stored.times.tolist(), strict=True)]

    def explain(
        self,
        users: str | Sequence[str] | None = None,
        histories: History | Sequence[History] | None = None,
        items: Sequence[str] | None = None,
        num_reasons: int = 5,
        **options: Any,
    ) -> list[Explanation]:
        """Answer as `recommend` does and say why.

        Args:
            users: see `recommend`.
            histories: see `recommend`.
            items: raw ids to explain instead of the recommended items, ranked among each other.
            num_reasons: events of the history to name for each item.
            options: further arguments of `recommend`.

        Raises:
            UserError: an item is unknown, or see `recommend`.
        """
        if items is not None:
            for item in items:
                self.served.shelf.number_of(item)
            options = {**options, "include": items, "k": max(1, len(items)), "filter_seen": False}
        return explain(self, self.prepare(users, histories, **options), num_reasons)

    @torch.inference_mode()
    def add_items(
        self,
        items: pl.DataFrame | Sequence[Mapping[str, Any]],
        vectors: Mapping[str, Vectors] | None = None,
        encoders: Mapping[str, str] | None = None,
        image_root: Path | None = None,
    ) -> None:
        """Make items recommendable that came after training, through their text, pictures and so on.

        They live in this object alone: the run and the data set stay as they are. They may stand in
        histories, have the popularity 0, and are found by every argument of `recommend`.

        Args:
            items: a row an item: item_id; title, brand, categories (a list), text and image (a path) where
                there are any. Without `text` it is made of title, categories and brand as `hm4sr prepare`
                makes it by default.
            vectors: vectors by modality, a row an item (None: the item lacks it). The other modalities are
                encoded from `text` and `image` by the encoders that made the features of the data set.
            encoders: where those encoders are, by modality, if not where the data set's features say.
            image_root: folder that the pictures' paths are relative to; the data set's if left out.

        Raises:
            UserError: the model cannot judge items it was not trained on, an id is taken, an item has no
                modality, or vectors, a picture or an encoder cannot be used. Nothing is added then.
        """
        with self._adding:
            served = self.served
            table = read_new_items(items, served.shelf)
            widths = {name: given.vectors.shape[1] for name, given in self.model.catalog.features.items()}
            ranker = served.ranker
            if not widths or not isinstance(ranker, DotProductRanker):
                raise self._knows_trained_items_alone(bool(widths))
            sources = FeatureSources(vectors or {}, encoders or {}, image_root)
            features = new_features(table, self.dataset, widths, sources)
            found = self.model.new_item_vectors(features)
            if found is None:
                raise self._knows_trained_items_alone(True)
            longer = Served(served.shelf.extended(table), ranker.extended(found[1:].cpu().numpy()))
            self.model.append_items(found, features)
            self.served = longer

    def _knows_trained_items_alone(self, with_features: bool) -> UserError:
        name = self.model.name
        if not with_features:
            return UserError(
                f"this {name} was trained on item IDs alone and judges no others: make features with "
                "`hm4sr features` and train a model that reads them, such as hm4sr."
            )
        return UserError(
            f"the model {name} judges only items it was trained on: train one that reads "
            "text or pictures, such as hm4sr, or train again with the new items."
        )

    @torch.inference_mode()
    def gates(self, histories: PaddedHistories) -> Mapping[str, Floats]:
        """Weights of the experts at each event (B x L x K), by the name of the gate."""
        found = self.model.gates(self._batch(histories))
        return {name: weights.float().cpu().numpy() for name, weights in found.items()}

    def _ranker(self) -> Ranker:
        vectors = self.model.fix_items().detach().cpu().numpy()
        if type(self.model).scores is not SeqRecModel.scores:
            return TableRanker(self._table, vectors)
        return DotProductRanker(self._encode, vectors, self.model.blocks(), seen_bias=self.model.seen_bias())

    def _use_index(self, config: IndexConfig) -> None:
        """Search by the configured index from now on."""
        shelf, ranker = self.served.shelf, self.served.ranker
        if isinstance(ranker, DotProductRanker):
            index = build_index(config, ranker.vectors, self._queries)
            self.served = Served(shelf, replace(ranker, index=index))
        elif config.kind == "faiss":
            raise UserError(
                f"the scores of {self.model.name} are no dot products, so no index can find its items: "
                'search exactly (index.kind or --index "exact").'
            )

    def _queries(self, count: int) -> Floats:
        """Vectors of the histories of some users; of the items' own vectors where there are no users."""
        log = self.dataset.events
        users = np.flatnonzero(np.diff(log.starts) > 0)
        rng = numpy_generator(0, "index")
        if not len(users):
            vectors = self.served.ranker.vectors[1:]
            return vectors[rng.choice(len(vectors), min(count, len(vectors)), replace=False)]
        chosen = np.sort(rng.choice(users, min(count, len(users)), replace=False))
        names = self.dataset.users["user_id"].gather(chosen).to_list()
        requests = self.prepare(names).requests
        rows = np.arange(len(requests))
        parts = [self._encode(requests.padded(rows[at : at + 64], self.max_length)) for at in rows[::64]]
        return np.concatenate(parts)

    @torch.inference_mode()
    def _encode(self, histories: PaddedHistories) -> Floats:
        """Vectors of histories (B x Q)."""
        vectors: Floats = self.model.last_hidden(self._batch(histories)).float().cpu().numpy()
        return vectors

    @torch.inference_mode()
    def _table(self, histories: PaddedHistories) -> Floats:
        """The model's own scores of the whole catalogue (B x V)."""
        scores = self.model.scores(self._batch(histories), self.model.items_now())
        table: Floats = scores.float().cpu().numpy()
        return table

    def _batch(self, histories: PaddedHistories) -> SeqBatch:
        tensors = (
            torch.from_numpy(values)
            for values in (
                histories.items,
                histories.times,
                histories.lengths,
                np.zeros_like(histories.items),
                histories.users,
                np.repeat(histories.asked[:, None], histories.items.shape[1], axis=1),
                histories.earlier,
            )
        )
        return SeqBatch(*tensors).to(self._device)


def invented_times(dataset: Dataset) -> InventedTimes:
    """What a history without moments is given: the newest moment of the data and the median gap."""
    log = dataset.events
    train = log.train_mask()
    same = train[1:] & (log.users[1:] == log.users[:-1])
    gaps = np.diff(log.times)[same]
    return InventedTimes(
        last=int(log.times.max(initial=0)) if log.num_events else 0,
        gap=int(np.median(gaps)) if len(gaps) else 0,
    )
