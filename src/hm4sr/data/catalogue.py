"""The raw catalogue of items: which exist, their categories, text and pictures."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from hm4sr.data.tables import Table, read_table
from hm4sr.errors import UserError

SEPARATORS = (" > ", "|", ";")
FIELDS = ("title", "category", "brand", "image")


@dataclass(frozen=True)
class Catalogue:
    """A raw items file.

    Attributes:
        table: its needed columns.
        id: name of the column of item ids, which are unique.
        fields: names of the columns of title, category, brand and image, where they exist.
        text_columns: columns that make the text instead of title, categories and brand.
    """

    table: Table
    id: str
    fields: Mapping[str, str]
    text_columns: Sequence[str]

    @property
    def ids(self) -> pl.Series:
        """Item ids in the file's order."""
        return self.table.frame[self.id].cast(pl.String)


def read_catalogue(
    path: Path,
    id_column: str,
    fields: Mapping[str, str],
    explicit: Sequence[str],
    text_columns: Sequence[str],
) -> Catalogue:
    """Read an items file and check its ids.

    Args:
        path: CSV, TSV or Parquet file.
        id_column: column of item ids.
        fields: column of each of `FIELDS`.
        explicit: those of `FIELDS` whose column must exist; the others may be absent.
        text_columns: further columns, which must exist.

    Raises:
        UserError: see `read_table`; an id is empty or occurs twice.
    """
    required = {"--item-column": id_column} | {f"--{name}-column": fields[name] for name in explicit}
    required |= {
        f"--text-columns, number {number},": name for number, name in enumerate(text_columns, start=1)
    }
    table = read_table(path, required, optional=list(fields.values()), ids=[id_column])
    present = {name: column for name, column in fields.items() if column in table.frame.columns}
    catalogue = Catalogue(table, id_column, present, text_columns)
    _check_ids(catalogue)
    return catalogue


def _check_ids(catalogue: Catalogue) -> None:
    table, ids = catalogue.table, catalogue.ids
    empty = ids.fill_null("").str.strip_chars() == ""
    if empty.any():
        row = int(empty.arg_max() or 0)
        raise UserError(f"{table.place(row)}: {catalogue.id} is empty: fill it in or remove the row.")
    again = ~ids.is_first_distinct()
    if again.any():
        row = int(again.arg_max() or 0)
        first = int((ids == ids[row]).arg_max() or 0)
        earlier = table.place(first).removeprefix(f"{table.path}, ")
        raise UserError(
            f"{table.place(row)}: item {ids[row]!r} stands already in {earlier}: keep one of them."
        )


def category_separator(catalogue: Catalogue, setting: str) -> str | None:
    """What divides the names in a category cell: `setting`, or under "auto" the only known one that occurs.

    Returns:
        None where a cell is one category: "none" was set, there are no such cells, none of " > ", "|" and ";"
        occurs, or several of them do; and for columns of lists.
    """
    column = catalogue.fields.get("category")
    if column is None or setting in ("none", "") or catalogue.table.frame[column].dtype != pl.String:
        return None
    if setting != "auto":
        return setting
    cells = catalogue.table.frame[column]
    found = [mark for mark in SEPARATORS if cells.str.contains(mark, literal=True).any()]
    return found[0] if len(found) == 1 else None


