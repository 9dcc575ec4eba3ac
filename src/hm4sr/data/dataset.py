"""A prepared data set on disk: Parquet tables and a manifest with the hash of each.

events.parquet    user, item (1..), time: sorted by user, then in the order of the user's history
users.parquet     user_id, events, train_end, valid_end (counts from the start of the user's history)
items.parquet     item_id, title, brand, categories (list), text, image, maybe image_url;
                  row r is item number r + 1
manifest.json     format, rules, statistics, sources, files (sha256 of each)
features/NAME/    vectors of a modality, see `hm4sr.features.store`
images/           downloaded pictures, see `hm4sr.data.remote.pictures`; kept when the data set is replaced
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.errors import UserError
from hm4sr.files import atomic_directory, hash_files, reason
from hm4sr.manifest import NAME, check_format, read_manifest, verify_listed, write_manifest

if TYPE_CHECKING:
    from hm4sr.types import Clock

FORMAT = "hm4sr-dataset"
VERSION = 1
TABLES = ["events.parquet", "users.parquet", "items.parquet"]
COLUMNS: dict[str, dict[str, Any]] = {
    "events.parquet": dict.fromkeys(["user", "item", "time"], pl.Int64),
    "users.parquet": {
        "user_id": pl.String,
        **dict.fromkeys(["events", "train_end", "valid_end"], pl.Int64),
    },
    "items.parquet": {
        **dict.fromkeys(["item_id", "title", "brand", "text", "image"], pl.String),
        "categories": pl.List(pl.String),
    },
}
"""Columns of each table; Int64 stands for whole numbers of any width."""
IMAGES = "images"
"""Folder of the downloaded pictures."""

Part = Literal["train", "valid", "test"]

MOST_EARLIER = 1_000
"""How many events before those that a model reads are remembered at most, as items alone."""

_CHUNK = 1 << 22


@dataclass(frozen=True)
class EventLog:
    """All histories, end to end: twelve bytes an event and 24 a user.

    Attributes:
        items: item numbers (1..), int32.
        times: seconds since 1970, int64.
        starts: user u's events are `starts[u]:starts[u + 1]`, oldest first.
        train_end: user u's training events are `starts[u]:train_end[u]`.
        valid_end: the validation targets are `train_end[u]:valid_end[u]`, the test targets the rest.
    """

    items: NDArray[np.int32]
    times: NDArray[np.int64]
    starts: NDArray[np.int64]
    train_end: NDArray[np.int64]
    valid_end: NDArray[np.int64]

    @property
    def num_users(self) -> int:
        """Number of users."""
        return len(self.starts) - 1

    @property
    def num_events(self) -> int:
        """Number of events."""
        return len(self.items)

    def bounds(self, part: Part) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and one past the last event of a part, for each user."""
        edges = [self.starts[:-1], self.train_end, self.valid_end, self.starts[1:]]
        index = ("train", "valid", "test").index(part)
        return edges[index], edges[index + 1]

    @property
    def users(self) -> NDArray[np.int32]:
        """The user of each event, made anew at each call: four bytes an event that few need for long."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), np.diff(self.starts))

    def users_of(self, events: NDArray[np.int64]) -> NDArray[np.int64]:
        """The users of the given events."""
        return np.searchsorted(self.starts, events, side="right") - 1

    def targets(self, part: Part) -> NDArray[np.int64]:
        """Event numbers to predict in the validation or test part, in user order."""
        first, end = self.bounds(part)
        return ranges(first, end - first)

    def earlier_items(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """Items of the newest events of each range of the log, at most `MOST_EARLIER`, filled up with 0.

        Args:
            starts: first event of each range.
            ends: one past its last event.

        Returns:
            a row for each range, as wide as the longest needs.
        """
        counts = np.minimum(ends - starts, MOST_EARLIER)
        position = np.arange(int(counts.max(initial=0)))
        if not len(position):
            return np.zeros((len(starts), 0), dtype=np.int64)
        index = np.minimum((ends - counts)[:, None] + position, self.num_events - 1)
        return np.where(position < counts[:, None], self.items[index], 0).astype(np.int64)

    def train_mask(self) -> NDArray[np.bool_]:
        """Whether each event belongs to the train part."""
        first, end = self.bounds("train")
        runs = np.stack([end - first, self.starts[1:] - end], axis=1).ravel()
        return np.repeat(np.tile([True, False], self.num_users), runs)

    def train_counts(self, num_items: int) -> NDArray[np.int64]:
        """Training events of each item row; row 0, padding, has none."""
        counts = np.zeros(num_items + 1, dtype=np.int64)
        for part, train in zip(in_chunks(self.items), in_chunks(self.train_mask()), strict=True):
            counts += np.bincount(part[train], minlength=num_items + 1)
        return counts

    def target_counts(self, num_items: int) -> NDArray[np.int64]:
        """Training targets of each item row: its training events that are nobody's first."""
        first, end = self.bounds("train")
        opening = self.items[first[end > first]]
        return self.train_counts(num_items) - np.bincount(opening, minlength=num_items + 1)

    def largest_gap(self) -> int:
        """Most seconds between two neighbouring training events of a user."""
        follows = self.train_mask()
        follows[self.starts[:-1][self.starts[:-1] < self.num_events]] = False  # a user's first event
        pairs = zip(
            in_chunks(self.times[1:]), in_chunks(self.times[:-1]), in_chunks(follows[1:]), strict=True
        )
        gaps = ((later - earlier)[wanted] for later, earlier, wanted in pairs)
        return max((int(gap.max(initial=0)) for gap in gaps), default=0)

    def clock(self) -> "Clock":
        """Time range and largest gap of the training events."""
        from hm4sr.types import Clock

        first, end = self.bounds("train")
        trained = end > first
        if not trained.any():
            return Clock()
        oldest, newest = self.times[first[trained]], self.times[end[trained] - 1]
        return Clock(int(oldest.min()), int(newest.max()), self.largest_gap())


