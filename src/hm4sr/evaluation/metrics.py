"""Metrics of a ranking with one relevant item, from its rank (1 is the best)."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hm4sr.errors import UserError

Ranks = NDArray[np.int64]
Gains = NDArray[np.float64]


def ndcg_gains(ranks: Ranks, k: int) -> Gains:
    """1 / log2(rank + 1) where the rank is at most k, else 0; the ideal gain is 1."""
    return np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)


def mrr_gains(ranks: Ranks, k: int) -> Gains:
    """1 / rank where the rank is at most k, else 0."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


def hit_gains(ranks: Ranks, k: int) -> Gains:
    """1 where the rank is at most k, else 0."""
    return (ranks <= k).astype(np.float64)


GAINS: dict[str, Callable[[Ranks, int], Gains]] = {"ndcg": ndcg_gains, "mrr": mrr_gains, "hit": hit_gains}


def ndcg_at_k(ranks: Ranks, k: int) -> float:
    """Mean of `ndcg_gains`."""
    return float(ndcg_gains(ranks, k).mean())


def mrr_at_k(ranks: Ranks, k: int) -> float:
    """Mean of `mrr_gains`."""
    return float(mrr_gains(ranks, k).mean())


def hit_at_k(ranks: Ranks, k: int) -> float:
    """Share of targets whose rank is at most k."""
    return float(hit_gains(ranks, k).mean())


METRICS = {"ndcg": ndcg_at_k, "mrr": mrr_at_k, "hit": hit_at_k}


def summarise(ranks: Ranks, ks: Iterable[int]) -> dict[str, float]:
    """All metrics at all cut-offs, by names such as "ndcg@10"; empty if there are no ranks."""
    if not len(ranks):
        return {}
    return {f"{name}@{k}": metric(ranks, k) for name, metric in METRICS.items() for k in ks}


class Metric(NamedTuple):
    """A metric and its cut-off."""

    kind: str
    k: int

    @classmethod
    def parse(cls, name: str) -> "Metric":
        """From a name such as "ndcg@10".

        Raises:
            UserError: there is no such metric.
        """
        kind, _, cut = name.partition("@")
        if kind not in GAINS or not cut.isdecimal() or int(cut) < 1:
            raise UserError(
                f"{name!r} is not a metric: write {', '.join(GAINS)} with a cut-off, as in ndcg@10."
            )
        return cls(kind, int(cut))

    def __str__(self) -> str:
        return f"{self.kind}@{self.k}"

    @property
    def title(self) -> str:
        """As it is printed: NDCG@10."""
        return f"{self.kind.capitalize() if self.kind == 'hit' else self.kind.upper()}@{self.k}"

    def gains(self, ranks: Ranks) -> Gains:
        """The metric of each target alone."""
        return GAINS[self.kind](ranks, self.k)