def build_items(
    catalogue: Catalogue, ids: pl.Series, separator: str | None, image_root: Path
) -> pl.DataFrame:
    """The items table of a prepared data set.

    Args:
        catalogue: where the items come from; an id that it lacks becomes an item without metadata.
        ids: the items to keep, in the order of their numbers.
        separator: see `category_separator`.
        image_root: folder that the paths of pictures are relative to.

    Returns:
        columns item_id, title, brand, categories (list), text, image; null where something is missing.

    Raises:
        UserError: a picture's path leads out of `image_root` or is not a path.
    """
    frame = catalogue.table.frame.with_row_index("__row").with_columns(__id=catalogue.ids)
    frame = pl.DataFrame({"__id": ids}).join(frame, on="__id", how="left", maintain_order="left")
    columns = {name: _field(frame, catalogue.fields.get(name)) for name in ("title", "brand", "image")}
    categories = _categories(frame, catalogue.fields.get("category"), separator)
    items = pl.DataFrame(
        [
            ids.alias("item_id"),
            columns["title"].alias("title"),
            columns["brand"].alias("brand"),
            categories.alias("categories"),
            _text(frame, catalogue, columns["title"], categories, columns["brand"]).alias("text"),
        ]
    )
    images = _images(columns["image"], frame["__row"], catalogue.table, image_root)
    return items.with_columns(images.alias("image"))


def _clean(cells: pl.Expr) -> pl.Expr:
    stripped = cells.str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def _field(frame: pl.DataFrame, column: str | None) -> pl.Series:
    """A column as stripped strings, empty = null; lists are joined by a space."""
    if column is None:
        return pl.Series([None] * len(frame), dtype=pl.String)
    kind = frame[column].dtype
    cells = (
        pl.col(column).cast(pl.List(pl.String)).list.join(" ")
        if isinstance(kind, pl.List)
        else pl.col(column)
    )
    return frame.select(_clean(cells.cast(pl.String)))[column]


def _categories(frame: pl.DataFrame, column: str | None, separator: str | None) -> pl.Series:
    """Distinct names of each item in the order of the cell; null where there are none."""
    if column is None:
        return pl.Series([None] * len(frame), dtype=pl.List(pl.String))
    if isinstance(frame[column].dtype, pl.List):
        lists = pl.col(column).cast(pl.List(pl.String))
    else:
        cells = pl.col(column).cast(pl.String)
        lists = cells.str.split(separator) if separator else pl.concat_list(cells)
    names = lists.list.eval(_clean(pl.element())).list.drop_nulls().list.unique(maintain_order=True)
    return frame.select(pl.when(names.list.len() > 0).then(names).alias(column))[column]


def _text(
    frame: pl.DataFrame, catalogue: Catalogue, title: pl.Series, categories: pl.Series, brand: pl.Series
) -> pl.Series:
    """`title. categories brand.` (paper, 5.1.1) or `column. column.`, with what is missing left out."""
    names = categories.list.join(" ")
    if catalogue.text_columns:
        category = catalogue.fields.get("category")
        sentences = [names if c == category else _field(frame, c) for c in catalogue.text_columns]
    else:
        rest = pl.concat_str(names.alias("c"), brand.alias("b"), separator=" ", ignore_nulls=True)
        sentences = [title, pl.select(_clean(rest)).to_series()]
    parts = pl.DataFrame([cells.alias(str(number)) for number, cells in enumerate(sentences)])
    ended = [pl.col(name) + "." for name in parts.columns]
    return parts.select(_clean(pl.concat_str(ended, separator=" ", ignore_nulls=True)).alias("text"))["text"]


def _images(paths: pl.Series, rows: pl.Series, table: Table, root: Path) -> pl.Series:
    """Paths relative to `root`, with forward slashes."""
    relative: list[str | None] = []
    for index, path in enumerate(paths.to_list()):
        if path is None:
            relative.append(None)
            continue
        if "://" in path:
            message = f"{path!r} is a web address: download the pictures and give their paths"
            raise UserError(f"{table.place(rows[index])}: {message}.")
        inside = Path(
            os.path.relpath(root / path, root) if Path(path).is_absolute() else os.path.normpath(path)
        )
        if inside.is_absolute() or ".." in inside.parts:
            message = (
                f"picture {path!r} lies outside {root}: set --image-root to a folder that holds all pictures"
            )
            raise UserError(f"{table.place(rows[index])}: {message}.")
        relative.append(inside.as_posix())
    return pl.Series(relative, dtype=pl.String)
