"""Raw CSV, TSV and Parquet files as typed polars tables, with errors that name file, line and column.

CSV and TSV may be compressed with gzip, which polars unpacks as it reads.
"""

import codecs
import csv
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.data.streams import MAX_LINE, look_through, opened, text_lines
from hm4sr.errors import UserError

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_PARQUET = {".parquet", ".pq"}
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises for damaged files; a panic of its Rust code is no `Exception`."""
_LAST = "__last_field_is_missing"


@dataclass(frozen=True)
class Table:
    """Some columns of a raw file.

    Attributes:
        path: the file.
        frame: its columns, rows in the file's order; every cell of a CSV file is a string or null.
        separator: between the cells of a line; None for Parquet.
    """

    path: Path
    frame: pl.DataFrame
    separator: str | None

    def place(self, row: int) -> str:
        """Where row `row` (from 0) stands: file and line (CSV, the header is 1) or row (Parquet, from 1)."""
        return self.places([row])[0]

    def places(self, rows: Sequence[int]) -> list[str]:
        """Where some rows stand, in one pass through the file."""
        if self.separator is None:
            return [f"{self.path}, row {row + 1}" for row in rows]
        found = {row: f"{self.path}, record {row + 1}" for row in rows}
        last = max(rows, default=-1)
        for index, (line, _) in enumerate(_records(self.path, self.separator)):
            if index - 1 in found:
                found[index - 1] = f"{self.path}, line {line}"
            if index > last:
                break
        return [found[row] for row in rows]


def read_table(
    path: Path,
    required: Sequence[tuple[str, str]],
    optional: Sequence[str] = (),
    ids: Sequence[str] = (),
    also: Sequence[str] = (),
) -> Table:
    """Read some columns of a CSV, TSV or Parquet file.

    Args:
        path: the file; its ending says what it is, with or without .gz behind it.
        required: pairs of an option, which error messages name, and the column that it asks for.
        optional: columns that may be absent.
        ids: columns to return as Categorical, whatever they are in the file, so that each text is kept once.
        also: further endings that whoever asks reads in another way, for the message about a wrong one.

    Raises:
        UserError: the file is missing, damaged, empty or ragged, or lacks a column.
    """
    try:
        return _read(path, required, optional, ids, also)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): give a file that can be."
        ) from error


def column_names(path: Path) -> list[str]:
    """Names of the columns of a file that `read_table` reads.

    Raises:
        UserError: as `read_table`.
    """
    separator = separator_of(path)
    return _header(path, separator) if separator else _parquet_columns(path)


def vocabulary(table: Table, column: str) -> tuple[NDArray[np.int32], pl.Series]:
    """Number the distinct texts of an id column of a table.

    Returns:
        number of each row's text (from 0), and the texts, sorted bytewise, whatever the order of the rows.

    Raises:
        UserError: a cell is empty.
    """
    cells = table.frame[column]
    if cells.null_count():
        raise _empty_cell(table, column, int(cells.is_null().arg_max() or 0))
    distinct = cells.unique()
    texts = distinct.cast(pl.String)
    blank = texts.str.strip_chars() == ""
    if blank.any():
        rows = cells.cast(pl.String).str.strip_chars() == ""
        raise _empty_cell(table, column, int(rows.arg_max() or 0))
    order = texts.arg_sort().to_numpy()
    places = distinct.to_physical().to_numpy()[order]
    numbers = np.empty(int(places.max()) + 1, dtype=np.int32)
    numbers[places] = np.arange(len(places), dtype=np.int32)
    return numbers[cells.to_physical().to_numpy()], texts.gather(order)


def _empty_cell(table: Table, column: str, row: int) -> UserError:
    return UserError(f"{table.place(row)}: {column} is empty: fill it in or remove the row.")


def _read(
    path: Path,
    required: Sequence[tuple[str, str]],
    optional: Sequence[str],
    ids: Sequence[str],
    also: Sequence[str],
) -> Table:
    separator = separator_of(path, also)
    names = _header(path, separator) if separator else _parquet_columns(path)
    wanted = choose_columns(path, names, required, optional)
    if separator:
        look_through(path)
    frame = _read_csv(path, separator, names, wanted, ids) if separator else _read_parquet(path, wanted, ids)
    if frame.is_empty():
        raise UserError(f"{path} has no rows below its header: give a file with rows.")
    return Table(path, frame, separator)


def separator_of(path: Path, also: Sequence[str] = ()) -> str | None:
    """What divides the cells of a file that `read_table` reads, None for Parquet.

    Args:
        path: the file.
        also: see `read_table`.

    Raises:
        UserError: there is no such file, it is empty, or its ending is that of no table.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file.")
    if not path.exists():
        raise UserError(f"{path} does not exist: check its name.")
    packed, ending = path.suffix.lower() == ".gz", Path(path.name.lower().removesuffix(".gz")).suffix
    if packed and ending in _PARQUET:
        raise UserError(f"{path} is Parquet within gzip: unpack it, since Parquet is compressed in itself.")
    if ending not in _SEPARATORS.keys() | _PARQUET:
        whole = f"{ending}{'.gz' if packed else ''}" or "nothing"
        read = ", ".join([".csv", ".tsv", ".csv.gz", ".tsv.gz", *also])
        raise UserError(f"{path} ends in {whole}: give a file that ends in {read} or .parquet.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: give a file with a header and rows.")
    return _SEPARATORS.get(ending)


