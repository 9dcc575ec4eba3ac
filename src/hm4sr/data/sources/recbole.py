"""Atomic files of RecBole: tab-separated, the header names each column and its type (`title:token_seq`)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import polars as pl

from hm4sr.data.sources.bad_rows import BadRows
from hm4sr.data.sources.base import Columns, Source
from hm4sr.data.sources.delimited import DelimitedParser
from hm4sr.data.sources.lines import LineTable, first_line, read_lines
from hm4sr.data.tables import Table, choose_columns
from hm4sr.errors import UserError

TYPES = ("token", "token_seq", "float", "float_seq")
ALIASES = {
    "title": ("movie_title", "name", "item_name", "business_name", "book_title"),
    "category": ("categories", "genre", "genres", "class"),
    "brand": ("store", "director"),
}
"""What published files call the columns; taken where the usual name is missing and none was given."""


class RecBoleSource(Source):
    """NAME.inter and, beside it, NAME.item."""

    name: ClassVar[str] = "recbole"

    def interactions(self, required: Columns, ids: Sequence[str], bad: BadRows) -> Table:
        """See `Source`."""
        return _read(self.log, required, (), ids, bad)

    def read_items(
        self, file: Path, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows
    ) -> Table:
        """See `Source`."""
        table = _read(file, required, optional, ids, bad)
        lists = [_split(cells) for name, cells in _sequences(file, table).items() if _is_category(name)]
        return replace(table, frame=table.frame.with_columns(lists))


def find_files(folder: Path) -> tuple[Path, Path | None]:
    """The .inter file of a folder and its .item file.

    Raises:
        UserError: there are none or several.
    """
    found = sorted(folder.glob("*.inter"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{folder} should hold one .inter file ({names} found): name it with --interactions.")
    items = found[0].with_suffix(".item")
    return found[0], items if items.exists() else None


def _header(path: Path) -> dict[str, str]:
    """Column to type."""
    cells = first_line(path).decode("utf-8", errors="replace").removeprefix("\ufeff").split("\t")
    columns: dict[str, str] = {}
    for cell in cells:
        name, colon, kind = cell.strip().rpartition(":")
        if not colon or kind not in TYPES:
            raise UserError(
                f"{path}, line 1: {cell[:40]!r} is not a name, a colon and a type ({', '.join(TYPES)}): "
                "check --source."
            )
        columns[name] = kind
    return columns


def _read(
    path: Path, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows
) -> LineTable:
    header = _header(path)
    known = _with_aliases(header)
    wanted = choose_columns(path, list(known), required, optional)
    schema = {}
    for name in dict.fromkeys(known[name] for name in wanted):
        number = header[name] == "float" and name not in ids
        schema[name] = pl.Float64 if number else pl.String
    parser = DelimitedParser(list(header), schema, "\t")
    table = read_lines(path, parser, bad, header=1, ids=ids)
    return replace(table, frame=table.frame.select(pl.col(known[name]).alias(name) for name in wanted))


def _with_aliases(header: Mapping[str, str]) -> dict[str, str]:
    """Name to column: every column under its own name, and the usual names for what lacks them."""
    known = {name: name for name in header}
    for usual, others in ALIASES.items():
        found = [name for name in others if name in header]
        if usual not in known and found:
            known[usual] = found[0]
    return known


def _sequences(path: Path, table: Table) -> dict[str, pl.Series]:
    header = _header(path)
    known = _with_aliases(header)
    return {name: table.frame[name] for name in table.frame.columns if header[known[name]] == "token_seq"}


def _is_category(name: str) -> bool:
    return name == "category" or name in ALIASES["category"]


def _split(cells: pl.Series) -> pl.Series:
    """Names of a cell: divided by commas if there are any (`'Games', 'Toys'`), or else by spaces."""
    column = pl.col(cells.name)
    commas = column.str.strip_chars("[] ").str.split(",")
    names = pl.when(column.str.contains(",", literal=True)).then(commas).otherwise(column.str.split(" "))
    return cells.to_frame().select(names.list.eval(pl.element().str.strip_chars(" '\"")))[cells.name]
