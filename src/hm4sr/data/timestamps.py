"""Columns of timestamps, recognised as a whole and never guessed silently."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.errors import UserError

Unit = Literal["s", "ms", "us", "ns", "iso"]
TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "iso": 10**6}
_FIRST_SECOND = 315_532_800  # 1980-01-01
_LAST_SECOND = 4_102_444_800  # 2100-01-01
_ISO = (
    r"^(?<date>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?<hour>\d{2}):(?<minute>\d{2})(?::(?<second>\d{2})(?:[.,](?<fraction>\d{1,9}))?)?"
    r" ?(?<zone>[Zz]|UTC|[+-]\d{2}(?::?\d{2})?)?)?$"
)
_DECIMAL = r"^\s*[+-]?[0-9]+(?:\.[0-9]*)?\s*$"
_WHOLE = r"^\s*[+-]?[0-9]+(?:\.0*)?\s*$"
_TOO_LARGE = ("is too large, it does not fit into 64 bits", "write seconds, ms, us or ns since 1970")
_CHUNK = 200_000


@dataclass(frozen=True)
class Times:
    """Moments as integers at the resolution in which they were written.

    Attributes:
        ticks: time since 1970 in units of 1 / `per_second` seconds.
        per_second: ticks in a second.
        unit: what was recognised.
    """

    ticks: NDArray[np.int64]
    per_second: int
    unit: Unit

    def seconds(self) -> NDArray[np.int64]:
        """Whole seconds since 1970, rounded down."""
        return self.ticks if self.per_second == 1 else self.ticks // self.per_second


def read_times(column: pl.Series, unit: TimeUnit, place: Callable[[int], str]) -> Times:
    """Turn a column into moments.

    Args:
        column: strings, integers, floats, dates or datetimes; fractions of seconds and milliseconds are kept.
        unit: unit of the numbers, `iso` for dates as written, or `auto` to decide from the whole column: the
            one unit in which every value lies in the years 1980 to 2100.
        place: says where a row stands, for error messages.

    Raises:
        UserError: a cell is empty or no timestamp, units are mixed, or a value is implausible under `auto`.
    """
    assert unit in get_args(TimeUnit)
    reader = _Reader(column, unit, place)
    blank = column.is_null()
    if column.dtype == pl.String:
        blank |= column == ""
    reader.refuse(blank, "is empty", "fill it in or remove the row")
    return reader.read()


class _Reader:
    def __init__(self, column: pl.Series, unit: TimeUnit, place: Callable[[int], str]):
        self.column, self.unit, self.place = column, unit, place

    def refuse(self, wrong: pl.Series, what: str, advice: str) -> None:
        """Raise with the place and the value of the first row that is wrong."""
        if wrong.any():
            row = int(wrong.fill_null(False).arg_max() or 0)
            value = self.column[row]
            shown = "" if value is None or value == "" else f" {str(value)[:40]!r}"
            raise UserError(f"{self.place(row)}: {self.column.name}{shown} {what}: {advice}.")

    def read(self) -> Times:
        kind = self.column.dtype
        if kind == pl.Date or isinstance(kind, pl.Datetime):
            return self._calendar(self.column.cast(pl.Datetime("us")) if kind == pl.Date else self.column)
        if kind == pl.String:
            return self._texts()
        if kind.is_integer():
            numbers = self.column.cast(pl.Int64, strict=False)
            self.refuse(numbers.is_null(), *_TOO_LARGE)
            return self._numbers(numbers)
        if kind == pl.Float64:
            return self._floats(self.column)
        hint = "float32 rounds to minutes, " if kind == pl.Float32 else ""
        message = f"is of type {kind}, {hint}which is no timestamp"
        raise UserError(f"{self.place(0)}: {self.column.name} {message}: write integers or ISO dates.")

    def _texts(self) -> Times:
        numbers = self.column.cast(pl.Int64, strict=False)
        if numbers.null_count() and self.column.str.contains(r"^\s*[+-]?[0-9]+\.0*\s*$").any():
            # Decimals of integral values are cut off as text: a float would round integers above 2^53.
            cut = self.column.str.strip_chars().str.replace(r"^([+-]?[0-9]+)\.0*$", "$1")
            numbers = cut.cast(pl.Int64, strict=False)
        if numbers.null_count() and self.column.str.contains(_DECIMAL).all():
            return self._floats(self.column.str.strip_chars().cast(pl.Float64))
        failed = numbers.null_count()
        if self.unit == "iso" or (self.unit == "auto" and failed == len(numbers)):
            return self._iso()
        if self.unit == "auto" and failed:
            dates = self.column.str.contains(r"^\s*\d{4}-\d{2}-\d{2}")
            if dates.any():
                minority = dates if int(dates.sum()) * 2 <= len(dates) else ~dates
                self.refuse(
                    minority, "is written unlike the rest (dates and numbers are mixed)", "unify the column"
                )
        self.refuse(numbers.is_null() & self.column.str.contains(_WHOLE), *_TOO_LARGE)
        self.refuse(
            numbers.is_null(), "is not a whole number", "mend the value, or set --time-unit iso for dates"
        )
        return self._numbers(numbers)

    def _floats(self, values: pl.Series) -> Times:
        """Fractions of seconds and milliseconds are kept, as microseconds: they tell the order."""
        if self.column.dtype != pl.String:  # digits that give infinity are too many
            self.refuse(~values.is_finite(), "is not a whole number", "write timestamps as integers")
        self.refuse(values.abs() >= 2**63, *_TOO_LARGE)
        what = "is too large to be exact as a number with decimals"
        self.refuse(values.abs() >= 2**53, what, "write all timestamps as integers")
        fractional = values != values.floor()
        if not fractional.any():
            return self._numbers(values.cast(pl.Int64))
        whole = self._numbers(values.floor().cast(pl.Int64))
        if whole.unit in ("us", "ns"):
            self.refuse(fractional, "is not a whole number", "write timestamps as integers")
        finer = _PER_SECOND["us"] // whole.per_second
        ticks = whole.ticks * finer + ((values - values.floor()) * finer).floor().cast(pl.Int64).to_numpy()
        return Times(ticks, _PER_SECOND["us"], whole.unit)

    def _numbers(self, numbers: pl.Series) -> Times:
        if self.unit == "iso":
            self.refuse(
                numbers.is_not_null(), "is a number, not a date", "set --time-unit to s, ms, us or ns"
            )
        unit: Unit = self._plausible_unit(numbers) if self.unit == "auto" else self.unit
        return Times(numbers.to_numpy(), _PER_SECOND[unit], unit)

    def _plausible_unit(self, numbers: pl.Series) -> Unit:
        low, high = numbers.min(), numbers.max()
        counts: dict[Unit, int] = {}
        for unit in ("s", "ms", "us", "ns"):
            first, last = _FIRST_SECOND * _PER_SECOND[unit], _LAST_SECOND * _PER_SECOND[unit]
            if first <= low and high < last:  # type: ignore[operator]
                return unit
            counts[unit] = int(numbers.is_between(first, last - 1).sum())
        common = max(counts, key=lambda unit: counts[unit])
        if not counts[common]:
            if low >= 19_800_101 and high <= 21_001_231:  # type: ignore[operator]
                what = "looks like a date written as one number"
                self.refuse(numbers.is_not_null(), what, "write 2014-07-23 instead of 20140723")
            what = "lies outside the years 1980 to 2100 as s, ms, us and ns"
            self.refuse(numbers.is_not_null(), what, "set --time-unit if it is right")
        first, last = _FIRST_SECOND * _PER_SECOND[common], _LAST_SECOND * _PER_SECOND[common]
        what = f"lies outside the years 1980 to 2100 in {common}, the unit of {counts[common]:,} other rows"
        self.refuse(
            ~numbers.is_between(first, last - 1), what, f"mend it, or set --time-unit {common} if it is right"
        )
        raise AssertionError("unreachable")

    def _calendar(self, moments: pl.Series) -> Times:
        if self.unit not in ("auto", "iso"):
            self.refuse(moments.is_not_null(), "is a date, not a number", "set --time-unit iso or auto")
        unit = moments.dtype.time_unit  # type: ignore[attr-defined]
        ticks = moments.dt.timestamp(unit).to_numpy()
        return self._within_years(Times(ticks, _PER_SECOND[unit], "iso"))

    def _iso(self) -> Times:
        step = range(0, len(self.column), _CHUNK)
        chunks = [_parse_iso(self.column.slice(start, _CHUNK)) for start in step]
        ticks = pl.concat([chunk["ticks"] for chunk in chunks])
        advice = "write 2014-07-23 or 2014-07-23T10:15:00Z, or seconds"
        self.refuse(ticks.is_null(), "is neither an ISO date nor a whole number of 64 bits", advice)
        if self.unit == "auto":
            naive = pl.concat([chunk["naive"] for chunk in chunks])
            zoned = pl.concat([chunk["zoned"] for chunk in chunks])
            if naive.any() and zoned.any():
                what = "has no UTC offset although other rows have one"
                self.refuse(naive, what, "add it, or set --time-unit iso to read such rows as UTC")
        return self._within_years(Times(ticks.to_numpy(), _PER_SECOND["iso"], "iso"))

    def _within_years(self, times: Times) -> Times:
        if self.unit == "auto":
            first, last = _FIRST_SECOND * times.per_second, _LAST_SECOND * times.per_second
            wrong = pl.Series((times.ticks < first) | (times.ticks >= last))
            what = "lies outside the years 1980 to 2100"
            self.refuse(wrong, what, "mend it, or set --time-unit iso if it is right")
        return times


def _parse_iso(texts: pl.Series) -> pl.DataFrame:
    """Columns ticks (microseconds since 1970; null if unreadable), naive and zoned (a date is neither)."""
    parts = texts.str.strip_chars().str.extract_groups(_ISO).struct.unnest()
    number = {name: pl.col(name).cast(pl.Int64).fill_null(0) for name in ("hour", "minute", "second")}
    zone = pl.col("zone")
    hours = zone.str.slice(1, 2).cast(pl.Int64, strict=False).fill_null(0)
    minutes = zone.str.slice(3).str.strip_chars_start(":").cast(pl.Int64, strict=False).fill_null(0)
    offset = (hours * 60 + minutes) * pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)
    micros = pl.col("fraction").fill_null("").str.pad_end(6, "0").str.slice(0, 6).cast(pl.Int64)
    seconds = number["hour"] * 3600 + (number["minute"] - offset) * 60 + number["second"]
    possible = (number["hour"] < 24) & (number["minute"] < 60) & (number["second"] < 60)
    possible &= (hours < 24) & (minutes < 60)
    day = pl.col("date").str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)
    ticks = pl.when(possible).then((day * 86_400 + seconds) * 1_000_000 + micros)
    return parts.select(
        ticks=ticks,
        naive=pl.col("hour").is_not_null() & zone.is_null(),
        zoned=zone.is_not_null(),
    )


def usable_times(column: pl.Series, unit: TimeUnit) -> pl.Series:
    """Whether each cell is a timestamp like most of the others, so that `read_times` takes what is left."""
    kind = column.dtype
    if kind == pl.String:
        numbers = (
            column.str.strip_chars().str.replace(r"^([+-]?[0-9]+)\.0*$", "$1").cast(pl.Int64, strict=False)
        )
        if (numbers.is_null() & column.str.contains(_DECIMAL).fill_null(False)).any():
            numbers = _floors(column.str.strip_chars().cast(pl.Float64, strict=False))
        digits = numbers.is_not_null()
        if unit == "iso" or (unit == "auto" and int(digits.sum()) * 2 < len(column) - column.null_count()):
            return _parse_iso(column.fill_null(""))["ticks"].is_not_null()
    elif kind.is_integer():
        numbers = column.cast(pl.Int64, strict=False)
    elif kind == pl.Float64:
        numbers = _floors(column)
    else:
        return column.is_not_null()
    if unit != "auto":
        return numbers.is_not_null()
    scales = [_PER_SECOND[scale] for scale in ("s", "ms", "us", "ns")]
    plausible = [
        numbers.is_between(_FIRST_SECOND * scale, _LAST_SECOND * scale - 1).fill_null(False)
        for scale in scales
    ]
    return max(plausible, key=lambda usable: int(usable.sum()))


def _floors(values: pl.Series) -> pl.Series:
    """Floats as whole numbers, null where one is none."""
    usable = (values.is_finite() & (values.abs() < 2**53)).fill_null(False)
    return pl.select(pl.when(usable).then(values.floor()).cast(pl.Int64)).to_series()
