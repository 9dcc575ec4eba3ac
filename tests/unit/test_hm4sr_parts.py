"""HM4SR's experts and times against plain loops."""

import math

import pytest
import torch
from hm4sr_kit import (
    CLOCK,
    build,
    close,
    exact_bucket,
    interactive_by_hand,
    temporal_by_hand,
)
from hypothesis import given
from hypothesis import strategies as st

from contract.catalogs import SPRING
from hm4sr.nn.moe import InteractiveMoE, TemporalMoE
from hm4sr.nn.time import AbsoluteTime, CosineInterval, DayEmbedding, IntervalEmbedding


def test_interactive_experts_by_hand():
    moe = InteractiveMoE(3, 4, 2, [0.5, 1.0, -2.0], torch.Generator().manual_seed(1))
    e = torch.randn(2, 3, 3, 4)
    mixed, gates = moe(e), moe.gates(e)
    torch.testing.assert_close(gates.sum(-1), torch.ones(2, 3, 3))
    for b in range(2):
        for position in range(3):
            close(mixed[b, position], interactive_by_hand(moe, e[b, position].tolist()))


def test_interactive_experts_start_with_the_ids_untouched():
    model = build()
    assert model.interactive.strength.tolist() == [0.0, 1.0, 1.0]
    e = torch.randn(2, 3, 3, 16)
    mixed = model.interactive(e)
    assert torch.equal(mixed[:, :, 0], e[:, :, 0])
    assert not torch.equal(mixed[:, :, 1], e[:, :, 1])


@pytest.mark.parametrize("trainable", [True, False])
def test_temporal_experts_by_hand(trainable):
    moe = TemporalMoE(12, 6, 3, trainable, torch.Generator().manual_seed(2))
    e, time = torch.randn(2, 3, 3, 4), torch.randn(2, 3, 6)
    mixed = moe(e, time)
    for b in range(2):
        for position in range(3):
            close(
                mixed[b, position], temporal_by_hand(moe, e[b, position].tolist(), time[b, position].tolist())
            )


def buckets(gaps: list[int], largest: int) -> list[int]:
    """The rows of the interval table that a history with these gaps reads."""
    embedding = IntervalEmbedding(1, 100.0, largest, False, torch.Generator())
    rows = embedding.table.num_embeddings
    embedding.table.weight.data = torch.arange(rows, dtype=torch.float32)[:, None]
    times = torch.tensor([[SPRING, *(SPRING + sum(gaps[: i + 1]) for i in range(len(gaps)))]])
    return [int(row) for row in embedding(times)[0, 1:, 0]]


def test_interval_buckets_are_exact_at_their_borders():
    gaps = [gap for k in range(31) for gap in (2**k - 2, 2**k - 1, 2**k) if gap >= 0]
    assert buckets(gaps, 2**31) == [exact_bucket(gap) for gap in gaps]
    assert exact_bucket(2**20 - 1) == 2000
    assert exact_bucket(2**20 - 2) == 1999


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=20))
def test_interval_buckets_are_exact_anywhere(gaps):
    assert buckets(gaps, 2**31) == [exact_bucket(gap) for gap in gaps]


@given(st.integers(0, 2**31), st.integers(0, 2**33))
def test_the_interval_table_ends_at_the_largest_training_gap(largest, gap):
    embedding = IntervalEmbedding(1, 100.0, largest, False, torch.Generator())
    assert embedding.table.num_embeddings == exact_bucket(largest) + 1
    assert buckets([gap], largest) == [min(exact_bucket(gap), exact_bucket(largest))]


def test_a_gap_of_one_second_is_seen_far_from_1970():
    assert buckets([1, 1, 3], 1_000) == [100, 100, 200]


def test_the_first_event_and_a_step_back_in_time_count_as_no_gap():
    embedding = IntervalEmbedding(2, 100.0, 1_000, False, torch.Generator().manual_seed(0))
    rows = embedding(torch.tensor([[SPRING, SPRING - 50, SPRING + 5]]))
    assert torch.equal(rows[0, 0], embedding.table.weight[0])
    assert torch.equal(rows[0, 1], embedding.table.weight[0])
    assert torch.equal(rows[0, 2], embedding.table.weight[exact_bucket(55)])


@pytest.mark.parametrize(("unit", "seconds"), [("days", 86_400), ("seconds", 1)])
def test_absolute_time_by_hand(unit, seconds):
    part = AbsoluteTime(8, 10_000.0, CLOCK, unit, False, torch.Generator())
    with torch.no_grad():
        part.frequency.copy_(torch.linspace(0.5, 1.5, 8))
        part.phase.copy_(torch.linspace(-1, 1, 8))
    midnight = SPRING - SPRING % 86_400
    # Small multiples of the unit: a float32 phase of size p is only good to p / 10^7.
    ticks = [0.0, 0.5, 3.25, 40.0] if unit == "days" else [0.0, 1.0, 7.0, 40.0]
    times = torch.tensor([[midnight + int(tick * seconds) for tick in ticks]])
    frequency, phase = part.frequency.tolist(), part.phase.tolist()
    expected = [
        [math.cos(frequency[i] * tick / 10_000 ** (i / 8) + phase[i]) for i in range(8)] for tick in ticks
    ]
    close(part(times)[0], expected)


def test_released_absolute_time_by_hand():
    part = AbsoluteTime(4, 10_000.0, CLOCK, "seconds", True, torch.Generator().manual_seed(3))
    with torch.no_grad():
        part.phase.copy_(torch.linspace(-1, 1, 4))
    times = torch.tensor([[0, 1, 100]])  # near 1970, where float32 is exact
    frequency, phase = part.frequency.tolist(), part.phase.tolist()
    expected = [
        [math.cos((frequency[i] * t + phase[i]) / 10_000 ** (i / 4)) for i in range(4)] for t in (0, 1, 100)
    ]
    close(part(times)[0], expected)


def test_days_share_a_row_and_those_outside_take_the_nearest():
    part = DayEmbedding(2, CLOCK, False, torch.Generator().manual_seed(3))
    assert part.table.num_embeddings == 91
    midnight = SPRING - SPRING % 86_400
    times = torch.tensor(
        [[midnight - 10**7, midnight, midnight + 86_399, midnight + 86_400, midnight + 10**9]]
    )
    rows = [0, 0, 0, 1, 90]
    assert torch.equal(part(times)[0], part.table.weight[rows])


def test_the_day_of_the_year_is_that_of_the_calendar_to_a_day():
    from datetime import UTC, datetime

    part = DayEmbedding(1, CLOCK, True, torch.Generator())
    part.table.weight.data = torch.arange(366.0)[:, None]
    for year in (1971, 1996, 2000, 2014, 2024, 2031):
        for month in range(1, 13):
            moment = datetime(year, month, 15, 12, tzinfo=UTC)
            row = int(part(torch.tensor([[int(moment.timestamp())]]))[0, 0, 0])
            assert abs(row - (moment.timetuple().tm_yday - 1)) <= 1


def test_cosine_of_the_interval_by_hand():
    part = CosineInterval(4, torch.Generator().manual_seed(5))
    times = torch.tensor([[SPRING, SPRING + 86_400, SPRING + 86_400 + 3_600]])
    frequency, phase = part.frequency.tolist(), part.phase.tolist()
    expected = [[math.cos(frequency[i] * days + phase[i]) for i in range(4)] for days in (0, 1, 1 / 24)]
    close(part(times)[0], expected)
