"""What the verbs share when they speak: log lines and tables, on the terminal and in files."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from hm4sr.errors import UserError

if TYPE_CHECKING:
    import polars as pl

_FORMATS = (".csv", ".json", ".parquet")


class _Lines(logging.StreamHandler[TextIO]):
    """Log lines; work goes on where nobody can read them (a full disk, a pipe that was closed)."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name it has in logging
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def log_to_stdout() -> None:
    """Show the package's log lines as plain text."""
    handler = _Lines(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("hm4sr")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)


def print_table(header: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """A table on standard output, its first column aligned left and the others right."""
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def console() -> Console:
    """Standard output, 140 columns wide where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False)


def print_metrics(columns: Mapping[str, Mapping[str, float]]) -> None:
    """Metrics by name, a column for each part or run."""
    names = list(next(iter(columns.values())))
    rows = [
        [name, *(f"{values[name]:.4f}" if name in values else "" for values in columns.values())]
        for name in names
    ]
    print_table(["metric", *columns], rows)


def check_out(out: Path, force: bool, option: str = "--out") -> None:
    """Refuse a file that cannot be written or must not be replaced, before any work is done.

    Raises:
        UserError: the ending is unknown, the folder is missing or takes no files, or the file exists.
    """
    if out.suffix.lower() not in _FORMATS:
        raise UserError(f"{option} {out} ends in none of {', '.join(_FORMATS)}: choose one of these formats.")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is not a folder: make it first, or choose another {option}.")
    if out.is_dir():
        raise UserError(f"{out} is a folder: give the name of a file with {option}.")
    if out.exists() and not force:
        raise UserError(f"{out} exists already: add --force to replace it, or choose another {option}.")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"{out.parent} takes no files: choose another {option}.")


def write(table: "pl.DataFrame", out: Path, option: str = "--out") -> None:
    """Write a table in the format of the file's ending, whole or not at all.

    Raises:
        UserError: the system refuses, for example because the disk is full.
    """
    from hm4sr.files import atomic_file

    try:
        with atomic_file(out) as temporary:
            match out.suffix.lower():
                case ".csv":
                    table.write_csv(temporary)
                case ".json":
                    table.write_json(temporary)
                case _:
                    table.write_parquet(temporary, compression="zstd")
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}): choose another {option}."
        ) from error
