"""Whether a difference between two systems could be chance: paired tests over users.

The test is Fisher's randomisation test with sign flips. Under the hypothesis that two systems are alike,
either of a user's two values could have come from either system, so the sign of each user's difference is a
coin. It asks nothing of the distribution, which matters here: most users' NDCG is 0 under both systems.
Smucker, Allan and Carterette (CIKM 2007) compare it with its rivals.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10_000
"""Random assignments of signs; the smallest p-value is 1 / (ROUNDS + 1)."""
_SIGNS_ALIVE = 4_000_000


class Difference(NamedTuple):
    """What paired values say about the difference of two systems.

    Attributes:
        mean: mean of the differences.
        half_width: of the 95 % confidence interval of that mean, by the normal approximation.
        p_value: two-sided, of the hypothesis that the systems are alike.
    """

    mean: float
    half_width: float
    p_value: float


def sign_flip_test(
    differences: NDArray[np.float64], rng: np.random.Generator, rounds: int = ROUNDS
) -> list[Difference]:
    """Test each column of paired differences by flipping signs at random.

    The columns share the random signs, and each gets the p-value it would get alone.

    Args:
        differences: users x comparisons.
        rng: source of the signs.
        rounds: random assignments of signs.

    Returns:
        one result a column; p = (1 + rounds at least as extreme) / (1 + rounds), which is never 0.
    """
    num_users, columns = differences.shape
    if not num_users:
        raise ValueError("there are no users to compare")
    observed = np.abs(differences.sum(axis=0))
    # Sums that are equal in exact arithmetic must count as equally extreme, those that are zero in it too.
    bar = observed * (1 - 1e-9) - 1e-12 * np.abs(differences).sum(axis=0)
    moving = np.ascontiguousarray(differences[differences.any(axis=1)])
    extreme = np.zeros(columns, dtype=np.int64)
    size = max(1, _SIGNS_ALIVE // max(1, len(moving)))
    for start in range(0, rounds, size):
        count = min(size, rounds - start)
        signs = rng.integers(0, 2, (count, len(moving)), dtype=np.int8) * 2.0 - 1.0
        extreme += (np.abs(signs @ moving) >= bar).sum(axis=0)
    means = differences.mean(axis=0)
    spread = differences.std(axis=0, ddof=1) if num_users > 1 else np.zeros(columns)
    return [
        Difference(float(mean), float(1.96 * deviation / num_users**0.5), float((1 + count) / (1 + rounds)))
        for mean, deviation, count in zip(means, spread, extreme, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of tests, in the given order (Holm, 1979).

    Rejecting where the adjusted value is below a level keeps the chance of any false rejection in the family
    below that level, whatever the dependence between the tests.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for position, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - position) * p_values[index]))
        adjusted[index] = largest
    return adjusted