def choose_columns(
    path: Path, names: list[str], required: Sequence[tuple[str, str]], optional: Sequence[str]
) -> list[str]:
    """Those of a file's columns that are wanted, required ones first.

    Raises:
        UserError: a required column is missing, or a wanted one is there twice.
    """
    for option, column in required:
        if column not in names:
            close = difflib.get_close_matches(column, names, n=1)
            advice = f"did you mean {option} {close[0]}?" if close else f"name the right one with {option}."
            if option == "--time-column" and not close:
                advice = (
                    f"name the right one with {option}, or add a running number if the rows are in order."
                )
            shown = ", ".join(" ".join(name.split())[:60] for name in names[:20])
            shown += ", ..." if len(names) > 20 else ""
            if len(names) == 1 and not close and any(mark in names[0] for mark in ",;|\t"):
                advice = "write commas between the cells of a .csv file and tabs in a .tsv file."
            raise UserError(f"{path} has no column {column!r} (it has: {shown}); {advice}")
    wanted = list(
        dict.fromkeys([*(column for _, column in required), *(name for name in optional if name in names)])
    )
    for name in wanted:
        if names.count(name) > 1:
            raise UserError(f"{path} has {names.count(name)} columns named {name!r}: rename all but one.")
    return wanted


def _header(path: Path, separator: str) -> list[str]:
    with opened(path) as stream:
        start = stream.read(4096)
    if not start:
        raise UserError(f"{path} is empty: give a file with a header and rows.")
    if _is_binary(start):
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8.")
    _, names = next(_records(path, separator), (1, []))
    if not names:
        raise UserError(f"{path}, line 1 is blank: put the column names there.")
    if any("\0" in name for name in names):
        raise UserError(f"{path}, line 1 holds a NUL byte: remove it.")
    return [_utf8(name, path, 1) for name in names]


