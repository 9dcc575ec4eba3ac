import datetime as dt

import polars as pl
import pytest

from hm4sr.data.timestamps import read_times, usable_times
from hm4sr.errors import UserError


def read(values, unit="auto", dtype=None):
    return read_times(pl.Series("time", values, dtype=dtype), unit, lambda row: f"log.csv, line {row + 2}")


@pytest.mark.parametrize(
    ("value", "unit"),
    [(1405296000, "s"), (1405296000123, "ms"), (1405296000123456, "us"), (1405296000123456789, "ns")],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_the_unit_of_integers_is_recognised_and_every_digit_kept(value, unit, as_text):
    times = read([str(value)] if as_text else [value])
    assert times.unit == unit
    assert times.ticks.tolist() == [value]
    assert times.seconds().tolist() == [1405296000]


def test_neighbouring_seconds_stay_distinct():
    assert read(["1405296000", "1405296001"]).seconds().tolist() == [1405296000, 1405296001]


def test_integral_decimals_are_read_without_rounding():
    assert read(["1405296000.0", "1405296001.", "1405296002"]).ticks.tolist() == [
        1405296000,
        1405296001,
        1405296002,
    ]
    assert read(["9007199254740993.0"], unit="us").ticks.tolist() == [9007199254740993]  # 2^53 + 1
    assert read([1405296000.0]).ticks.tolist() == [1405296000]


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("values", "unit", "ticks"),
    [
        ([1405296000.25, 1405296000.0], "s", [1405296000250000, 1405296000000000]),
        ([1405296000000.5, 1405296000001.0], "ms", [1405296000000500, 1405296000001000]),
        ([-0.5, 1.25], "s", [-500000, 1250000]),
    ],
)
def test_fractions_of_a_second_keep_the_order_of_events(values, unit, ticks, as_text):
    times = read([str(value) for value in values] if as_text else values, unit)
    assert times.ticks.tolist() == ticks
    assert times.seconds().tolist() == [tick // 1_000_000 for tick in ticks]
    assert times.unit == unit


def test_screening_keeps_fractions_and_drops_what_is_none():
    column = pl.Series("time", ["1405296000.25", "1405296000", "soon", "1405296003.5"])
    assert usable_times(column, "auto").to_list() == [True, True, False, True]
    column = pl.Series("time", [1405296000.25, float("nan"), None])
    assert usable_times(column, "auto").to_list() == [True, False, False]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2014-07-14", 1405296000),
        ("2014-07-14 00:00:00 UTC", 1405296000),
        ("2014-07-14T00:00:00Z", 1405296000),
        ("2014-07-14 00:00", 1405296000),
        ("2014-07-14T02:00:00+02:00", 1405296000),
        ("2014-07-13T19:00:00.999-0500", 1405296000),
        ("2014-07-14T05:30:00+0530", 1405296000),
        ("2014-07-14T01:00:00+01", 1405296000),
    ],
)
def test_iso_texts(text, seconds):
    times = read([text])
    assert times.unit == "iso"
    assert times.seconds().tolist() == [seconds]


@pytest.mark.parametrize("text", ["2014-02-30", "2014-07-14T24:00:00", "2014-07-14T10:61", "14.07.2014", "x"])
def test_what_is_no_moment_is_refused(text):
    with pytest.raises(UserError, match=r"log\.csv, line 3: time .*"):
        read(["2014-07-14", text])


def test_calendar_columns():
    assert read([dt.date(2014, 7, 14)]).seconds().tolist() == [1405296000]
    naive = dt.datetime(2014, 7, 14, 0, 0, 1)
    assert read([naive], dtype=pl.Datetime("ms")).seconds().tolist() == [1405296001]
    zoned = pl.Series("time", [naive]).dt.replace_time_zone("Europe/Berlin")
    assert read_times(zoned, "auto", str).seconds().tolist() == [1405296001 - 7200]


