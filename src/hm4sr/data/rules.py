"""The rules that decide which interactions are kept, in which order, and in which part they fall."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hm4sr.config import Config
from hm4sr.data.interactions import (
    Duplicates,
    Interactions,
    Ties,
    compact,
    deduplicate,
    k_core,
    order,
    tie_keys,
)
from hm4sr.data.split import (
    TEST,
    TRAIN,
    VALID,
    Cold,
    Moments,
    Parts,
    Split,
    choose_moments,
    drop_cold,
    parts_by_position,
    parts_by_time,
)
from hm4sr.errors import UserError


class Rules(Config):
    """Rules of the preparation; the defaults are the paper's (5.1.1)."""

    min_rating: float | None = None
    """Drop interactions rated lower."""
    duplicates: Duplicates = "event"
    """Keep one interaction per user, item and timestamp (event), per user and item (pair), or all (keep)."""
    min_user_events: int = Field(default=5, ge=1)
    """Drop users with fewer interactions, repeatedly."""
    min_item_events: int = Field(default=5, ge=1)
    """Drop items with fewer interactions, repeatedly."""
    ties: Ties = "file"
    """Order of a user's interactions with equal timestamps: as in the file, or by a hash of user and item."""
    split: Split = "leave-one-out"
    """Validation and test: each user's last two interactions, or those after two moments, same for all."""
    valid_share: float = Field(default=0.1, gt=0, lt=1)
    """Global split: share of the interactions that are for validation."""
    test_share: float = Field(default=0.1, gt=0, lt=1)
    """Global split: share of the interactions, the newest ones, that are for test."""
    valid_from: datetime | None = None
    """Global split: date at which validation begins, instead of the share."""
    test_from: datetime | None = None
    """Global split: date at which the test begins, instead of the share."""
    cold_items: Cold | None = None
    """Later interactions with items that have none in training: if not given, kept under leave-one-out and
    dropped under a global split."""
    cold_users: Cold | None = None
    """Global split: interactions of users who have none in training: dropped if not given."""

    @model_validator(mode="after")
    def _only_rules_with_an_effect(self) -> Self:
        given = self.model_fields_set
        if self.split == "leave-one-out":
            for name in ("valid_share", "test_share", "valid_from", "test_from", "cold_users"):
                if name in given and getattr(self, name) is not None:
                    raise ValueError(f"{name} has an effect only under split = global-time")
        for part in ("valid", "test"):
            if f"{part}_share" in given and getattr(self, f"{part}_from") is not None:
                raise ValueError(f"{part}_share has no effect beside {part}_from")
        return self

    @property
    def cold(self) -> tuple[Cold, Cold]:
        """Rules for cold users and cold items."""
        usual: Cold = "keep" if self.split == "leave-one-out" else "drop"
        return self.cold_users or usual, self.cold_items or usual


@dataclass(frozen=True)
class Kept:
    """What the rules leave.

    Attributes:
        log: histories end to end, each in the order of time; users and items numbered without gaps.
        parts: part of each event.
        moments: those of a global split.
        user_ids: raw id of each user.
        item_ids: raw id of each item.
        removed: interactions that each rule removed.
    """

    log: Interactions
    parts: Parts
    moments: Moments | None
    user_ids: pl.Series
    item_ids: pl.Series
    removed: Mapping[str, int]


def apply_rules(
    log: Interactions,
    user_ids: pl.Series,
    item_ids: pl.Series,
    per_second: int,
    rules: Rules,
    removed: Mapping[str, int],
    path: Path,
) -> Kept:
    """Drop duplicates, choose the split, cut to the core, order, and drop what is cold.

    Args:
        log: interactions in the order of the file.
        user_ids: raw id of each user number.
        item_ids: raw id of each item number.
        per_second: ticks in a second.
        rules: the settings.
        removed: interactions that earlier rules removed.
        path: file that error messages name.

    Raises:
        UserError: nothing is left, or a global split has an empty part.
    """
    removed = dict(removed)
    rows_read = len(log) + sum(removed.values())
    kept = deduplicate(log, rules.duplicates)
    removed["duplicates"] = int((~kept).sum())
    log = log.take(kept)
    _check_rest(log, rows_read, removed, path)
    moments = None
    if rules.split == "global-time":
        dates = (rules.valid_from, rules.test_from)
        moments = choose_moments(log.ticks // per_second, rules.valid_share, rules.test_share, *dates)
    kept = _core(log, moments, per_second, rules)
    removed["k_core"] = int((~kept).sum())
    log, user_ids, item_ids = _renumber(log.take(kept), user_ids, item_ids)
    _check_rest(log, rows_read, removed, path)
    keys = tie_keys(log, user_ids, item_ids) if rules.ties == "hash" else None
    log = log.take(order(log, keys))
    parts = parts_by_time(log.ticks, per_second, moments) if moments else parts_by_position(log.users)
    _check_rest(log.take(np.flatnonzero(parts == TRAIN)[:1]), rows_read, removed, path)
    kept, cold = drop_cold(log, parts, *rules.cold)
    removed |= cold
    if not kept.all():
        parts = parts[kept]
        log, user_ids, item_ids = _renumber(log.take(kept), user_ids, item_ids)
    if moments:
        _check_parts(parts, path)
    return Kept(log, parts, moments, user_ids, item_ids, removed)


def _core(log: Interactions, moments: Moments | None, per_second: int, rules: Rules) -> NDArray[np.bool_]:
    """Mask of the k-core; a global split counts training interactions alone: later ones tell the future."""
    least = (rules.min_user_events, rules.min_item_events)
    if moments is None:
        return k_core(log.users, log.items, *least)
    train = parts_by_time(log.ticks, per_second, moments) == TRAIN
    kept: NDArray[np.bool_] = ~train
    kept[train] = k_core(log.users[train], log.items[train], *least)
    return kept


def _renumber(
    log: Interactions, user_ids: pl.Series, item_ids: pl.Series
) -> tuple[Interactions, pl.Series, pl.Series]:
    users, user_ids = compact(log.users, user_ids)
    items, item_ids = compact(log.items, item_ids)
    return Interactions(users, items, log.ticks), user_ids, item_ids


def _check_rest(log: Interactions, rows_read: int, removed: Mapping[str, int], path: Path) -> None:
    if not len(log):
        counts = ", ".join(f"{rule.replace('_', ' ')} {count:,}" for rule, count in removed.items() if count)
        advice = "lower --min-user-events and --min-item-events, or loosen the rule that removed most"
        raise UserError(
            f"{path} has {rows_read:,} rows and none is left to train on (removed: {counts}): {advice}."
        )


def _check_parts(parts: Parts, path: Path) -> None:
    for part, name in ((VALID, "validation"), (TEST, "test")):
        if not (parts == part).any():
            what = f"{path}: all interactions of the {name} part are of users or items without training"
            raise UserError(f"{what}: choose other moments, or set --cold-users and --cold-items to keep.")
