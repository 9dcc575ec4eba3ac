"""The plain source, one table of interactions and one of items; and CSV files read past their bad rows."""

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl

from hm4sr.data.sources.bad_rows import BadRows
from hm4sr.data.sources.base import Columns, Source
from hm4sr.data.sources.lines import LineTable
from hm4sr.data.streams import MAX_LINE, text_lines
from hm4sr.data.tables import Table, choose_columns, column_names, read_table, separator_of
from hm4sr.errors import UserError

_LONGEST_RECORD = 100
"""Lines that one record with quotation marks may span where rows are in doubt."""
_ROWS_AT_ONCE = 100_000


class TableSource(Source):
    """Columns are chosen by name with `--user-column` and the like."""

    name: ClassVar[str] = "table"

    def interactions(self, required: Columns, ids: Sequence[str], bad: BadRows) -> Table:
        """See `Source`."""
        return read_rows(self.log, required, (), ids, bad)

    def read_items(
        self, file: Path, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows
    ) -> Table:
        """See `Source`."""
        return read_rows(file, required, optional, ids, bad)


def read_rows(
    path: Path, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows
) -> Table:
    """Read some columns of a CSV, TSV or Parquet file, past its bad rows if they are to be skipped.

    Args:
        path: the file.
        required: pairs of an option and the column that it asks for.
        optional: columns that may be absent.
        ids: columns to return as Categorical.
        bad: what to do with lines that have too many or too few cells, stray quotation marks, NUL bytes or
            bytes that are not UTF-8.

    Raises:
        UserError: see `hm4sr.data.tables.read_table`.
    """
    try:
        return read_table(path, required, optional, ids)
    except UserError:
        if not bad.skip or separator_of(path) is None:
            raise
    names = column_names(path)
    return read_csv(path, names, choose_columns(path, names, required, optional), ids, bad)


def read_csv(
    path: Path,
    names: Sequence[str],
    wanted: Sequence[str],
    ids: Sequence[str],
    bad: BadRows,
    header: bool = True,
) -> LineTable:
    """Read a CSV or TSV file in Python: slow, but a single bad line costs that line alone.

    Args:
        path: the file.
        names: of its columns.
        wanted: those to return.
        ids: those to return as Categorical.
        bad: what to do with bad lines.
        header: whether the first line is no row.

    Raises:
        UserError: no row is usable, or a line is at fault and bad rows are errors.
    """
    separator = separator_of(path)
    assert separator is not None
    places = [names.index(name) for name in wanted]
    types = {name: pl.Categorical if name in ids else pl.String for name in wanted}
    frames, rows = [], []
    lines: list[int] = []
    records = _records(text_lines(path), separator, len(names))
    if header:
        next(records)
    for line, cells, wrong in records:
        if wrong:
            bad.report(path, f"{path}, line {line}", wrong)
            continue
        lines.append(line)
        rows.append([cells[place] or None for place in places])
        if len(rows) == _ROWS_AT_ONCE:
            frames.append(pl.DataFrame(rows, schema=types, orient="row"))
            rows = []
    frames.append(pl.DataFrame(rows, schema=types, orient="row"))
    if not lines:
        first = bad.examples.get(path, ["it has none"])[0]
        raise UserError(f"{path} has no usable rows (first: {first}): mend it.")
    start = 1 + header
    without_row = np.setdiff1d(np.arange(start, lines[-1] + 1), np.array(lines))
    return LineTable(path, pl.concat(frames), separator, start, without_row.astype(np.int64))


def _records(stream: Iterator[str], separator: str, width: int) -> Iterator[tuple[int, list[str], str]]:
    """First line, cells and what is wrong of each record; a bad one gives its lines back but the first."""
    csv.field_size_limit(2 * MAX_LINE)  # more than a record can have
    pending: deque[str] = deque()
    line = 1
    while True:
        used: list[str] = []

        def take(used: list[str] = used) -> Iterator[str]:
            while len(used) < _LONGEST_RECORD and sum(map(len, used)) <= MAX_LINE:
                text = pending.popleft() if pending else next(stream, "")
                if not text:
                    return
                used.append(text)
                yield text

        cells = next(csv.reader(take(), delimiter=separator), None)
        if cells is None:
            return
        wrong = _what_is_wrong(cells, used, width)
        yield line, cells, wrong
        if wrong:
            pending.extendleft(reversed(used[1:]))
            line += 1
        else:
            line += len(used)


def _what_is_wrong(cells: list[str], used: list[str], width: int) -> str:
    if not cells:
        return "is blank"
    if len(cells) != width:
        return f"has {len(cells)} cells but the header has {width}"
    if any(not cell.isprintable() and any("\udc80" <= mark <= "\udcff" for mark in cell) for cell in cells):
        return "is not UTF-8 text"
    if any("\0" in cell for cell in cells):
        return "holds a NUL byte"
    if sum(text.count('"') for text in used) % 2:
        return "has a stray quotation mark"
    return ""
