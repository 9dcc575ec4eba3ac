"""What a source of raw data is: a table of interactions and one of items, whatever the files look like."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import polars as pl

from hm4sr.data.sources.bad_rows import BadRows
from hm4sr.data.tables import Table
from hm4sr.errors import UserError

Columns = Sequence[tuple[str, str]]
"""Pairs of an option, which error messages name, and the column that it asks for."""


class Source(ABC):
    """Raw files of one kind.

    Sources that know their format give the columns user_id, item_id, timestamp and, as far as they exist,
    rating; and of items item_id, title, category, brand, description, image_path, image_url.

    Args:
        log: file of interactions.
        items_file: file of items; without it, the items are those of the interactions.
        pictures: folder that pictures' paths are relative to; that of the items file if not given.
    """

    name: ClassVar[str]

    def __init__(self, log: Path, items_file: Path | None = None, pictures: Path | None = None):
        self.log, self.items_file = log, items_file
        self.image_folder = pictures or (items_file or log).parent

    @property
    def files(self) -> list[Path]:
        """What is read."""
        return [self.log] if self.items_file is None else [self.log, self.items_file]

    @abstractmethod
    def interactions(self, required: Columns, ids: Sequence[str], bad: BadRows) -> Table:
        """Some columns of the interactions, rows in the file's order.

        Args:
            required: the columns.
            ids: those of them to return as Categorical.
            bad: what to do with rows that are no rows.

        Raises:
            UserError: a file is missing, damaged or not of this kind, or lacks a column.
        """

    def items(self, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows) -> Table:
        """Some columns of the items, of a source that has a file of them.

        Args:
            required: the columns, the first one being that of the ids.
            optional: columns that may be absent.
            ids: those to return as Categorical.
            bad: what to do with rows that are no rows.

        Raises:
            UserError: see `interactions`.
        """
        assert self.items_file is not None
        return self.read_items(self.items_file, required, optional, ids, bad)

    def bare_items(self, ids: pl.Series, required: Columns) -> Table:
        """The items where there is no file of them.

        Args:
            ids: those of the interactions, each once.
            required: as in `items`.

        Raises:
            UserError: another column than that of the ids is required.
        """
        _, column = required[0]
        for option, other in required:
            if other != column:
                raise UserError(
                    f"{option} {other!r} asks for a column of items, but there is no file of them: give one "
                    f"with --items, or leave {option} out."
                )
        return Table(self.log, pl.DataFrame({column: ids}), None)

    @abstractmethod
    def read_items(
        self, file: Path, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows
    ) -> Table:
        """As `items`, from the file of items."""
