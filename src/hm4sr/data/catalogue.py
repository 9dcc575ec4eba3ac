"""The raw catalogue of items: which exist, their categories, text and pictures."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from hm4sr.data.sources.bad_rows import BadRows
from hm4sr.data.sources.base import Source
from hm4sr.data.sources.lines import BadLineError
from hm4sr.data.sources.records import parse_literal
from hm4sr.data.sources.screening import screen_items
from hm4sr.data.tables import Table
from hm4sr.errors import UserError

SEPARATORS = (" > ", "|", ";")
FIELDS = ("title", "category", "brand", "image", "image_url")
OTHER_NAMES = {"title": ("name",), "category": ("categories", "genres", "genre"), "image": ("image",)}
"""Columns that are taken for a field where nobody has named one and the usual one is absent."""


@dataclass(frozen=True)
class Catalogue:
    """A raw items file.

    Attributes:
        table: its needed columns, each of strings or of lists of strings.
        id: name of the column of item ids, which are unique.
        fields: names of the columns of those of `FIELDS` that exist.
        text_columns: columns that make the text instead of title, categories and brand.
    """

    table: Table
    id: str
    fields: Mapping[str, str]
    text_columns: Sequence[str]

    @property
    def ids(self) -> pl.Series:
        """Item ids in the file's order."""
        return self.table.frame[self.id]


def read_catalogue(
    source: Source,
    bad: BadRows,
    id_column: str,
    fields: Mapping[str, str],
    explicit: Sequence[str],
    text_columns: Sequence[str],
    known: pl.Series | None = None,
) -> Catalogue:
    """Read the items of a source and check their ids.

    Args:
        source: where the items come from.
        bad: what to do with items that cannot be used.
        id_column: column of item ids.
        fields: column of each of `FIELDS`.
        explicit: those of `FIELDS` whose column must exist; the others may be absent.
        text_columns: further columns, which must exist.
        known: ids of the interactions' items, for a source without a file of items.

    Raises:
        UserError: see `Source.items`; an id is empty or occurs twice.
    """
    required = [("--items-id-column", id_column), *((f"--{name}-column", fields[name]) for name in explicit)]
    required += [("--text-columns", column) for column in text_columns]
    if source.items_file is None:
        assert known is not None
        table = source.bare_items(known, required)
    else:
        wanted = [*fields.values(), *(other for name in fields for other in _others(name, explicit))]
        table = source.items(required, list(dict.fromkeys(wanted)), [id_column], bad)
    if bad.skip:
        table = screen_items(table, id_column, bad)
    taken = {id_column, *fields.values()}
    present = {}
    for name, column in fields.items():
        others = [other for other in _others(name, explicit) if other not in taken]
        found = [known for known in (column, *others) if known in table.frame.columns]
        if found:
            present[name] = found[0]
    _refuse_bytes(table, {name: present[name] for name in ("image", "image_url") if name in present})
    frame = table.frame.with_columns(_as_text(table, column) for column in table.frame.columns)
    if "category" in present:
        frame = frame.with_columns(_written_lists(frame[present["category"]]))
    catalogue = Catalogue(replace(table, frame=frame), id_column, present, text_columns)
    _check_ids(catalogue)
    return catalogue


def _others(name: str, explicit: Sequence[str]) -> Sequence[str]:
    return () if name in explicit else OTHER_NAMES.get(name, ())


def _refuse_bytes(table: Table, columns: Mapping[str, str]) -> None:
    """Bytes may be a text, but in a column of pictures they are the pictures themselves."""
    for name, column in columns.items():
        kind: pl.DataType | None = table.frame[column].dtype
        while kind is not None and (inner := _element(kind)) is not None:
            kind = inner
        if kind == pl.Binary:
            what = "addresses" if name == "image_url" else "paths"
            raise UserError(
                f"{table.path}: {column} is of type {table.frame[column].dtype}: write the {what} of the "
                f"pictures as text, or name another column with --{name.replace('_', '-')}-column."
            )


