"""From raw interactions and a catalogue to a prepared data set: filter, order, split, number.

The steps are pure functions on arrays of codes: no step loops over rows, and none changes its input.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from hm4sr.config import Config
from hm4sr.data.catalogue import FIELDS, Catalogue, build_items, category_separator, read_catalogue
from hm4sr.data.dataset import FORMAT, TABLES, Dataset, save_dataset
from hm4sr.data.tables import Table, read_table, vocabulary
from hm4sr.data.timestamps import TimeUnit, read_times
from hm4sr.errors import UserError
from hm4sr.files import read_json, sha256

logger = logging.getLogger(__name__)

Duplicates = Literal["event", "pair", "keep"]
Ties = Literal["file", "hash"]


class PrepareConfig(Config):
    """Rules of the preparation; the defaults are the paper's (5.1.1)."""

    user_column: str = "user_id"
    """Interactions: column of user ids."""
    item_column: str = "item_id"
    """Interactions and items: column of item ids."""
    time_column: str = "timestamp"
    """Interactions: column of timestamps."""
    rating_column: str = "rating"
    """Interactions: column of ratings, read when a minimum is set."""
    title_column: str = "title"
    """Items: column of titles."""
    category_column: str = "category"
    """Items: column of categories."""
    brand_column: str = "brand"
    """Items: column of brands."""
    image_column: str = "image_path"
    """Items: column of the pictures' paths."""
    text_columns: tuple[str, ...] = ()
    """Items: columns that make the text, in this order; title, categories and brand if not given."""
    image_root: Path | None = None
    """Folder that the pictures' paths are relative to; the folder of the items file if not given."""
    category_separator: str = "auto"
    """What divides the categories in a cell; auto recognises ' > ', '|' and ';', none takes cells whole."""
    time_unit: TimeUnit = "auto"
    """Unit of the timestamps; auto decides from the whole column."""
    min_rating: float | None = None
    """Drop interactions rated lower."""
    duplicates: Duplicates = "event"
    """Keep one interaction of each user, item and timestamp (event), of each user and item (pair), or all (keep)."""
    min_user_events: int = Field(default=5, ge=1)
    """Drop users with fewer interactions, repeatedly."""
    min_item_events: int = Field(default=5, ge=1)
    """Drop items with fewer interactions, repeatedly."""
    ties: Ties = "file"
    """Order of a user's interactions with equal timestamps: as in the file, or by a hash of user and item."""
    missing_items: Literal["error", "drop", "keep"] = "error"
    """What to do with interactions whose item is not in the items file: keep makes items without metadata."""


@dataclass(frozen=True)
class Interactions:
    """Interactions in the order of the file.

    Attributes:
        users: number of the user (from 0), int32.
        items: number of the item (from 0), int32.
        ticks: time since 1970, int64, in any unit.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    ticks: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[Any]) -> "Interactions":
        """The rows that a mask or an array of row numbers selects."""
        return Interactions(self.users[rows], self.items[rows], self.ticks[rows])


def deduplicate(log: Interactions, rule: Duplicates) -> NDArray[np.bool_]:
    """Mask of the interactions to keep: the earliest of each group of duplicates, the first in the file among equals."""
    kept = np.ones(len(log), dtype=np.bool_)
    if rule == "keep" or not len(log):
        return kept
    # Duplicates are neighbours once sorted; a stable sort leaves the first in the file in front.
    rows = np.lexsort((log.ticks, _pairs(log)))
    users, items, ticks = log.users[rows], log.items[rows], log.ticks[rows]
    same = (users[1:] == users[:-1]) & (items[1:] == items[:-1])
    if rule == "event":
        same &= ticks[1:] == ticks[:-1]
    kept[rows[1:][same]] = False
    return kept


def k_core(
    users: NDArray[np.int32], items: NDArray[np.int32], min_user_events: int, min_item_events: int
) -> NDArray[np.bool_]:
    """Mask of the largest set of interactions in which each user and each item has enough of them."""
    kept_rows = np.arange(len(users))
    num_rows = len(users)
    while len(kept_rows):
        enough_user = np.bincount(users) >= min_user_events
        enough_item = np.bincount(items) >= min_item_events
        kept = enough_user[users] & enough_item[items]
        if kept.all():
            break
        kept_rows, users, items = kept_rows[kept], users[kept], items[kept]
    mask = np.zeros(num_rows, dtype=np.bool_)
    mask[kept_rows] = True
    return mask


def order(log: Interactions, tie_keys: NDArray[np.uint64] | None = None) -> NDArray[np.intp]:
    """Row numbers sorted by user, then time; among equals by `tie_keys` and item, or else as in the file."""
    if tie_keys is None:
        return np.lexsort((log.ticks, log.users))
    return np.lexsort((log.items, tie_keys, log.ticks, log.users))


def tie_keys(log: Interactions, user_ids: pl.Series, item_ids: pl.Series) -> NDArray[np.uint64]:
    """A number for each interaction that depends on nothing but the raw ids of its user and item."""
    return _mix(_hashes(user_ids)[log.users] + _mix(_hashes(item_ids))[log.items])


def leave_one_out(events: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split histories of the given lengths: last = test, the one before = validation, the rest = train.

    Returns:
        train_end and valid_end, counted from the start of each history. Histories shorter than 3 are all train.
    """
    long = events >= 3
    return np.where(long, events - 2, events), np.where(long, events - 1, events)


