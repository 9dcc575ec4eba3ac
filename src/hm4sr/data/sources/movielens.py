"""MovieLens (GroupLens) as its archives unpack: 100K, 1M (and 10M), latest (and 20M, 25M, 32M)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import polars as pl

from hm4sr.data.sources.bad_rows import BadRows
from hm4sr.data.sources.base import Columns, Source
from hm4sr.data.sources.delimited import DelimitedParser
from hm4sr.data.sources.lines import read_lines
from hm4sr.data.sources.table import read_rows
from hm4sr.data.streams import is_utf8
from hm4sr.data.tables import Table, choose_columns, column_names
from hm4sr.errors import UserError

_RATINGS = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}
_ITEMS = ["item_id", "title", "category"]
_FLAGS = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|"
    "Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
GENRES = tuple(_FLAGS.split("|"))
"""The flags at the end of a line of u.item, in order; "unknown" is no category."""


class _Ratings(Source):
    """A folder with one file of ratings and one of films, neither with a header."""

    log_name: ClassVar[str]
    items_name: ClassVar[str]
    separator: ClassVar[str]

    def interactions(self, required: Columns, ids: Sequence[str], bad: BadRows) -> Table:
        """See `Source`."""
        wanted = choose_columns(self.log, list(_RATINGS), required, ())
        schema = {name: _RATINGS[name] for name in wanted}
        return read_lines(self.log, DelimitedParser(list(_RATINGS), schema, self.separator), bad, ids=ids)


class MovieLens100K(_Ratings):
    """u.data and u.item of ml-100k."""

    name, log_name, items_name, separator = "movielens-100k", "u.data", "u.item", "\t"

    def read_items(
        self, file: Path, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows
    ) -> Table:
        """See `Source`."""
        wanted = choose_columns(file, _ITEMS, required, optional)
        names = ["item_id", "title", "release", "video", "address", *GENRES]
        schema = dict.fromkeys(["item_id", "title", *GENRES], pl.String)
        table = read_lines(file, DelimitedParser(names, schema, "|", "latin-1"), bad, ids=ids)
        flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES[1:]]
        category = pl.concat_list(flags).list.drop_nulls().alias("category")
        return replace(table, frame=table.frame.with_columns(category).select(wanted))


class MovieLens1M(_Ratings):
    """ratings.dat and movies.dat of ml-1m (and of ml-10m)."""

    name, log_name, items_name, separator = "movielens-1m", "ratings.dat", "movies.dat", "::"

    def read_items(
        self, file: Path, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows
    ) -> Table:
        """See `Source`."""
        wanted = choose_columns(file, _ITEMS, required, optional)
        parser = DelimitedParser(_ITEMS, dict.fromkeys(wanted, pl.String), "::", _encoding(file))
        return _with_genres(read_lines(file, parser, bad, ids=ids))


class MovieLensLatest(Source):
    """ratings.csv and movies.csv, with headers and quotation marks."""

    name: ClassVar[str] = "movielens-latest"
    log_name: ClassVar[str] = "ratings.csv"
    items_name: ClassVar[str] = "movies.csv"

    def interactions(self, required: Columns, ids: Sequence[str], bad: BadRows) -> Table:
        """See `Source`."""
        columns = {"user_id": "userId", "item_id": "movieId", "rating": "rating", "timestamp": "timestamp"}
        return read_renamed(self.log, columns, required, (), ids, bad)

    def read_items(
        self, file: Path, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows
    ) -> Table:
        """See `Source`."""
        columns = {"item_id": "movieId", "title": "title", "category": "genres"}
        return _with_genres(read_renamed(file, columns, required, optional, ids, bad))


def read_renamed(
    path: Path,
    columns: dict[str, str],
    required: Columns,
    optional: Sequence[str],
    ids: Sequence[str],
    bad: BadRows,
) -> Table:
    """Some columns of a CSV file under the names that sources give them.

    Args:
        path: the file.
        columns: name to the column of the file.
        required: see `Source.items`.
        optional: see `Source.items`.
        ids: see `Source.items`.
        bad: see `Source.items`.

    Raises:
        UserError: a column is missing, or see `read_rows`.
    """
    missing = [column for column in columns.values() if column not in column_names(path)]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}: check that it is what --source says.")
    wanted = choose_columns(path, list(columns), required, optional)
    pairs = [("--source", columns[name]) for name in wanted]
    table = read_rows(path, pairs, (), [columns[name] for name in wanted if name in ids], bad)
    return replace(table, frame=table.frame.rename({columns[name]: name for name in wanted}))


def _with_genres(table: Table) -> Table:
    """Genres divided by | as lists."""
    if "category" not in table.frame.columns:
        return table
    genres = pl.col("category").replace("(no genres listed)", None).str.split("|")
    return replace(table, frame=table.frame.with_columns(genres))


def _encoding(file: Path) -> str:
    """1M is in latin-1, 10M in UTF-8."""
    try:
        return "utf-8" if is_utf8(file) else "latin-1"
    except UserError:
        return "utf-8"  # what is wrong is said better when it is read