def _is_binary(start: bytes) -> bool:
    """Whether a file is UTF-16, with its mark or without, or no text at all; a lone NUL byte is a slip."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start[:2]:
        return True
    line = start.partition(b"\n")[0]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(line)
    except UnicodeDecodeError:
        return b"\0" in line
    return False


def _read_csv(
    path: Path, separator: str, names: list[str], wanted: list[str], ids: Sequence[str]
) -> pl.DataFrame:
    columns = [pl.col(name).cast(pl.Categorical) if name in ids else pl.col(name) for name in wanted]
    last = pl.nth(-1).is_null().alias(_LAST)
    try:
        lines = pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)
        frame = lines.select(*columns, last).collect(engine="streaming")
        if frame[_LAST].any():
            _refuse_short_rows(path, separator, len(names))
    except pl.exceptions.PolarsError as error:
        raise _explain(path, separator, len(names)) from error
    return frame.drop(_LAST)


def _explain(path: Path, separator: str, width: int) -> UserError:
    """The sentence for a CSV file that polars refuses: find the line at fault, slowly."""
    try:
        for line, cells in _records(path, separator):
            for cell in cells:
                _utf8(cell, path, line)
            if len(cells) != width:
                return _ragged(path, line, len(cells), width)
    except UserError as found:
        return found
    with opened(path) as stream:
        odd = next((line for line, text in enumerate(stream, start=1) if text.count(b'"') % 2), None)
    where = f"{path}, line {odd}" if odd else str(path)
    advice = "write a cell with quotation marks as " + '"a ""quoted"" word".'
    return UserError(f"{where} has a stray quotation mark: {advice}")


def _refuse_short_rows(path: Path, separator: str, width: int) -> None:
    """Raise for a row with too few cells, which polars fills up with null."""
    if width == 1:
        return
    with opened(path) as stream:
        quoted = any(b'"' in block for block in iter(lambda: stream.read(1 << 20), b""))
    if quoted:
        counts: Iterator[tuple[int, int]] = ((line, len(cells)) for line, cells in _records(path, separator))
        line, count = next(((line, count) for line, count in counts if count != width), (0, 0))
    else:
        whole = pl.scan_csv(
            path,
            separator="\x1e",
            quote_char=None,
            has_header=False,
            schema={"line": pl.String},
            truncate_ragged_lines=True,
            glob=False,
        )
        cells = pl.col("line").str.count_matches(separator, literal=True).fill_null(-1) + 1
        short = pl.col("cells") != width
        numbered = whole.select(cells.cast(pl.Int64).alias("cells")).with_row_index("line", offset=1)
        first = numbered.filter(short).head(1).collect(engine="streaming")
        line, count = first.row(0) if len(first) else (0, 0)
    if line:
        raise _ragged(path, line, count, width)


def _ragged(path: Path, line: int, count: int, width: int) -> UserError:
    if count == 0:
        return UserError(f"{path}, line {line} is blank: remove it.")
    return UserError(f"{path}, line {line} has {count} cells but the header has {width}: mend that line.")


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """First line number (from 1) and cells of each record; slow, for headers and error messages."""
    csv.field_size_limit(MAX_LINE)
    line, last = 1, ""

    def read() -> Iterator[str]:
        nonlocal last
        for last in text_lines(path):  # noqa: UP028 - the last one is looked at
            yield last

    reader = csv.reader(read(), delimiter=separator)
    try:
        for cells in reader:
            if line == 1 and last.endswith("\r"):  # polars would take the whole file for the header
                raise UserError(
                    f"{path}, line 1 ends in a carriage return alone, as on an old Mac: save the file with "
                    "line feeds."
                )
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: the record that begins there is longer than 64 MB: close its quotation "
            "mark, or give a text file."
        ) from error


def _utf8(text: str, path: Path, line: int) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{path}, line {line} is not UTF-8 text: save the file as UTF-8.") from error
    return text


def _parquet_columns(path: Path) -> list[str]:
    try:
        return pl.scan_parquet(path, glob=False).collect_schema().names()
    except _UNREADABLE as error:
        raise _damaged(path) from error


def _read_parquet(path: Path, wanted: list[str], ids: Sequence[str]) -> pl.DataFrame:
    try:
        table = pl.scan_parquet(path, glob=False).select(wanted)
        schema = table.collect_schema()
        for name in set(ids) & set(wanted):
            if not (schema[name].is_integer() or schema[name] in (pl.String, pl.Categorical, pl.Enum)):
                raise UserError(f"{path}: {name} is of type {schema[name]}: write ids as text or integers.")
        cast = [pl.col(name).cast(pl.String).cast(pl.Categorical) for name in wanted if name in ids]
        return table.with_columns(cast).collect(engine="streaming")
    except _UNREADABLE as error:
        raise _damaged(path) from error


def read_own(path: Path) -> pl.DataFrame:
    """Read a whole Parquet file that hm4sr wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return pl.read_parquet(path)
    except (OSError, *_UNREADABLE) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is not a readable Parquet file (cut off or damaged): write it anew.")
