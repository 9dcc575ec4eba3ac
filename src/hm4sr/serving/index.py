"""Approximate search for large catalogues: FAISS finds candidates, which are scored again exactly.

Item vectors are grouped around centres (an inverted file) and kept in half width; a query looks into the
groups whose centres suit it best. How many, is found when the index is built, against the exact search.
"""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hm4sr.config import Config
from hm4sr.errors import UserError
from hm4sr.files import atomic_file, sha256
from hm4sr.manifest import read_manifest, write_manifest
from hm4sr.serving.search import ExactIndex, Floats, Found, Index, best_of

logger = logging.getLogger(__name__)

_EXACT_SHARE = 10
"""An answer that needs more than one in so many items as candidates is searched exactly."""
_POINTS_PER_LIST = 50


class IndexConfig(Config):
    """How item vectors are searched."""

    kind: Literal["auto", "exact", "faiss"] = "auto"
    """exact looks at every item; faiss at candidates; auto takes exact up to `exact_items` items."""
    exact_items: int = Field(200_000, ge=1)
    """Largest catalogue that auto searches exactly."""
    lists: int = Field(0, ge=0)
    """Groups of items; 0 takes twice the root of their number."""
    probes: int = Field(0, ge=0)
    """Groups that a query looks into; 0 takes the fewest (a power of two) that reach `min_recall`."""
    min_recall: float = Field(0.99, ge=0.99, le=1)
    """Share of the exact answers that must be found; an index that finds less is refused."""
    recall_at: int = Field(100, ge=1)
    """Length (k) of the answers that are compared."""
    queries: int = Field(512, ge=1)
    """Histories of known users that are compared."""
    folder: Path | None = None
    """Where a built index is kept for the next start; left out, it is built at every start."""


@dataclass(frozen=True, eq=False)
class ApproximateIndex:
    """Candidates by FAISS, scores exact; items behind the indexed ones are all looked at.

    Attributes:
        vectors: all item vectors (V x Q); row 0 is padding.
        faiss: index of rows 1 to `indexed`; its ids are item numbers less one.
        indexed: items in there.
        recall: share of the exact answers it found when it was built.
    """

    vectors: Floats
    faiss: Any
    indexed: int
    recall: float

    def top(self, queries: Floats, k: int, blocked: Sequence[NDArray[np.int64]]) -> Found:
        """See `Index`. What is blocked is fetched in addition, so that k are left."""
        fetch = 2 * k + max((len(row) for row in blocked), default=0)
        if fetch * _EXACT_SHARE > self.indexed:
            return ExactIndex(self.vectors).top(queries, k, blocked)
        numbers, scores = self.top_of_candidates(queries, k, blocked, fetch)
        short = np.flatnonzero(numbers[:, -1] == 0)  # the groups that were looked into hold too little
        if len(short):
            exact = ExactIndex(self.vectors).top(queries[short], k, [blocked[row] for row in short.tolist()])
            numbers[short], scores[short] = exact
        return numbers, scores

    def top_of_candidates(
        self, queries: Floats, k: int, blocked: Sequence[NDArray[np.int64]], fetch: int
    ) -> Found:
        """The best of `fetch` candidates of each query, maybe less than k."""
        numbers = np.zeros((len(queries), k), dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf)
        if not np.isfinite(queries).all():
            raise UserError("the model's scores are not numbers: it has diverged, train it again.")
        _, found = self.faiss.search(np.ascontiguousarray(queries), fetch)
        tail = np.arange(self.indexed + 1, len(self.vectors))
        for row, query in enumerate(queries):
            candidates = np.concatenate([np.sort(found[row][found[row] >= 0]) + 1, tail])
            candidates = candidates[~np.isin(candidates, blocked[row])]
            table = self.vectors[candidates] @ query
            best = best_of(table, k)
            numbers[row, : len(best)], scores[row, : len(best)] = candidates[best], table[best]
        return numbers, scores

    def extended(self, vectors: Floats) -> "ApproximateIndex":
        """See `Index`."""
        return replace(self, vectors=np.concatenate([self.vectors, vectors]))


