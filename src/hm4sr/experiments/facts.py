"""What is in a prepared data set: the figures that `hm4sr inspect` shows. No model takes part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.data.dataset import Dataset, EventLog, Part, in_chunks
from hm4sr.data.interactions import count_pairs
from hm4sr.errors import UserError
from hm4sr.features.store import feature_names, load_features

PARTS: tuple[Part, ...] = ("train", "valid", "test")
NUM_TIME_BINS = 30
"""As in the paper's Figure 7 (A.3)."""
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Times:
    """When things happened.

    Attributes:
        first: earliest event, in seconds since 1970.
        last: latest event.
        bins: events of each part in 30 equal intervals from the first to the last (3 x 30).
        busiest_day: number of the day since 1970 with most events.
        on_busiest_day: events on that day.
        whole_days: every event lies at midnight (UTC).
    """

    first: int
    last: int
    bins: Counts
    busiest_day: int
    on_busiest_day: int
    whole_days: bool


@dataclass(frozen=True)
class PartFacts:
    """The validation or test part, or the train part.

    Attributes:
        events: its events.
        users: users who have some.
        first: earliest, in seconds since 1970; None where there are none.
        last: latest.
        tied: events at the same second as the one before of the same user: which is first is a convention.
        ascending: those of them whose item has the greater id of the two.
        repeated: events whose item the user had before.
        cold: events whose item has no training event.
        newer_in_training: mean share of the training events that are newer than a target of this part.
    """

    events: int
    users: int
    first: int | None
    last: int | None
    tied: int
    ascending: int
    repeated: int
    cold: int
    newer_in_training: float


@dataclass(frozen=True)
class Covered:
    """Something that an item may have.

    Attributes:
        name: what.
        items: share of the items that have it.
        events: share of the events whose item has it.
    """

    name: str
    items: float
    events: float


@dataclass(frozen=True)
class Facts:
    """Figures of a data set.

    Attributes:
        name: the folder's name.
        num_users: users.
        num_items: items.
        num_events: events, as `actions` in the paper's Table 2.
        rules: the settings of the preparation.
        times: when things happened.
        parts: the three parts.
        lengths: events of each user.
        item_events: events of each item.
        coverage: texts, pictures, vectors.
        tied: events that share their second with another one of their user.
        out_of_order: events older than the one before of the same user.
        same_titles: groups of raw item ids whose titles have the same words, largest first.
        stale: why vectors that are there cannot be used.
    """

    name: str
    num_users: int
    num_items: int
    num_events: int
    num_pairs: int
    rules: Mapping[str, object]
    times: Times
    parts: Mapping[Part, PartFacts]
    lengths: Counts
    item_events: Counts
    coverage: Sequence[Covered]
    tied: int
    out_of_order: int
    same_titles: Sequence[Sequence[str]]
    stale: Sequence[str]

    @property
    def sparsity(self) -> float:
        """Share of the pairs of a user and an item without an event."""
        return 1 - self.num_pairs / (self.num_users * self.num_items)


def collect(dataset: Dataset) -> Facts:
    """Compute all figures; works through the events in pieces."""
    log = dataset.events
    item_events = _count_items(log, dataset.num_items)
    coverage, stale = _coverage(dataset, item_events)
    first = np.zeros(log.num_events, dtype=np.bool_)
    first[log.starts[:-1][np.diff(log.starts) > 0]] = True
    same, older = _compare_with_previous(log, first)
    tied = same.copy()
    tied[:-1] |= same[1:]
    return Facts(
        name=dataset.name,
        num_users=log.num_users,
        num_items=dataset.num_items,
        num_events=log.num_events,
        num_pairs=count_pairs(log.users, log.items),
        rules=dataset.manifest["rules"],
        times=time_facts(log),
        parts=_parts(dataset, same),
        lengths=np.diff(log.starts),
        item_events=item_events,
        coverage=coverage,
        tied=int(tied.sum()),
        out_of_order=int(older.sum()),
        same_titles=same_titles(dataset.items),
        stale=stale,
    )


def head_share(counts: Counts, share: float) -> float:
    """Part of the events that belongs to the most popular `share` of the items (at least one)."""
    head = max(1, round(len(counts) * share))
    return float(np.sort(counts)[-head:].sum() / max(counts.sum(), 1))


def gini(counts: Counts) -> float:
    """Gini coefficient: 0 if all items have as many events, near 1 if one has them all."""
    ordered = np.sort(counts)
    total, size = float(ordered.sum()), len(ordered)
    if not total:
        return 0.0
    return float(2 * (np.arange(1, size + 1) * ordered).sum() / (size * total) - (size + 1) / size)


def lorenz(counts: Counts, num_points: int = 100) -> list[tuple[float, float]]:
    """Points of the curve: the most popular x % of the items have y % of the events."""
    shares = np.cumsum(np.sort(counts)[::-1]) / max(counts.sum(), 1)
    at = np.unique(np.linspace(0, len(counts), num_points + 1).round().astype(int))
    return [(100 * int(n) / len(counts), 100 * float(shares[n - 1]) if n else 0.0) for n in at]