class Dataset:
    """A prepared data set, opened from its folder.

    Attributes:
        path: the folder.
        manifest: the content of manifest.json.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> "Dataset":
        """Open a prepared data set, comparing its tables with their recorded hashes.

        Raises:
            UserError: no data set is there, it is of another version, or a table has changed.
        """
        path = Path(path)
        if not (path / NAME).is_file():
            raise UserError(
                f"{path} is not a prepared data set (no manifest.json): run `hm4sr prepare` first."
            )
        manifest = read_manifest(path / NAME)
        check_format(path, manifest, (FORMAT, VERSION), "a prepared data set", "run `hm4sr prepare` first")
        if verify:
            verify_listed(path, manifest, TABLES)
        return cls(path, manifest)

    @property
    def name(self) -> str:
        """Name of the folder, which names the data set in reports."""
        return self.path.resolve().name

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of each table: the identity of the data."""
        return dict(self.manifest["files"])

    @cached_property
    def items(self) -> pl.DataFrame:
        """Table of items; row r is item number r + 1."""
        return self._table("items.parquet")

    @cached_property
    def users(self) -> pl.DataFrame:
        """Table of users; row u is user number u."""
        return self._table("users.parquet")

    @cached_property
    def events(self) -> EventLog:
        """All events as flat arrays."""
        # Not from `self.users`, which would keep the ids of all users in memory.
        columns = ["events", "train_end", "valid_end"]
        users = self._table("users.parquet", columns)
        starts = np.concatenate([[0], np.cumsum(users["events"].to_numpy())]).astype(np.int64)
        log = EventLog(
            items=self._event_column("item").astype(np.int32, copy=False),
            times=self._event_column("time").astype(np.int64, copy=False),
            starts=starts,
            train_end=starts[:-1] + users["train_end"].to_numpy(),
            valid_end=starts[:-1] + users["valid_end"].to_numpy(),
        )
        self._check(log)
        return log

    def _event_column(self, name: str) -> NDArray[Any]:
        """One column at a time: making one array of the pieces of a file takes its memory twice."""
        return self._table("events.parquet", [name])[name].to_numpy()

    def _table(self, name: str, columns: list[str] | None = None) -> pl.DataFrame:
        """One of the tables, or some of its columns, which must be what they are said to be."""
        try:
            table = pl.read_parquet(self.path / name, columns=columns)
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise self._strange(name, reason(error)) from error
        for column, kind in COLUMNS[name].items():
            if columns is None and column not in table.columns:
                raise self._strange(name, f"it has no column {column}")
            if column not in table.columns:
                continue
            given = table.schema[column]
            empty = given in (pl.Null, pl.List(pl.Null))
            if given != kind and not empty and not (kind == pl.Int64 and given.is_integer()):
                raise self._strange(name, f"{column} is of type {given}")
            if kind == pl.Int64 and table[column].null_count():
                raise self._strange(name, f"{column} has empty cells")
        return table

    def _check(self, log: EventLog) -> None:
        """Whether numbers of events and items fit; files that were made elsewhere may hold anything."""
        lengths = np.diff(log.starts)
        if not (len(log.items) == len(log.times) == log.starts[-1]):
            raise self._strange("users.parquet", "the events of all users are not those of events.parquet")
        first, last = log.starts[:-1], log.starts[1:]
        if (lengths < 0).any() or not ((first <= log.train_end) & (log.valid_end <= last)).all():
            raise self._strange("users.parquet", "a part lies outside of its user's events")
        if (log.train_end > log.valid_end).any():
            raise self._strange("users.parquet", "a part ends before it begins")
        try:
            height = pl.scan_parquet(self.path / "items.parquet").select(pl.len()).collect().item()
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise self._strange("items.parquet", reason(error)) from error
        if log.num_events and not (log.items.min() > 0 and log.items.max() <= height):
            raise self._strange("events.parquet", "an item's number is not in items.parquet")

    def _strange(self, name: str, what: str) -> UserError:
        return UserError(
            f"{self.path / name} is not what `hm4sr prepare` writes ({what}): prepare the data again."
        )

    @property
    def num_items(self) -> int:
        """Number of real items."""
        return len(self.items)

    @cached_property
    def category_names(self) -> list[str]:
        """Names of the categories, sorted; category number c (1..) is `category_names[c - 1]`."""
        return sorted(self.items["categories"].explode().drop_nulls().unique().to_list())

    def item_categories(self) -> NDArray[np.int64] | None:
        """Category numbers of each item row, padded with 0 (shape V x P); None where there are none."""
        names = self.category_names
        if not names:
            return None
        numbers = {name: number for number, name in enumerate(names, start=1)}
        lists = [sorted({numbers[name] for name in row}) for row in self.items["categories"].to_list()]
        table = np.zeros((self.num_items + 1, max(map(len, lists))), dtype=np.int64)
        for row, values in enumerate(lists, start=1):
            table[row, : len(values)] = values
        return table


