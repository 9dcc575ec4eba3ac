"""What the verbs share when they speak: log lines and tables."""

import logging
import sys
from collections.abc import Mapping

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


def log_to_stdout() -> None:
    """Show the package's log lines as plain text."""
    handler = logging.StreamHandler(sys.stdout)
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
