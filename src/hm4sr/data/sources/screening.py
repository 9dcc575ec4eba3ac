"""Cells that make a row useless, found before the strict readers meet them: for `--bad-rows skip`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.data.sources.bad_rows import BadRows
from hm4sr.data.tables import Table
from hm4sr.data.timestamps import TimeUnit, usable_times
from hm4sr.errors import UserError


@dataclass(frozen=True)
class Sieve(Table):
    """Some rows of a table.

    Attributes:
        whole: the table, without its cells, to say where a row stands.
        rows: row numbers in the table of the rows kept.
    """

    whole: Table
    rows: NDArray[np.int64]

    def places(self, rows: Sequence[int]) -> list[str]:
        """Where rows (from 0) stand in the file."""
        return self.whole.places([int(self.rows[row]) for row in rows])


def keep_rows(table: Table, kept: pl.Series) -> Table:
    """The rows of a table that a mask selects; they still know where they stand."""
    if kept.all():
        return table
    frame = table.frame.filter(kept)
    rows = kept.arg_true().to_numpy().astype(np.int64)
    return Sieve(table.path, frame, table.separator, replace(table, frame=table.frame.clear()), rows)


def screen_interactions(
    table: Table, user: str, item: str, time: str, rating: str | None, unit: TimeUnit, bad: BadRows
) -> Table:
    """Leave out, and report, interactions without ids, with an unreadable time or an unreadable rating."""
    reasons = {user: _blank(table.frame[user]), item: _blank(table.frame[item])}
    reasons[time] = ~usable_times(table.frame[time], unit)
    if rating is not None:
        cells = table.frame[rating]
        if cells.dtype.is_numeric() or cells.dtype == pl.String:
            numbers = cells.cast(pl.Float64, strict=False)
            reasons[rating] = (numbers.is_null() | ~numbers.is_finite()).fill_null(True)
    return _leave_out(table, reasons, bad)


def screen_items(table: Table, id_column: str, bad: BadRows) -> Table:
    """Leave out, and report, items without an id and all but the first of those that share one."""
    table = _leave_out(table, {id_column: _blank(table.frame[id_column])}, bad)
    again = ~table.frame[id_column].is_first_distinct()
    return _leave_out(table, {f"a second row of an item: {id_column}": again}, bad, id_column)


def first_of_each(table: Table, id_column: str, bad: BadRows) -> Table:
    """Keep the first row of each item and count the others, for data known to repeat itself."""
    first = table.frame[id_column].is_first_distinct() | table.frame[id_column].is_null()
    if not first.all():
        bad.repeated[table.path] = int((~first).sum())
    return keep_rows(table, first)


def _blank(cells: pl.Series) -> pl.Series:
    texts = cells.unique()
    blank = texts.filter(texts.cast(pl.String).str.strip_chars().fill_null("") == "")
    return cells.is_null() | cells.is_in(blank.implode()) if len(blank) else cells.is_null()


def _leave_out(table: Table, reasons: dict[str, pl.Series], bad: BadRows, show: str | None = None) -> Table:
    """The rows without any of the reasons.

    Raises:
        UserError: none is left.
    """
    kept = pl.Series(np.ones(len(table.frame), dtype=np.bool_))
    for what, wrong in reasons.items():
        wrong = wrong & kept
        rows = wrong.arg_true().head(max(1, bad.room(table.path))).to_list()
        cells = [_shown(table.frame[show or what][row]) for row in rows]
        examples = [
            (place, f"has {what} {cell}") for place, cell in zip(table.places(rows), cells, strict=True)
        ]
        bad.report_many(table.path, int(wrong.sum()), examples)
        kept &= ~wrong
    if not kept.any():
        raise UserError(
            f"{table.path} has no usable rows (first: {bad.examples[table.path][0]}): check that it is the "
            "right file, and the names of its columns."
        )
    return keep_rows(table, kept)


def _shown(value: Any) -> str:
    return "empty" if value is None or str(value).strip() == "" else repr(str(value)[:40])
