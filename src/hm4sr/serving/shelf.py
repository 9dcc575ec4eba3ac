"""The items that can be recommended: ids, titles and categories by item number."""

import difflib
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.errors import UserError


class Shelf:
    """A table of items; row r is item number r + 1. It never changes: `extended` gives a longer one.

    Attributes:
        table: columns item_id, title, categories (list).
        counts: training events of each item row (row 0 is padding).
    """

    def __init__(self, table: pl.DataFrame, counts: NDArray[np.int64]):
        self.table = table.select("item_id", "title", "categories")
        self.counts = counts
        self.ids: list[str] = self.table["item_id"].to_list()
        self.titles: list[str | None] = self.table["title"].to_list()
        self.numbers = {item: row for row, item in enumerate(self.ids, start=1)}

    def __len__(self) -> int:
        return len(self.ids)

    def extended(self, table: pl.DataFrame) -> "Shelf":
        """This shelf with further items behind, which have no training events."""
        further = table.select("item_id", "title", "categories").cast(dict(self.table.schema))  # type: ignore[arg-type]
        counts = np.concatenate([self.counts, np.zeros(len(table), dtype=np.int64)])
        return Shelf(pl.concat([self.table, further]), counts)

    def known(self, ids: Iterable[str], what: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Item numbers of raw ids, ascending, and the ids that are not in the catalogue, each once.

        Raises:
            UserError: an id is not text; `what` names the argument.
        """
        if not isinstance(ids, Iterable):
            raise UserError(f"{what} = {ids!r} is not a list of raw ids: write [{str(ids)!r}].")
        wanted = dict.fromkeys([ids] if isinstance(ids, str) else ids)
        for item in wanted:
            if not isinstance(item, str):
                raise UserError(f"{what}: {item!r} is not text: raw ids are texts, write {str(item)!r}.")
        numbers = sorted(self.numbers[item] for item in wanted if item in self.numbers)
        missing = tuple(item for item in wanted if item not in self.numbers)
        return np.array(numbers, dtype=np.int64), missing

    def number_of(self, item: str) -> int:
        """Item number of a raw id that must be known.

        Raises:
            UserError: it is not in the catalogue.
        """
        if item not in self.numbers:
            raise UserError(
                f"item {item!r} is not among the {len(self):,} items of the catalogue: check the id."
            )
        return self.numbers[item]

    def in_categories(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Numbers of the items that belong to at least one of the categories, ascending.

        Raises:
            UserError: a name is not a category, or the catalogue has none.
        """
        members = self._members
        wanted = list(dict.fromkeys([names] if isinstance(names, str) else names))
        for name in wanted:
            if name not in members:
                raise UserError(self._no_category(name))
        found = [members[name] for name in wanted]
        return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *found]))

    @property
    def categories(self) -> Sequence[str]:
        """Names of all categories, sorted."""
        return list(self._members)

    @cached_property
    def by_popularity(self) -> NDArray[np.int64]:
        """Item numbers, most training events first; ties in the order of the catalogue."""
        order: NDArray[np.int64] = np.argsort(-self.counts[1:], kind="stable") + 1
        return order

    @cached_property
    def _members(self) -> dict[str, NDArray[np.int64]]:
        pairs = self.table.select(
            pl.col("categories").alias("name"), number=pl.int_range(1, pl.len() + 1)
        ).explode("name")
        grouped = pairs.drop_nulls().group_by("name").agg("number").sort("name")
        return {name: np.unique(numbers) for name, numbers in grouped.iter_rows()}

    def _no_category(self, name: object) -> str:
        if not self._members:
            return f"categories = {name!r}, but the catalogue has no categories: leave the filter out."
        close = difflib.get_close_matches(str(name), self._members, n=1)
        hint = (
            f"did you mean {close[0]!r}?"
            if close
            else f"take one of its {len(self._members):,}, for example {next(iter(self._members))!r}."
        )
        return f"{name!r} is not a category of the catalogue: {hint}"