def compact(codes: NDArray[np.int32], ids: pl.Series) -> tuple[NDArray[np.int32], pl.Series]:
    """Number anew, without gaps and in the same order, the ids that still occur."""
    present = np.bincount(codes, minlength=len(ids)) > 0
    numbers = (np.cumsum(present) - 1).astype(np.int32)
    return numbers[codes], ids.filter(pl.Series(present))


def describe(users: int, items: int, seconds: NDArray[np.int64]) -> dict[str, Any]:
    """Statistics as in the paper's Table 2; times in seconds since 1970 and as ISO text."""
    actions = len(seconds)
    first, last = int(seconds.min()), int(seconds.max())
    return {
        "users": users,
        "items": items,
        "actions": actions,
        "actions_per_user": round(actions / users, 4),
        "actions_per_item": round(actions / items, 4),
        "sparsity": round(1 - actions / (users * items), 8),
        "first_time": first,
        "last_time": last,
        "first_date": _iso(first),
        "last_date": _iso(last),
    }


def prepare(
    interactions: str | Path,
    items: str | Path,
    out: str | Path,
    config: PrepareConfig | None = None,
    force: bool = False,
) -> Dataset:
    """Prepare a data set; the raw files are only read, and `out` appears whole or not at all.

    Args:
        interactions: CSV, TSV or Parquet file of user, item and timestamp.
        items: CSV, TSV or Parquet file of the catalogue.
        out: folder to create.
        config: the rules.
        force: replace a prepared data set that is already at `out`, with its features.

    Raises:
        UserError: a file, a column, a cell or a rule is at fault, or `out` holds something else.
    """
    config = config or PrepareConfig()
    interactions, items, out = Path(interactions), Path(items), Path(out).resolve()
    if config.min_rating is None and "rating_column" in config.model_fields_set:
        raise UserError("--rating-column has no effect alone: set --min-rating too, or leave it out.")
    root = (config.image_root or items.parent).resolve()
    check_output(out, force, [interactions, items, root])
    fields = {name: getattr(config, f"{name}_column") for name in FIELDS}
    explicit = [name for name in FIELDS if f"{name}_column" in config.model_fields_set]
    catalogue = read_catalogue(items, config.item_column, fields, explicit, config.text_columns)
    separator = category_separator(catalogue, config.category_separator)

    raw = _read_interactions(interactions, config)
    log, removed = _filter(raw, catalogue, interactions, config)
    users, user_ids = compact(log.users, raw.user_ids)
    numbers, item_ids = compact(log.items, raw.item_ids)
    log = Interactions(users, numbers, log.ticks)
    keys = tie_keys(log, user_ids, item_ids) if config.ties == "hash" else None
    log = log.take(order(log, keys))
    seconds = log.ticks // raw.per_second

    item_table = build_items(catalogue, item_ids, separator, root)
    lengths = np.bincount(log.users).astype(np.int64)
    train_end, valid_end = leave_one_out(lengths)
    statistics = {
        **describe(len(user_ids), len(item_ids), seconds),
        "rows_read": raw.rows_read,
        "rows_removed": removed,
        "items_with": {
            name: len(item_table) - item_table[name].null_count()
            for name in ("title", "brand", "categories", "text", "image")
        },
        "time_unit": raw.time_unit,
        "category_separator": separator,
    }
    rules = config.model_dump(mode="json") | {
        "image_root": str(root) if "image" in catalogue.fields else None
    }
    try:
        return save_dataset(
            out,
            pl.DataFrame({"user": log.users, "item": log.items + np.int32(1), "time": seconds}),
            pl.DataFrame(
                {"user_id": user_ids, "events": lengths, "train_end": train_end, "valid_end": valid_end}
            ),
            item_table,
            rules,
            statistics,
            [
                {"name": file.name, "sha256": sha256(file), "bytes": file.stat().st_size}
                for file in (interactions, items)
            ],
        )
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}): choose another folder."
        ) from error


