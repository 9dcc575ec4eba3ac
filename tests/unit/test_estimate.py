"""The estimate for sizes that were not run: its arithmetic."""

import dataclasses

import pytest
from benchmarks.estimate import Assumptions, estimate, fit


def line(rest: float, slope: float):
    return [{"axis": "items", "value": n, "us_per_target": rest + slope * n} for n in (1_000, 5_000, 20_000)]


def figures(**changes: float) -> dict[str, float]:
    lines = estimate(100.0, 0.01, dataclasses.replace(Assumptions(), **changes))
    return {name: float(figure) for name, figure in lines}


def test_the_line_is_found_again():
    others = [{"axis": "users", "value": 7, "us_per_target": 1e6}]
    assert fit(line(120.0, 0.02) + others) == pytest.approx((120.0, 0.02))


def test_one_point_makes_no_line():
    with pytest.raises(ValueError, match="two points"):
        fit(line(1.0, 1.0)[:1])


def test_hand_made_figures():
    found = figures()
    # 6 operations for each of 192 columns, a hundredth of a microsecond an item
    assert found["this machine, softmax, TFLOP/s"] == pytest.approx(6 * 192 / 0.01e-6 / 1e12, abs=5e-4)
    # 1e9 targets of 100 us, sixty times as fast
    assert found["one GPU: all else, hours an epoch"] == pytest.approx(1e9 * 100e-6 / 60 / 3600, abs=5e-3)
    # 10 million vectors of 64 numbers of 4 bytes, four times
    assert found["item table with its moments and average, GB"] == pytest.approx(10.24, abs=0.05)


def test_cost_follows_the_sizes():
    plain, twice = figures(), figures(users=200e6)
    name = "one GPU: rank all users among all items, hours"
    assert twice[name] == pytest.approx(2 * plain[name], rel=0.02)
    assert figures(items=20e6)["frozen features in float16, GB"] == pytest.approx(2 * 30.7, abs=0.1)