def same_titles(items: pl.DataFrame) -> list[list[str]]:
    """Groups of item ids whose titles agree but for case, punctuation and the order of the words."""
    words = pl.col("title").str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+").list.sort().list.join(" ")
    groups = (
        items.select("item_id", words.alias("words"))
        .filter(pl.col("words") != "")
        .group_by("words", maintain_order=True)
        .agg("item_id")
        .filter(pl.col("item_id").list.len() > 1)
        .sort(pl.col("item_id").list.len(), descending=True, maintain_order=True)
    )
    found: list[list[str]] = groups["item_id"].to_list()
    return found


def _count_items(log: EventLog, num_items: int) -> Counts:
    counts = np.zeros(num_items + 1, dtype=np.int64)
    for items in in_chunks(log.items):
        counts += np.bincount(items, minlength=num_items + 1)
    return counts[1:]


def _compare_with_previous(log: EventLog, first: Mask) -> tuple[Mask, Mask]:
    """Whether each event is as old as, and older than, the one before of the same user."""
    same, older = np.zeros((2, log.num_events), dtype=np.bool_)
    np.equal(log.times[1:], log.times[:-1], out=same[1:])
    np.less(log.times[1:], log.times[:-1], out=older[1:])
    return same & ~first, older & ~first


def time_facts(log: EventLog) -> Times:
    """When things happened; works through the events in pieces."""
    first, last = int(log.times.min()), int(log.times.max())
    bins = np.zeros((len(PARTS), NUM_TIME_BINS), dtype=np.int64)
    for number, part in enumerate(PARTS):
        for times in in_chunks(log.times[log.targets(part)]):
            place = (times - first) * NUM_TIME_BINS // max(last - first, 1)
            bins[number] += np.bincount(np.minimum(place, NUM_TIME_BINS - 1), minlength=NUM_TIME_BINS)
    days, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for times in in_chunks(log.times):
        table = pl.DataFrame({"day": np.concatenate([days, times // 86_400])}).with_columns(
            n=np.concatenate([counts, np.ones(len(times), dtype=np.int64)])
        )
        summed = table.group_by("day").agg(pl.col("n").sum()).sort("day")
        days, counts = summed["day"].to_numpy(), summed["n"].to_numpy()
    busiest = int(counts.argmax())
    whole = all(not (times % 86_400).any() for times in in_chunks(log.times))
    return Times(first, last, bins, int(days[busiest]), int(counts[busiest]), whole)


def _parts(dataset: Dataset, same: Mask) -> dict[Part, PartFacts]:
    log, num_items = dataset.events, dataset.num_items
    order = _order_of_ids(dataset)
    trained = log.train_counts(num_items) > 0
    repeated = _repeated(log, num_items)
    train_times = np.sort(log.times[log.targets("train")])
    facts = {}
    for part in PARTS:
        events = log.targets(part)
        times = log.times[events]
        tied = events[same[events]]
        first, end = log.bounds(part)
        facts[part] = PartFacts(
            events=len(events),
            users=int((end > first).sum()),
            first=int(times.min()) if len(times) else None,
            last=int(times.max()) if len(times) else None,
            tied=len(tied),
            ascending=int((order[log.items[tied]] > order[log.items[tied - 1]]).sum()),
            repeated=int(repeated[events].sum()),
            cold=int((~trained[log.items[events]]).sum()),
            newer_in_training=0.0 if part == "train" else _share_newer(train_times, times),
        )
    return facts


def _order_of_ids(dataset: Dataset) -> NDArray[np.int64]:
    """Place of each item number when items are sorted by id: as numbers, where all ids are."""
    ids = dataset.items["item_id"]
    numbers = ids.cast(pl.Int64, strict=False)
    places = (ids if numbers.null_count() else numbers).rank("dense").to_numpy()
    return np.concatenate([[0], places]).astype(np.int64)


def _share_newer(sorted_times: NDArray[np.int64], moments: NDArray[np.int64]) -> float:
    """Share of the times that lie after a moment, in the mean over the moments."""
    if not len(moments) or not len(sorted_times):
        return 0.0
    older = np.searchsorted(sorted_times, np.sort(moments), side="right")
    return 1 - float(older.mean()) / len(sorted_times)


def _repeated(log: EventLog, num_items: int) -> Mask:
    """Whether the user of each event had its item before."""
    key = log.users * np.int64(num_items + 1) + log.items
    rows = np.argsort(key, kind="stable")
    repeated = np.zeros(log.num_events, dtype=np.bool_)
    repeated[rows[1:]] = key[rows[1:]] == key[rows[:-1]]
    return repeated


def _coverage(dataset: Dataset, item_events: Counts) -> tuple[list[Covered], list[str]]:
    items = dataset.items
    masks = {name: items[name].is_not_null().to_numpy() for name in ("title", "brand", "text")}
    masks["categories"] = (items["categories"].list.len() > 0).to_numpy()
    masks["picture named"] = items["image"].is_not_null().to_numpy()
    if masks["picture named"].any():
        root = Path(str(dataset.manifest["rules"].get("image_root") or ""))
        found = [path is not None and (root / path).is_file() for path in items["image"].to_list()]
        masks["picture found"] = np.array(found, dtype=np.bool_)
    stale = []
    for name in feature_names(dataset):
        try:
            masks[f"vector: {name}"] = load_features(dataset, name).present[1:].numpy()
        except UserError as error:
            stale.append(str(error))
    total = max(int(item_events.sum()), 1)
    rows = [
        Covered(name, float(has.mean()), float(item_events[has].sum() / total)) for name, has in masks.items()
    ]
    return rows, stale