def check_output(out: Path, force: bool, needed: Sequence[Path] = ()) -> None:
    """Refuse a folder that must not be replaced.

    Args:
        out: absolute path of the folder to write.
        force: whether a prepared data set may be replaced.
        needed: files and folders that must survive.

    Raises:
        UserError: `out` is a file, or holds something that `hm4sr` did not write, or a data set without `force`.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file: give the name of a folder with --out.")
    names = {entry.name for entry in out.iterdir()}
    if not names:
        return
    prepared = "manifest.json" in names and _format(out / "manifest.json") == FORMAT
    strange = sorted(names - {*TABLES, "manifest.json", "features"}) if prepared else sorted(names)
    if strange:
        raise UserError(
            f"{out} holds other things than a prepared data set ({strange[0]}): choose another --out."
        )
    if not force:
        raise UserError(
            f"{out} holds a prepared data set already: add --force to replace it, or choose another --out."
        )
    for path in needed:
        if path.resolve().is_relative_to(out):
            raise UserError(f"{path} lies inside {out}, which --force would replace: choose another --out.")


@dataclass(frozen=True)
class _Raw:
    log: Interactions
    user_ids: pl.Series
    item_ids: pl.Series
    per_second: int
    time_unit: str
    rows_read: int
    removed: Mapping[str, int]


def _read_interactions(path: Path, config: PrepareConfig) -> _Raw:
    columns = {
        "--user-column": config.user_column,
        "--item-column": config.item_column,
        "--time-column": config.time_column,
    }
    if config.min_rating is not None:
        columns["--rating-column"] = config.rating_column
    table = read_table(path, columns, ids=[config.user_column, config.item_column])
    times = read_times(table.frame[config.time_column], config.time_unit, table.place)
    users, user_ids = vocabulary(table, config.user_column)
    items, item_ids = vocabulary(table, config.item_column)
    log = Interactions(users, items, times.ticks)
    removed = {}
    if config.min_rating is not None:
        rated = _ratings(table, config.rating_column) >= config.min_rating
        removed["rating"] = int((~rated).sum())
        log = log.take(rated)
    return _Raw(log, user_ids, item_ids, times.per_second, times.unit, len(users), removed)


def _ratings(table: Table, column: str) -> NDArray[np.float64]:
    ratings = table.frame[column].cast(pl.Float64, strict=False)
    wrong = ratings.is_null() | ~ratings.is_finite()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        value = table.frame[column][row]
        raise UserError(
            f"{table.place(row)}: {column} {value!r} is not a number: mend it or leave out --min-rating."
        )
    return ratings.to_numpy()


def _filter(
    raw: _Raw, catalogue: Catalogue, path: Path, config: PrepareConfig
) -> tuple[Interactions, dict[str, int]]:
    """Apply the rules one after the other; count what each removes."""
    log, removed = raw.log, dict(raw.removed)
    unknown = ~raw.item_ids.is_in(catalogue.ids.implode()).to_numpy()
    if config.missing_items != "keep":
        known = ~unknown[log.items]
        if config.missing_items == "error" and not known.all():
            first = raw.item_ids[int(log.items[~known].min())]
            count = len(np.unique(log.items[~known]))
            raise UserError(
                f"{catalogue.table.path} lacks {count:,} of the items in {path} (the first is {first!r}): "
                "add them, or set --missing-items to drop or keep."
            )
        removed["missing_items"] = int((~known).sum())
        log = log.take(known)
    kept = deduplicate(log, config.duplicates)
    removed["duplicates"] = int((~kept).sum())
    log = log.take(kept)
    kept = k_core(log.users, log.items, config.min_user_events, config.min_item_events)
    removed["k_core"] = int((~kept).sum())
    log = log.take(kept)
    if not len(log):
        counts = ", ".join(f"{rule} removed {count:,}" for rule, count in removed.items())
        raise UserError(
            f"{path}: none of {raw.rows_read:,} interactions is left ({counts}): "
            "lower --min-user-events and --min-item-events."
        )
    return log, removed


def _pairs(log: Interactions) -> NDArray[np.int64]:
    return log.users.astype(np.int64) * (int(log.items.max(initial=0)) + 1) + log.items


def _hashes(ids: pl.Series) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al., 2014): every input bit changes every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _iso(second: int) -> str:
    try:
        return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(second)


def _format(path: Path) -> Any:
    try:
        manifest = read_json(path)
    except UserError:
        return None
    return manifest.get("format") if isinstance(manifest, dict) else None
