"""Files with one record a line, plain or gzip: parsed a block at a time, line by line only where that fails.

Memory holds one block and the columns that are wanted, however long the file is.
"""

import codecs
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.data.sources.bad_rows import BadRows
from hm4sr.data.streams import BLOCK, MAX_LINE, unpacked, unpacking
from hm4sr.data.tables import Table
from hm4sr.errors import UserError
from hm4sr.progress import Progress

Schema = dict[str, Any]


class BadLineError(Exception):
    """Why a line is no record."""


class LineParser(Protocol):
    """Turns lines into rows of a fixed schema."""

    schema: Schema

    def block(self, data: bytes) -> pl.DataFrame | None:
        """All lines of a block, one row each and in order, or None if some line needs a closer look."""

    def line(self, data: bytes) -> Sequence[Any]:
        """The cells of one line, without its end and not blank.

        Raises:
            BadLineError: the line is no record.
        """


@dataclass(frozen=True)
class LineTable(Table):
    """Rows of a file with one record a line.

    Attributes:
        first: number of the first line of records.
        without_row: numbers of the lines that gave no row, in order.
    """

    first: int
    without_row: NDArray[np.int64]

    def places(self, rows: Sequence[int]) -> list[str]:
        """Where rows (from 0) stand: file and line."""
        rows_before = self.without_row - self.first - np.arange(len(self.without_row))
        lines = [self.first + row + int(np.searchsorted(rows_before, row, side="right")) for row in rows]
        return [f"{self.path}, line {line}" for line in lines]


def read_lines(
    path: Path, parser: LineParser, bad: BadRows, header: int = 0, ids: Sequence[str] = ()
) -> LineTable:
    """Read all records of a file.

    Args:
        path: the file; gzip is recognised by its content.
        parser: turns lines into rows.
        bad: what to do with lines that are no records; blank lines are passed over.
        header: lines to pass over at the start.
        ids: columns to return as Categorical, so that each text is kept once.

    Raises:
        UserError: the file is missing, empty, cut off or without a single record, or a line is at fault.
    """
    frames: list[pl.DataFrame] = []
    without_row: list[int] = []
    ids = [name for name in parser.schema if name in ids]
    for first, data in _blocks(path, header):
        count = data.count(b"\n") + (not data.endswith(b"\n"))
        frame = parser.block(data)
        if frame is None or len(frame) != count:
            frame = _line_by_line(path, parser, data, first, bad, without_row)
        frames.append(frame.with_columns(pl.col(ids).cast(pl.Categorical)))
    if not sum(map(len, frames)):
        example = f" (first: {bad.examples[path][0]})" if bad.counts.get(path) else ""
        raise UserError(f"{path} has no usable rows{example}: check that it is what --source says.")
    return LineTable(path, pl.concat(frames), None, header + 1, np.array(without_row, dtype=np.int64))


def first_line(path: Path) -> bytes:
    """The first line of a file, plain or gzip, without its end.

    Raises:
        UserError: the file is missing, empty or cut off.
    """
    _, data = next(_blocks(path, 0))
    return data.split(b"\n", 1)[0].rstrip(b"\r")


def _line_by_line(
    path: Path, parser: LineParser, data: bytes, first: int, bad: BadRows, without_row: list[int]
) -> pl.DataFrame:
    rows: list[Sequence[Any]] = []
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), start=first):
        line = line.strip(b" \r")
        if not line:
            without_row.append(number)
            continue
        try:
            rows.append(parser.line(line))
        except BadLineError as error:
            bad.report(path, f"{path}, line {number}", str(error))
            without_row.append(number)
    return pl.DataFrame(rows, schema=parser.schema, orient="row")


def _blocks(path: Path, header: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines with the number of the first one; the next block is read while this one is parsed."""
    number, rest = 1, b""
    with _open(path) as (raw, stream), ThreadPoolExecutor(1, "reader") as pool:
        total = max(1, path.stat().st_size >> 20)
        with Progress(f"reading {path.name}", total, "MB") as progress:

            def read() -> tuple[bytes, int]:  # asked from elsewhere, the position would wait for the read
                return stream.read(BLOCK), raw.tell()

            waiting = pool.submit(read)
            while True:
                data, position = _result(path, waiting)
                if number == 1 and not rest:
                    data = data.removeprefix(codecs.BOM_UTF8)
                if not data:
                    break
                waiting = pool.submit(read)
                progress.advance((position >> 20) - progress.done)
                end = data.rfind(b"\n") + 1
                if not end:
                    rest += data
                    if len(rest) > MAX_LINE:
                        raise UserError(f"{path}, line {number} is longer than 64 MB: give a text file.")
                    continue
                data, rest = rest + data[:end], data[end:]
                yield from _after_header(number, data, header)
                number += data.count(b"\n")
    if rest:
        yield from _after_header(number, rest, header)
    elif number == 1:
        raise UserError(f"{path} is empty: give a file with rows.")


def _after_header(number: int, data: bytes, header: int) -> Iterator[tuple[int, bytes]]:
    while number <= header and data:
        data = data.partition(b"\n")[2]
        number += 1
    if data:
        yield number, data


class _open:  # noqa: N801 - reads like a function
    """The raw file and the stream of its decompressed bytes."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> tuple[BinaryIO, BinaryIO]:
        if self.path.is_dir():
            raise UserError(f"{self.path} is a folder: give a file.")
        if not self.path.exists():
            raise UserError(f"{self.path} does not exist: check its name.")
        try:
            self.raw: BinaryIO = self.path.open("rb")
            return self.raw, unpacked(self.raw)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}): check its rights.") from error

    def __exit__(self, *_: object) -> None:
        self.raw.close()


def _result(path: Path, waiting: "Future[tuple[bytes, int]]") -> tuple[bytes, int]:
    with unpacking(path):
        return waiting.result()
