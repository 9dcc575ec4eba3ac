"""Raw files as bytes or lines, plain or gzip: which of the two is seen from the content.

A few bytes of gzip can stand for a line of any length, so what is held at once has a bound.
"""

import codecs
import contextlib
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from hm4sr.errors import UserError
from hm4sr.files import reason

BLOCK = 8 << 20
"""Bytes read at once (after decompression)."""
MAX_LINE = 64 << 20
"""A longer line is no record, and neither are several lines that make a longer one."""


def unpacked(raw: BinaryIO) -> BinaryIO:
    """The stream of a file's bytes, decompressed where they begin as gzip does."""
    compressed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if compressed else raw


@contextlib.contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Within this context a gzip file that is cut off or damaged becomes one sentence.

    Raises:
        UserError: in the place of what gzip and the system raise.
    """
    try:
        yield
    except EOFError as error:
        raise UserError(f"{path} is cut off (gzip ends early): download it again.") from error
    except (OSError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}): download it again.") from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, plain or gzip, to read its bytes within this context.

    Raises:
        UserError: it cannot be opened, or what is read turns out to be cut off or damaged.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): give a file that can be.") from error
    with raw, unpacking(path):
        yield unpacked(raw)


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a file with their ends, a byte order mark left out; bytes that are not UTF-8 escape.

    Raises:
        UserError: as `opened`; a line is longer than `MAX_LINE`.
    """
    with (
        opened(path) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        for number in itertools.count(1):
            line = text.readline(MAX_LINE + 1)
            if len(line) > MAX_LINE:
                raise UserError(f"{path}, line {number} is longer than 64 MB: give a text file.")
            if not line:
                return
            yield line


def is_utf8(path: Path) -> bool:
    """Whether all of a file is UTF-8 text.

    Raises:
        UserError: as `opened`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with opened(path) as stream:
        try:
            for data in iter(lambda: stream.read(BLOCK), b""):
                decoder.decode(data)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def look_through(path: Path) -> None:
    """Refuse a table of cells that no reader should be given.

    Raises:
        UserError: it holds a NUL byte; or it is gzip, and damaged or with a record longer than `MAX_LINE`,
            which polars would hold whole.
    """
    begin, quoted, length, lines = 1, False, 0, 0
    with opened(path) as stream:
        packed = isinstance(stream, gzip.GzipFile)
        for data in iter(lambda: stream.read(BLOCK), b""):
            if (place := data.find(b"\0")) >= 0:
                line = lines + data.count(b"\n", 0, place) + 1
                raise UserError(f"{path}, line {line} holds a NUL byte: remove it.")
            if packed:
                end = _last_end(data, quoted)
                quoted ^= bool(data.count(b'"') % 2)
                if end:
                    begin, length = lines + data.count(b"\n", 0, end) + 1, 0
                length += len(data) - end
                if length > MAX_LINE:
                    raise UserError(
                        f"{path}, line {begin}: the record that begins there is longer than 64 MB: close its "
                        "quotation mark, or give a text file."
                    )
            lines += data.count(b"\n")


def _last_end(data: bytes, quoted: bool) -> int:
    """Place behind the last line end outside of quotation marks, 0 without one.

    Args:
        data: some bytes of a table.
        quoted: whether they begin within quotation marks.
    """
    if b'"' not in data:
        return 0 if quoted else data.rfind(b"\n") + 1
    signs = np.frombuffer(data, dtype=np.uint8)
    within = np.cumsum(signs == ord('"'), dtype=np.uint8) % 2 != quoted  # bytes overflow by an even number
    ends = (signs == ord("\n")) & ~within
    return len(data) - int(ends[::-1].argmax()) if ends.any() else 0
