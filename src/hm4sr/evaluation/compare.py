"""Several systems on the same targets: metrics over seeds, the best, improvement, significance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.data.dataset import Part
from hm4sr.errors import UserError
from hm4sr.evaluation.metrics import Metric, Ranks
from hm4sr.evaluation.significance import Difference, holm, sign_flip_test

LEVEL = 0.05
"""Level of significance, after correction."""


@dataclass(frozen=True)
class Spread:
    """A metric over seeds.

    Attributes:
        mean: over the seeds.
        deviation: standard deviation of a sample (n - 1); None for a single seed.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Mean and deviation of one value a seed."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(float(np.mean(values)), deviation)


@dataclass(frozen=True)
class PairedTest:
    """One system against one rival on one metric, over users.

    Attributes:
        rival: name of the other system.
        metric: what was compared.
        difference: system minus rival, with its p-value before correction.
        adjusted: p-value after Holm's correction over all tests of the comparison.
    """

    rival: str
    metric: Metric
    difference: Difference
    adjusted: float


def number_repeats(targets: pl.DataFrame) -> pl.DataFrame:
    """Add a column `repeat`: 0 for a user's first target of an item, 1 for the second, in the rows' order."""
    return targets.with_columns(pl.int_range(pl.len()).over("user", "item").alias("repeat"))


@dataclass(frozen=True)
class Systems:
    """Ranks of several systems, row by row about the same targets, sorted by user and item.

    An item that is several times a user's target stands in the order of time.

    Attributes:
        users: user number of each target.
        items: item number of each target.
        ranks: name of the system to seed to the rank of each target.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    ranks: Mapping[str, Mapping[int, Ranks]]

    @classmethod
    def align(cls, tables: Mapping[str, Mapping[int, pl.DataFrame]], part: Part) -> "Systems":
        """Bring the ranks of one part into one order.

        Args:
            tables: name of the system to seed to a table with the columns part, user, item, rank, whose
                rows about one user and one item are in the order of time.
            part: which of the parts.

        Raises:
            UserError: two systems were judged on different targets.
        """
        keys: tuple[str, NDArray[np.int64]] | None = None
        ranks: dict[str, dict[int, Ranks]] = {}
        for name, seeds in tables.items():
            for seed, table in seeds.items():
                rows = table.filter(pl.col("part") == part).sort("user", "item", maintain_order=True)
                targets = rows.select("user", "item").to_numpy().astype(np.int64)
                keys = keys or (name, targets)
                if not np.array_equal(keys[1], targets):
                    raise UserError(
                        f"{name} (seed {seed}) was judged on other {part} targets than {keys[0]}: "
                        "compare runs on one and the same data set."
                    )
                ranks.setdefault(name, {})[seed] = rows["rank"].to_numpy().astype(np.int64)
        if keys is None or not len(keys[1]):
            raise UserError(f"there are no ranks of {part} targets to compare: name at least one run.")
        return cls(keys[1][:, 0], keys[1][:, 1], ranks)

    @property
    def names(self) -> list[str]:
        """The systems, in the order given."""
        return list(self.ranks)

    def spread(self, name: str, metric: Metric, members: NDArray[np.bool_] | None = None) -> Spread:
        """A metric of a system over its seeds, of all targets or of some."""
        chosen = slice(None) if members is None else members
        return Spread.of([float(metric.gains(ranks[chosen]).mean()) for ranks in self.ranks[name].values()])

    def best_first(self, metric: Metric, members: NDArray[np.bool_] | None = None) -> list[str]:
        """Names by descending mean; among equals the order given."""
        means = {name: self.spread(name, metric, members).mean for name in self.names}
        return sorted(self.names, key=lambda name: -means[name])

    def improvement(self, name: str, metric: Metric) -> tuple[str, float] | None:
        """The strongest rival on a metric and the relative improvement over it, as a share; None without one.

        The strongest is taken by the very figures that are compared: the rival that leaves least to boast of.
        """
        rivals = [other for other in self.best_first(metric) if other != name]
        if not rivals:
            return None
        rival, own = self.spread(rivals[0], metric).mean, self.spread(name, metric).mean
        return (rivals[0], own / rival - 1) if rival > 0 else None

    def tests(self, name: str, metrics: Sequence[Metric], rng: np.random.Generator) -> list[PairedTest]:
        """A system against every other on every metric; one family of tests for the correction.

        A user's value is the mean over the seeds that both systems have, all seeds if they share none.
        """
        pairs = [(rival, metric) for rival in self.names if rival != name for metric in metrics]
        if not pairs:
            return []
        columns = [self._differences(name, rival, metric) for rival, metric in pairs]
        results = sign_flip_test(np.stack(columns, axis=1), rng)
        adjusted = holm([result.p_value for result in results])
        return [
            PairedTest(rival, metric, result, value)
            for (rival, metric), result, value in zip(pairs, results, adjusted, strict=True)
        ]

    def _differences(self, name: str, rival: str, metric: Metric) -> NDArray[np.float64]:
        own, other = self.ranks[name], self.ranks[rival]
        shared = [seed for seed in own if seed in other]
        return self._user_values(own, shared or list(own), metric) - self._user_values(
            other, shared or list(other), metric
        )

    def _user_values(
        self, ranks: Mapping[int, Ranks], seeds: Sequence[int], metric: Metric
    ) -> NDArray[np.float64]:
        """Mean over a user's targets and over seeds, a value for each user that has targets."""
        gains = np.mean([metric.gains(ranks[seed]) for seed in seeds], axis=0)
        index, counts = self._by_user
        values: NDArray[np.float64] = np.bincount(index, weights=gains) / counts
        return values

    @cached_property
    def _by_user(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        _, index, counts = np.unique(self.users, return_inverse=True, return_counts=True)
        return index, counts
