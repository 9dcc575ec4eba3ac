"""The runs that answer: loaded beside those in use, then swapped as a whole."""

import gc
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hm4sr.serving.base import BaseRecommender
from hm4sr.serving.http.catalogue import ItemSearch
from hm4sr.serving.http.metrics import Metrics
from hm4sr.serving.http.pictures import Pictures
from hm4sr.serving.index import IndexConfig
from hm4sr.serving.recommender import Recommender
from hm4sr.training.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run, ready to answer.

    Attributes:
        name: of the run's folder.
        model: name of the model.
        recommender: answers.
        search: finds items by words.
        pictures: small pictures of items.
    """

    name: str
    model: str
    recommender: BaseRecommender
    search: ItemSearch
    pictures: Pictures


@dataclass(frozen=True)
class RunSource:
    """Where a run is loaded from, again at every reload.

    Attributes:
        run: the run folder, or a link to it.
        data: the prepared data set, if it has moved.
    """

    run: Path
    data: Path | None = None


class Runs:
    """The runs in use, by name; the first one answers questions that name none.

    Attributes:
        loaded: replaced as a whole by `reload`; whoever has read it keeps what it held.
    """

    def __init__(self, sources: Sequence[RunSource], index: IndexConfig, metrics: Metrics):
        self._sources, self._index, self._metrics = sources, index, metrics
        self._loading = threading.Lock()
        self.loaded: Mapping[str, LoadedRun] = self._load()
        _settle()

    def reload(self) -> bool:
        """Load all runs anew and put them in the place of the old, or keep all old ones if that fails.

        Returns:
            whether the new ones are in use.
        """
        with self._loading:
            try:
                self.loaded = self._load()
            except Exception as error:  # whatever is wrong with the new run, the old one goes on
                logger.exception("reload failed, the old runs stay in use", exc_info=error)
                self._metrics.loads.labels("failed").inc()
                return False
            _settle()
            self._metrics.loads.labels("done").inc()
            logger.info("reloaded")
            return True

    def _load(self) -> dict[str, LoadedRun]:
        loaded: dict[str, LoadedRun] = {}
        for source in self._sources:
            run = self._load_run(source)
            loaded[run.name if run.name not in loaded else f"{run.name}-{len(loaded) + 1}"] = run
        self._metrics.loaded.set(time.time())
        return loaded

    def _load_run(self, source: RunSource) -> LoadedRun:
        recommender = Recommender.load(source.run, source.data, index=self._index)
        shelf = recommender.served.shelf
        recommender.recommend(
            histories=[(shelf.ids[0], 0)]
        )  # the first pass is the slowest: nobody waits for it
        model = str(Run.open(source.run).config["model"]["name"])
        return LoadedRun(
            source.run.resolve().name,
            model,
            recommender,
            ItemSearch(shelf),
            Pictures(recommender.dataset),
        )


def _settle() -> None:
    """Free the runs before; what is loaded now lives long, so no later collection looks through it."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
