"""Paired tests and their correction, against scipy and a worked example."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from hm4sr.evaluation.significance import ROUNDS, holm, sign_flip_test


def test_holm_against_a_hand_worked_example():
    # Sorted: .005 * 4 = .02, .01 * 3 = .03, .03 * 2 = .06, .04 * 1 = .04 but not below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_never_exceeds_one_and_leaves_a_single_test_alone():
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_few_users_agree_with_scipys_exact_test():
    differences = np.array([0.4, -0.1, 0.3, 0.2, 0.25, -0.05, 0.1, 0.6])
    exact = stats.permutation_test(
        (differences,), lambda x: np.mean(x), permutation_type="samples", n_resamples=np.inf
    )
    (ours,) = sign_flip_test(differences[:, None], np.random.default_rng(0))
    assert ours.mean == pytest.approx(differences.mean())
    assert ours.p_value == pytest.approx(exact.pvalue, abs=4 * (exact.pvalue / ROUNDS) ** 0.5)


def test_many_users_agree_with_scipys_t_test():
    rng = np.random.default_rng(3)
    differences = rng.normal([0.0, 0.05, 0.1, 0.3], 1.0, (1_000, 4))
    for column, ours in enumerate(sign_flip_test(differences, rng)):
        theirs = stats.ttest_1samp(differences[:, column], 0.0)
        assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.02)
        low, high = theirs.confidence_interval(0.95)
        assert (ours.mean - ours.half_width, ours.mean + ours.half_width) == pytest.approx(
            (low, high), abs=1e-3
        )


def test_alike_systems_are_called_different_as_often_as_promised():
    differences = np.random.default_rng(5).normal(size=(60, 800))
    p_values = [result.p_value for result in sign_flip_test(differences, np.random.default_rng(6), 999)]
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(p_values) <= level)
        assert share == pytest.approx(level, abs=4 * (level * (1 - level) / 800) ** 0.5)


def test_no_difference_is_no_evidence_and_the_least_p_value_is_not_zero():
    differences = np.zeros((500, 2))
    differences[:, 1] = 1.0
    none, certain = sign_flip_test(differences, np.random.default_rng(0))
    assert none.p_value == 1.0
    assert none.half_width == 0.0
    assert certain.p_value == 1 / (1 + ROUNDS)


def test_ties_count_as_equally_extreme():
    # Of the four assignments of signs to two equal differences two reach the observed sum: p = 1/2.
    (result,) = sign_flip_test(np.full((2, 1), 0.1), np.random.default_rng(1))
    assert result.p_value == pytest.approx(0.5, abs=0.02)


def test_sums_that_only_rounding_tells_apart_count_as_equally_extreme():
    # Tenths, whose sums as floats depend on their order; as whole numbers they are exact.
    tenths = np.array([1, 2, 3, -1, 1, 2, -3, 1, 1, 2])
    signs = np.array(list(product([1, -1], repeat=len(tenths))))
    sums = np.abs(signs @ tenths)
    exact, without_ties = (sums >= tenths.sum()).mean(), (sums > tenths.sum()).mean()
    (result,) = sign_flip_test(tenths[:, None] / 10, np.random.default_rng(2))
    assert result.p_value == pytest.approx(exact, abs=4 * (exact / ROUNDS) ** 0.5)
    assert exact - without_ties > 10 * (exact / ROUNDS) ** 0.5, "so that ties are many"


def test_the_interval_of_few_users_is_by_the_deviation_of_a_sample():
    differences = np.array([[1.0, 0.5], [1.0, -0.5], [0.0, 0.5], [0.0, -0.5]])
    one, other = sign_flip_test(differences, np.random.default_rng(0))
    # Squares of the deviations: four quarters over n - 1 = 3.
    assert one.half_width == pytest.approx(1.96 * (1 / 3) ** 0.5 / 2)
    assert other.half_width == pytest.approx(one.half_width)
    assert (one.mean, other.mean) == (0.5, 0.0)
    (alone,) = sign_flip_test(np.ones((1, 1)), np.random.default_rng(0))
    assert (alone.mean, alone.half_width, alone.p_value) == (1.0, 0.0, 1.0)


def test_no_users_is_an_error():
    with pytest.raises(ValueError, match="no users"):
        sign_flip_test(np.zeros((0, 1)), np.random.default_rng(0))


def test_a_difference_of_nothing_is_never_a_finding():
    """In floating point the sum is 5.6e-17 here, above which nothing but rounding would lie."""
    differences = np.array([[0.1], [0.1], [0.1], [-0.3]])
    assert differences.sum() != 0
    (found,) = sign_flip_test(differences, np.random.default_rng(0), 200)
    assert found.p_value == 1.0