@pytest.mark.parametrize(
    ("values", "unit", "message"),
    [
        (
            ["1405296000", "1405296000123"],
            "auto",
            "line 3: time '1405296000123' lies outside .*--time-unit s",
        ),
        (["5", "1405296000"], "auto", "line 2: time '5' lies outside the years 1980 to 2100 in s"),
        (["1", "2"], "auto", "line 2: time '1' lies outside .* as s, ms, us and ns: set --time-unit"),
        (["1405296000", "2014-07-14"], "auto", "line 3: time '2014-07-14' is written unlike the rest"),
        (["2014-07-14", "2014-07-15", "1405296000"], "auto", "line 4: time '1405296000' is written unlike"),
        (["2014-07-14T00:00:00Z", "2014-07-14T00:00:00"], "auto", "line 3: .* has no UTC offset"),
        (["0001-01-01"], "auto", "line 2: .* outside the years 1980 to 2100: .*--time-unit iso"),
        (["1405296000", ""], "auto", "line 3: time is empty"),
        (["1405296000", None], "s", "line 3: time is empty"),
        (["1405296000000000.5"], "us", "line 2: time '1.*' is not a whole number"),
        (["1.405e9"], "s", "line 2: time '1.405e9' is not a whole number"),
        (["1405296000"], "iso", "line 2: time '1405296000' is neither an ISO date"),
        (["99999999999999999999"], "s", "line 2: time '9*' is too large, it does not fit into 64 bits"),
        (
            ["1405296000", "1" + "0" * 30],
            "auto",
            "line 3: time '10*' is too large.*write seconds, ms, us or ns",
        ),
        (["1405296000", "-1" + "0" * 400 + ".0"], "auto", r"line 3: time '-10{38}' is too large"),
        (["1405296000", "1" + "0" * 30, "soon"], "s", "line 3: time '10*' is too large"),
        (["1405296000.5", "1405296000123456789"], "ns", "line 3: .* is too large to be exact"),
        ([1e30], "auto", r"line 2: time '1e\+30' is too large"),
        ([2**64 - 1], "auto", "line 2: time '18446744073709551615' is too large"),
        (["1405296000.5", "soon"], "s", "line 2: time '1405296000.5' is not a whole number"),
        ([float("inf"), 1405296000.5], "auto", "line 2: time 'inf' is not a whole number"),
        (["20140714", "20140715"], "auto", "looks like a date written as one number: write 2014-07-23"),
        ([float("nan")], "auto", "is not a whole number"),
        ([dt.date(2014, 7, 14)], "s", "is a date, not a number"),
        ([1405296000], "iso", "is a number, not a date"),
        ([True], "auto", "is of type Boolean"),
    ],
)
def test_refusals_name_the_row_and_the_remedy(values, unit, message):
    with pytest.raises(UserError, match=message) as caught:
        read(values, unit)
    assert "\n" not in str(caught.value)


def test_float32_is_refused_because_it_rounds():
    with pytest.raises(UserError, match="float32 rounds"):
        read([1405296000.0], dtype=pl.Float32)


def test_a_set_unit_takes_any_value():
    assert read(["1", "-2"], unit="s").ticks.tolist() == [1, -2]
    assert read(["2014-07-14T00:00:00Z", "1970-01-01T00:00:01"], unit="iso").seconds().tolist() == [
        1405296000,
        1,
    ]


def test_seconds_are_rounded_down_before_1970():
    assert read([-1], unit="ms").seconds().tolist() == [-1]


FIRST, LAST = 315_532_800, 4_102_444_799  # 1980-01-01, and the last second of 2099


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_the_years_that_are_recognised_begin_with_1980_and_end_before_2100(unit, scale):
    first, last = FIRST * scale, (LAST + 1) * scale - 1
    times = read([first, last])
    assert (times.unit, times.ticks.tolist()) == (unit, [first, last])
    assert times.seconds().tolist() == [FIRST, LAST]
    for value in (first - 1, last + 1):
        with pytest.raises(UserError, match=f"line 3: time '{value}' lies outside .* in {unit}, the unit"):
            read([(first + last) // 2, value])
    column = pl.Series("time", [(first + last) // 2, first, last, first - 1, last + 1])
    assert usable_times(column, "auto").to_list() == [True, True, True, False, False]


def test_so_do_the_years_of_dates():
    assert read(["1980-01-01", "2099-12-31T23:59:59.999999Z"]).seconds().tolist() == [FIRST, LAST]
    for text in ("1979-12-31T23:59:59.999999Z", "2100-01-01T00:00:00Z"):
        with pytest.raises(UserError, match=r"line 3: .* outside the years 1980 to 2100"):
            read(["2014-07-14T00:00:00Z", text])


@pytest.mark.parametrize(
    ("fraction", "micros"),
    [("", 0), (".5", 500_000), (",25", 250_000), (".000001", 1), (".1234567", 123_456)],
)
def test_fractions_of_iso_texts_are_microseconds(fraction, micros):
    times = read([f"2014-07-14T00:00:00{fraction}Z"])
    assert (times.per_second, times.ticks.tolist()) == (10**6, [1405296000 * 10**6 + micros])


def test_numbers_from_2_to_the_53_on_are_not_exact_as_floats():
    assert read([float(2**53 - 1)], "us").ticks.tolist() == [2**53 - 1]
    assert read([1 - float(2**53)], "us").ticks.tolist() == [1 - 2**53]
    for value in (float(2**53), -float(2**53)):
        with pytest.raises(UserError, match="is too large to be exact"):
            read([value], "us")


def test_screening_takes_what_most_cells_are_and_numbers_where_half_are():
    number, date, other = "1405296000", "2014-07-14", "2014-07-15"
    assert usable_times(pl.Series("time", [number, date]), "auto").to_list() == [True, False]
    assert usable_times(pl.Series("time", [number, date, None]), "auto").to_list() == [True, False, False]
    assert usable_times(pl.Series("time", [number, date, other, None]), "auto").to_list() == [
        False,
        True,
        True,
        False,
    ]
