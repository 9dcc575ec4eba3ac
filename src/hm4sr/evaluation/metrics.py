"""Metrics of a ranking with one relevant item, from its rank (1 is the best)."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]


def ndcg_at_k(ranks: Ranks, k: int) -> float:
    """Mean of 1 / log2(rank + 1) where the rank is at most k, else 0; the ideal gain is 1."""
    return float(np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0).mean())


def mrr_at_k(ranks: Ranks, k: int) -> float:
    """Mean of 1 / rank where the rank is at most k, else 0."""
    return float(np.where(ranks <= k, 1.0 / ranks, 0.0).mean())


def hit_at_k(ranks: Ranks, k: int) -> float:
    """Share of targets whose rank is at most k."""
    return float((ranks <= k).mean())


METRICS = {"ndcg": ndcg_at_k, "mrr": mrr_at_k, "hit": hit_at_k}


def summarise(ranks: Ranks, ks: Iterable[int]) -> dict[str, float]:
    """All metrics at all cut-offs, by names such as "ndcg@10"; empty if there are no ranks."""
    if not len(ranks):
        return {}
    return {f"{name}@{k}": metric(ranks, k) for name, metric in METRICS.items() for k in ks}