def _as_text(table: Table, column: str) -> pl.Series:
    """A column as strings or as lists of strings; lists of lists, such as paths of categories, end to end."""
    cells = table.frame[column]
    try:
        inner = _element(cells.dtype)
        while inner is not None and (innermost := _element(inner)) is not None:
            cells = cells.cast(pl.List(pl.List(innermost))).list.eval(pl.element().explode())
            inner = innermost
        if isinstance(inner or cells.dtype, pl.Struct):
            raise pl.exceptions.InvalidOperationError("a record is no text")
        return cells.cast(pl.String if inner is None else pl.List(pl.String))
    except pl.exceptions.PolarsError as error:
        what = f"{column} is of type {table.frame[column].dtype}"
        raise UserError(f"{table.path}: {what}: write it as text or as lists of text.") from error


def _element(kind: pl.DataType) -> pl.DataType | None:
    """Type of what is in a list or array; None for other types."""
    inner = kind.inner if isinstance(kind, pl.List | pl.Array) else None
    return None if inner is None else inner if isinstance(inner, pl.DataType) else inner()


def _written_lists(cells: pl.Series) -> pl.Series:
    """Lists that a CSV file holds as text, `["Games", "Toys"]` as JSON or Python writes them, as lists.

    Only where all cells that are not empty are such: then none can be the name of a category.
    """
    if cells.dtype != pl.String:
        return cells
    texts = cells.str.strip_chars().replace("", None)
    if not texts.count() or not texts.drop_nulls().str.contains(r"(?s)^\[.*\]$").all():
        return cells
    lists = {text: _names(text) for text in texts.drop_nulls().unique()}
    if any(names is None for names in lists.values()):
        return cells
    found = [None if text is None else lists[text] for text in texts.to_list()]
    return pl.Series(cells.name, found, dtype=pl.List(pl.String))


def _names(text: str) -> list[str] | None:
    """The texts in a written list, inner lists end to end; None if it is no list of texts."""
    try:
        pending = [json.loads(text)]
    except (ValueError, RecursionError):
        try:
            pending = [parse_literal(text)]
        except BadLineError:
            return None
    names: list[str] = []
    while pending:
        value = pending.pop()
        if isinstance(value, list | tuple):
            pending.extend(reversed(value))
        elif isinstance(value, str):
            names.append(value)
        elif value is not None:
            return None
    return names


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


def category_separator(catalogue: Catalogue, setting: str) -> tuple[str | None, list[str]]:
    """What divides the names in a category cell: `setting`, or under "auto" the only known one that occurs.

    Returns:
        the separator, None where a cell is one category (or a list of them); and those of `SEPARATORS` that
        were seen under "auto": if there are several, none is taken.
    """
    column = catalogue.fields.get("category")
    if column is None or setting in ("none", "") or catalogue.table.frame[column].dtype != pl.String:
        return None, []
    if setting != "auto":
        return setting, []
    cells = catalogue.table.frame[column]
    seen = [mark for mark in SEPARATORS if cells.str.contains(mark, literal=True).any()]
    return (seen[0] if len(seen) == 1 else None), seen