def in_chunks(values: NDArray[Any], size: int = _CHUNK) -> Iterator[NDArray[Any]]:
    """Pieces of an array, so that what is computed from it does not need as much memory again."""
    return (values[start : start + size] for start in range(0, len(values), size))


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate `range(s, s + n)` over pairs of start and length, without a Python loop."""
    lengths = np.maximum(lengths, 0)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    index: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(
        starts - (ends - lengths), lengths
    )
    return index


def save_dataset(
    path: Path,
    events: pl.DataFrame,
    users: pl.DataFrame,
    items: pl.DataFrame,
    rules: dict[str, Any],
    statistics: dict[str, Any],
    sources: Sequence[dict[str, Any]] = (),
) -> Dataset:
    """Write a prepared data set, whole or not at all.

    Args:
        path: folder to create or replace.
        events: columns user (int32), item (int32, from 1), time (int64), in the order they are kept.
        users: columns user_id, events, train_end, valid_end.
        items: columns item_id, title, brand, categories, text, image, and maybe image_url.
        rules: the settings of the preparation.
        statistics: what `hm4sr prepare` prints.
        sources: name and sha256 of each raw file.
    """
    with atomic_directory(path, keep=[IMAGES]) as folder:
        for name, table in zip(TABLES, (events, users, items), strict=True):
            table.write_parquet(folder / name, compression="zstd", statistics=False)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "rules": rules,
            "statistics": statistics,
            "sources": list(sources),
            "files": hash_files(folder, TABLES),
        }
        write_manifest(folder / NAME, manifest)
    return Dataset(path, manifest)
