"""Amazon reviews of 2014, 2018 and 2023 (McAuley's group): reviews, or ratings alone, and product metadata.

    2014  reviews_NAME.json.gz, meta_NAME.json.gz   JSON or a Python literal a line
    2018  NAME.json.gz, meta_NAME.json.gz           JSON lines; titles and categories hold bits of web pages
    2023  NAME.jsonl.gz, meta_NAME.jsonl.gz         JSON lines; timestamps in milliseconds

Ratings alone are CSV files: without a header in 2014 (user, item, rating, time) and 2018 (item, user, rating,
time), with one in 2023.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from hm4sr.data.sources.bad_rows import BadRows
from hm4sr.data.sources.base import Columns, Source
from hm4sr.data.sources.delimited import DelimitedParser
from hm4sr.data.sources.lines import LineTable, first_line, read_lines
from hm4sr.data.sources.records import RecordParser
from hm4sr.data.sources.screening import first_of_each
from hm4sr.data.tables import Table, choose_columns
from hm4sr.errors import UserError

_TEXTS = pl.List(pl.String)
_ASIN = re.compile(r"B0[0-9A-Z]{8}|[0-9]{9}[0-9X]")
_PICTURE = pl.Struct({"large": pl.String, "hi_res": pl.String, "thumb": pl.String})
_LOG = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}


@dataclass(frozen=True)
class Edition:
    """What the fields of one edition are called, and of what type they are.

    Attributes:
        log: column to field of the reviews.
        ratings: columns of the ratings alone.
        header: whether the ratings alone have a header.
        items: column to the fields of the metadata that it is made of; the first one with a value counts.
        types: type of each field of the metadata that is not a text.
        literals: whether lines may be Python literals.
    """

    log: dict[str, str]
    ratings: tuple[str, ...]
    header: bool
    items: dict[str, tuple[str, ...]]
    types: dict[str, Any]
    literals: bool = False


_REVIEW = {
    "user_id": "reviewerID",
    "item_id": "asin",
    "rating": "overall",
    "timestamp": "unixReviewTime",
}
EDITIONS = {
    "2014": Edition(
        log=_REVIEW,
        ratings=("user_id", "item_id", "rating", "timestamp"),
        header=False,
        items={
            "item_id": ("asin",),
            "title": ("title",),
            "category": ("categories",),
            "brand": ("brand",),
            "image_url": ("imUrl",),
            "description": ("description",),
        },
        types={"categories": pl.List(_TEXTS)},
        literals=True,
    ),
    "2018": Edition(
        log=_REVIEW,
        ratings=("item_id", "user_id", "rating", "timestamp"),
        header=False,
        items={
            "item_id": ("asin",),
            "title": ("title",),
            "category": ("category",),
            "brand": ("brand",),
            "image_url": ("imageURLHighRes", "imageURL"),
            "description": ("description",),
        },
        types={"category": _TEXTS, "imageURLHighRes": _TEXTS, "imageURL": _TEXTS, "description": _TEXTS},
    ),
    "2023": Edition(
        log={"user_id": "user_id", "item_id": "parent_asin", "rating": "rating", "timestamp": "timestamp"},
        ratings=("user_id", "item_id", "rating", "timestamp"),
        header=True,
        items={
            "item_id": ("parent_asin",),
            "title": ("title",),
            "category": ("categories",),
            "brand": ("store",),
            "image_url": ("images",),
            "description": ("description",),
        },
        types={"categories": _TEXTS, "images": pl.List(_PICTURE), "description": _TEXTS},
    ),
}


class AmazonSource(Source):
    """One edition; subclasses name it."""

    edition: ClassVar[Edition]

    def interactions(self, required: Columns, ids: Sequence[str], bad: BadRows) -> Table:
        """See `Source`."""
        edition = self.edition
        wanted = choose_columns(self.log, list(_LOG), required, ())
        if self.log.name.removesuffix(".gz").endswith(".csv"):
            header = int(edition.header and not first_line(self.log).rsplit(b",", 1)[-1].isdigit())
            self._expect_users_and_items_in_place()
            parser = DelimitedParser(edition.ratings, {name: _LOG[name] for name in wanted}, ",")
            return read_lines(self.log, parser, bad, header, ids)
        fields = {edition.log[name]: name for name in wanted}
        schema = {field: _LOG[name] for field, name in fields.items()}
        records = RecordParser(schema, edition.literals)
        table = read_lines(self.log, records, bad, ids=[edition.log[name] for name in ids])
        return _with_values(table, [edition.log[name] for name in wanted[:2]], table.frame.rename(fields))

    def _expect_users_and_items_in_place(self) -> None:
        """2018 alone has the item first in its ratings, which are numbers without names otherwise.

        Raises:
            UserError: an item stands where the user should, and none where the item should.
        """
        line = first_line(self.log).decode("utf-8", "replace")
        cells = dict(zip(self.edition.ratings, line.split(","), strict=False))
        user, item = (cells.get(name, "").strip().strip('"') for name in ("user_id", "item_id"))
        if _ASIN.fullmatch(user) and not _ASIN.fullmatch(item):
            raise UserError(
                f"{self.log}, line 1: {user!r} stands where {self.name} has the user, and is an item: "
                "name the edition with --source (amazon-2018 has the item first, the others the user)."
            )

    def read_items(
        self, file: Path, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows
    ) -> Table:
        """See `Source`."""
        edition = self.edition
        wanted = choose_columns(file, list(edition.items), required, optional)
        fields = [field for name in wanted for field in edition.items[name]]
        schema = {field: edition.types.get(field, pl.String) for field in fields}
        table = read_lines(file, RecordParser(schema, edition.literals), bad)
        table = _with_values(table, list(edition.items["item_id"]), table.frame)
        columns = [_column(table.frame, name, edition.items[name]) for name in wanted]
        return first_of_each(replace(table, frame=pl.DataFrame(columns)), "item_id", bad)


class Amazon2014(AmazonSource):
    """Reviews up to July 2014."""

    name, edition = "amazon-2014", EDITIONS["2014"]


class Amazon2018(AmazonSource):
    """Reviews up to October 2018."""

    name, edition = "amazon-2018", EDITIONS["2018"]


class Amazon2023(AmazonSource):
    """Reviews up to September 2023; an item is a product with all its variants (parent_asin)."""

    name, edition = "amazon-2023", EDITIONS["2023"]


def find_files(folder: Path) -> tuple[Path, Path | None]:
    """The reviews and the metadata in a folder that holds one of each.

    Raises:
        UserError: there are none or several.
    """
    endings = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".csv", ".csv.gz")
    names = sorted(path for path in folder.iterdir() if path.name.endswith(endings))
    metadata = [path for path in names if path.name.startswith("meta_")]
    reviews = [path for path in names if path not in metadata]
    if len(reviews) != 1 or len(metadata) > 1:
        found = ", ".join(path.name for path in names[:6]) or "nothing"
        raise UserError(
            f"{folder} should hold one file of reviews and one meta_ file, it holds {found}: name them with "
            "--interactions and --items."
        )
    return reviews[0], metadata[0] if metadata else None


def _with_values(table: LineTable, fields: Sequence[str], frame: pl.DataFrame) -> LineTable:
    """Refuse a file none of whose records has the fields: it is of another kind or edition."""
    empty = [field for field in fields if table.frame[field].null_count() == len(table.frame)]
    if empty:
        raise UserError(f"{table.path} has no field {empty[0]!r} in any record: check --source.")
    return replace(table, frame=frame)


def _column(frame: pl.DataFrame, name: str, fields: Sequence[str]) -> pl.Series:
    """A column of the items from the fields of the metadata."""
    cells = frame[fields[0]]
    if name == "item_id":
        return cells.alias(name)
    if name == "category":
        return _categories(cells).alias(name)
    if name == "image_url":
        return _first_address(frame, fields).alias(name)
    if isinstance(cells.dtype, pl.List):
        cells = pl.select(pl.lit(cells).list.join(" ", ignore_nulls=True)).to_series()
    return clean_text(cells).alias(name)


def _categories(cells: pl.Series) -> pl.Series:
    """The names of the path, or of all paths, in order; what follows a piece of a web page is none."""
    rows = pl.DataFrame({"cell": cells}).with_row_index("row").explode("cell", empty_as_null=True)
    if isinstance(rows["cell"].dtype, pl.List):
        rows = rows.explode("cell", empty_as_null=True)
    junk = pl.col("cell").str.contains("</", literal=True).fill_null(False).cast(pl.Int8)
    rows = rows.filter(junk.cum_max().over("row") == 0)
    rows = rows.with_columns(clean_text(rows["cell"]).alias("cell"))
    paths = rows.drop_nulls("cell").group_by("row", maintain_order=True).agg("cell")
    every = pl.DataFrame({"row": range(len(cells))}, schema={"row": rows["row"].dtype})
    return every.join(paths, on="row", how="left", maintain_order="left")["cell"]


def _first_address(frame: pl.DataFrame, fields: Sequence[str]) -> pl.Series:
    """Address of the first picture, as large as an encoder needs it; not of a placeholder."""
    found = []
    for field in fields:
        cells = pl.col(field)
        if isinstance(frame[field].dtype, pl.List):
            cells = cells.list.first()
        if frame[field].dtype == pl.List(_PICTURE):
            found += [cells.struct.field(size) for size in ("large", "hi_res", "thumb")]
        else:
            found.append(cells)
    addresses = pl.coalesce(
        pl.when(cells.str.contains(r"^\s*https?://")).then(cells.str.strip_chars()) for cells in found
    )
    return frame.select(pl.when(~addresses.str.contains("/no-img", literal=True)).then(addresses)).to_series()


def clean_text(cells: pl.Series) -> pl.Series:
    """Texts without the remains of web pages: scripts, tags, entities, line breaks; empty ones are null."""
    column = pl.col("text")
    script = column.str.contains(r"getTime\(\)|aPageStart")
    plain = (
        column.str.replace(r"^by\s*\n\s*", "")
        .str.replace_all(r"</?[A-Za-z][^<>]*>", " ")
        .str.replace_all(r"\s+", " ")
        .str.strip_chars()
    )
    table = pl.DataFrame({"text": cells}).select(pl.when(~script).then(column).alias("text"))
    if table["text"].str.contains(r"&#?\w+;").any():
        table = table.with_columns(column.map_elements(html.unescape, return_dtype=pl.String))
    table = table.with_columns(plain.alias("text"))
    return table.select(pl.when(column != "").then(column).alias("text"))["text"]