def build_index(config: IndexConfig, vectors: Floats, queries: Callable[[int], Floats]) -> Index | None:
    """The index that the configuration asks for; None stands for the exact search.

    Args:
        config: the configuration.
        vectors: item vectors (V x Q); row 0 is padding.
        queries: gives vectors of so many histories, to measure with.

    Raises:
        UserError: FAISS is asked for and not installed, or the index finds too little.
    """
    large = len(vectors) - 1 > config.exact_items
    if config.kind == "exact" or (config.kind == "auto" and not large):
        return None
    try:
        import faiss
    except ImportError as error:
        advice = "install it with `pip install 'hm4sr[faiss]'`"
        if config.kind == "faiss":
            raise UserError(
                f'the faiss index needs the package faiss: {advice}, or search exactly ("exact").'
            ) from error
        logger.warning("%s items are searched exactly, which is slow: %s.", f"{len(vectors) - 1:,}", advice)
        return None
    kept = _Kept(config, vectors)
    index = kept.read(faiss, vectors)
    if index is None:
        index = _build(faiss, config, vectors, queries)
        kept.write(faiss, index)
    logger.info(
        "index of %s items: recall@%d %.4f with %d of %d groups",
        f"{index.indexed:,}",
        config.recall_at,
        index.recall,
        index.faiss.nprobe,
        index.faiss.nlist,
    )
    return index


def _build(
    faiss: Any, config: IndexConfig, vectors: Floats, queries: Callable[[int], Floats]
) -> ApproximateIndex:
    started = time.perf_counter()
    count, width = len(vectors) - 1, vectors.shape[1]
    lists = min(config.lists or int(2 * count**0.5), max(1, count // 4))
    index = faiss.index_factory(width, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _POINTS_PER_LIST
    items = np.ascontiguousarray(vectors[1:])
    index.train(items)
    index.add(items)
    asked = queries(config.queries)
    nothing = [np.zeros(0, dtype=np.int64)] * len(asked)
    k = min(config.recall_at, count)
    exact = ExactIndex(vectors).top(asked, k, nothing)[0]
    probes, recall = [config.probes] if config.probes else [2**power for power in range(20)], 0.0
    for index.nprobe in (min(number, lists) for number in probes):
        trial = ApproximateIndex(vectors, index, count, recall)
        found = trial.top_of_candidates(asked, k, nothing, min(2 * k, count))[0]
        recall = _recall(found, exact)
        if recall >= config.min_recall or index.nprobe == lists:
            break
    logger.info("index built in %.1f s", time.perf_counter() - started)
    if recall < config.min_recall:
        raise UserError(
            f"the index finds {recall:.4f} of the exact answers (recall@{k}) and {config.min_recall} are "
            'wanted: raise index.probes, or search exactly (index.kind = "exact").'
        )
    return ApproximateIndex(vectors, index, count, recall)


def _recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the exact answers among those found."""
    pairs = zip(found, exact, strict=True)
    return float(np.mean([np.isin(truth[truth > 0], row).mean() for row, truth in pairs]))


class _Kept:
    """An index on disk, known by what it was built from."""

    def __init__(self, config: IndexConfig, vectors: Floats):
        self._folder = config.folder
        identity = config.model_dump(mode="json", exclude={"folder", "kind", "exact_items"})
        digest = hashlib.sha256(json.dumps([identity, vectors.shape]).encode())
        if self._folder is not None:
            digest.update(np.ascontiguousarray(vectors).data)
        self._key = digest.hexdigest()

    def read(self, faiss: Any, vectors: Floats) -> ApproximateIndex | None:
        """The index, if it is there, whole, and of these vectors."""
        if self._folder is None or not (self._folder / "index.json").is_file():
            return None
        file, about = self._folder / "index.faiss", {}
        with contextlib.suppress(UserError):  # a damaged one is no use, and can be made again
            about = read_manifest(self._folder / "index.json")
        if about.get("key") != self._key or not file.is_file() or sha256(file) != about.get("sha256"):
            logger.info("%s holds no index of these items: it is built anew.", self._folder)
            return None
        index = faiss.read_index(str(file))
        index.nprobe = about["probes"]
        return ApproximateIndex(vectors, index, len(vectors) - 1, about["recall"])

    def write(self, faiss: Any, index: ApproximateIndex) -> None:
        """Keep the index, if a folder was named."""
        if self._folder is None:
            return
        try:
            with atomic_file(self._folder / "index.faiss") as temporary:
                faiss.write_index(index.faiss, str(temporary))
            about = {
                "key": self._key,
                "recall": index.recall,
                "probes": index.faiss.nprobe,
                "sha256": sha256(self._folder / "index.faiss"),
            }
            write_manifest(self._folder / "index.json", about)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"the index cannot be kept in {self._folder} ({error}): name another index.folder."
            ) from error
