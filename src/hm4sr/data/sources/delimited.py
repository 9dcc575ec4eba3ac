"""Lines of cells without quotation marks: RecBole's atomic files, MovieLens, ratings without a header."""

import codecs
from collections.abc import Sequence
from typing import Any

import polars as pl

from hm4sr.data.sources.lines import BadLineError, Schema
from hm4sr.data.sources.records import coerce


class DelimitedParser:
    """Reads some cells of each line.

    Args:
        names: of all cells of a line, in order.
        schema: the cells wanted and their types.
        separator: between cells, of one or more characters.
        encoding: utf-8 or latin-1.
    """

    def __init__(self, names: Sequence[str], schema: Schema, separator: str, encoding: str = "utf-8"):
        self.names, self.schema = list(names), schema
        self.separator, self.encoding = separator, encoding

    def block(self, data: bytes) -> pl.DataFrame | None:
        """All lines at once, see `LineParser`."""
        if b"\0" in data or data.startswith(codecs.BOM_UTF8):
            return None
        if self.encoding != "utf-8":
            data = data.decode(self.encoding).encode()
        separator = self.separator
        if len(separator) > 1:
            if b"\t" in data:
                return None
            data, separator = data.replace(separator.encode(), b"\t"), "\t"
        try:
            frame = pl.read_csv(
                data,
                has_header=False,
                separator=separator,
                quote_char=None,
                schema=dict.fromkeys(self.names, pl.String),
            )
            # Too many cells are refused, missing ones filled up: their sum shows it.
            if data.count(separator.encode()) != len(frame) * (len(self.names) - 1):
                return None
            return frame.select(_cast(name, dtype) for name, dtype in self.schema.items())
        except pl.exceptions.PolarsError:
            return None

    def line(self, data: bytes) -> Sequence[Any]:
        """One line, see `LineParser`."""
        try:
            cells = data.decode(self.encoding).split(self.separator)
        except UnicodeDecodeError as error:
            raise BadLineError("is not UTF-8 text") from error
        if len(cells) != len(self.names):
            raise BadLineError(f"has {len(cells)} cells instead of {len(self.names)}")
        row = dict(zip(self.names, cells, strict=True))
        return [coerce(row[name], dtype, name) for name, dtype in self.schema.items()]


def _cast(name: str, dtype: Any) -> pl.Expr:
    return pl.col(name) if dtype == pl.String else pl.col(name).str.strip_chars().cast(dtype)