def count_missing_pictures(images: pl.Series, root: str | None) -> int:
    """How many of the paths of an items table lead to no file below `root`."""
    return sum(not Path(root or "", path).is_file() for path in images.drop_nulls().to_list())


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
        columns item_id, title, brand, categories (list, maybe empty), text, image, and image_url where the
        catalogue has it; a missing text is null.

    Raises:
        UserError: a picture's path leads out of `image_root` or is not a path.
    """
    frame = catalogue.table.frame.with_row_index("__row").with_columns(__id=catalogue.ids)
    frame = pl.DataFrame({"__id": ids}).join(frame, on="__id", how="left", maintain_order="left")
    columns = {name: _field(frame, catalogue.fields.get(name)) for name in ("title", "brand")}
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
    pictures = _first(frame, catalogue.fields.get("image"))
    images = _images(pictures, frame["__row"], catalogue.table, image_root)
    items = items.with_columns(images.alias("image"))
    if "image_url" in catalogue.fields:
        items = items.with_columns(_first(frame, catalogue.fields["image_url"]).alias("image_url"))
    return items


def cleaned(cells: pl.Expr) -> pl.Expr:
    """Texts without the space around them; those that are nothing else are null."""
    stripped = cells.str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def _field(frame: pl.DataFrame, column: str | None) -> pl.Series:
    """A column as stripped strings, empty = null; lists are joined by a space."""
    if column is None:
        return pl.Series([None] * len(frame), dtype=pl.String)
    cells = pl.col(column)
    if isinstance(frame[column].dtype, pl.List):
        cells = cells.list.join(" ", ignore_nulls=True)
    return frame.select(cleaned(cells))[column]


def _first(frame: pl.DataFrame, column: str | None) -> pl.Series:
    """As `_field`, but of a list the first text that is not empty: an item has one picture."""
    if column is None or not isinstance(frame[column].dtype, pl.List):
        return _field(frame, column)
    texts = pl.col(column).list.eval(cleaned(pl.element())).list.drop_nulls()
    return frame.select(texts.list.first())[column]


def _categories(frame: pl.DataFrame, column: str | None, separator: str | None) -> pl.Series:
    """Distinct names of each item in the order of the cell; an empty list where there are none."""
    if column is None:
        return pl.Series([[]] * len(frame), dtype=pl.List(pl.String))
    lists = pl.col(column)
    if not isinstance(frame[column].dtype, pl.List):
        lists = lists.str.split(separator) if separator else pl.concat_list(lists)
    names = lists.list.eval(cleaned(pl.element())).list.drop_nulls().list.unique(maintain_order=True)
    return frame.select(names.fill_null(pl.lit([], dtype=pl.List(pl.String))))[column]


def _text(
    frame: pl.DataFrame, catalogue: Catalogue, title: pl.Series, categories: pl.Series, brand: pl.Series
) -> pl.Series:
    """`title. categories brand.` (paper, 5.1.1) or `column. column.`, with what is missing left out."""
    names = pl.select(cleaned(pl.lit(categories).list.join(" "))).to_series()
    if catalogue.text_columns:
        category = catalogue.fields.get("category")
        sentences = [names if c == category else _field(frame, c) for c in catalogue.text_columns]
    else:
        rest = pl.concat_str(names.alias("c"), brand.alias("b"), separator=" ", ignore_nulls=True)
        sentences = [title, pl.select(cleaned(rest)).to_series()]
    parts = pl.DataFrame([cells.alias(str(number)) for number, cells in enumerate(sentences)])
    ended = [pl.col(name) + "." for name in parts.columns]
    return parts.select(cleaned(pl.concat_str(ended, separator=" ", ignore_nulls=True)).alias("text"))["text"]


def _images(paths: pl.Series, rows: pl.Series, table: Table, root: Path) -> pl.Series:
    """Paths relative to `root`, with forward slashes."""
    relative: list[str | None] = []
    for row, path in zip(rows.to_list(), paths.to_list(), strict=True):
        inside = None if path is None else _below(path, root)
        if path is not None and inside is None:
            if "://" in path:
                what, advice = "is a web address", "name its column with --image-url-column instead"
            else:
                what, advice = f"lies outside {root}", "set --image-root to a folder that holds all pictures"
            raise UserError(f"{table.place(row)}: picture {path!r} {what}: {advice}.")
        relative.append(inside)
    return pl.Series(relative, dtype=pl.String)


def _below(path: str, root: Path) -> str | None:
    """The path relative to `root`, or None if it lies outside or is a web address."""
    if "://" in path:
        return None
    if Path(path).is_absolute():
        place = Path(path)
        path = os.path.relpath(place.parent.resolve() / place.name, root)
    inside = Path(os.path.normpath(path))
    return None if ".." in inside.parts else inside.as_posix()
