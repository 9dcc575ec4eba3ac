"""Draw raw interactions and a catalogue: `python -m benchmarks.prepare_data FOLDER csv|parquet EVENTS`."""

import sys
from pathlib import Path

import numpy as np
import polars as pl

EVENTS_PER_USER, EVENTS_PER_ITEM = 10, 50
FIRST, SECONDS = 1_300_000_000, 10 * 365 * 86_400
_CHUNK = 5_000_000


def main() -> None:
    """Write FOLDER/interactions.KIND in chunks, and FOLDER/items.csv."""
    folder, kind, events = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    num_users, num_items = events // EVENTS_PER_USER, max(100, events // EVENTS_PER_ITEM)
    rng = np.random.default_rng(0)
    parts = []
    for number, start in enumerate(range(0, events, _CHUNK)):
        part = folder / f".part-{number}.parquet"
        draw(rng, min(_CHUNK, events - start), num_users, num_items).write_parquet(part)
        parts.append(part)
    whole = pl.scan_parquet(parts)
    path = folder / f"interactions.{kind}"
    if kind == "csv":
        whole.sink_csv(path)
    else:
        whole.sink_parquet(path)
    for part in parts:
        part.unlink()
    number = pl.int_range(num_items, eager=True)
    items = pl.DataFrame({"item_id": item_ids(number), "title": pl.select("Thing " + number.cast(pl.String))})
    items.write_csv(folder / "items.csv")


def draw(rng: np.random.Generator, events: int, num_users: int, num_items: int) -> pl.DataFrame:
    """Rows in no order; one in a hundred occurs twice."""
    users = skewed(rng, events, num_users, 1.5)
    items = skewed(rng, events, num_items, 3.0)
    times = FIRST + rng.integers(0, SECONDS, events)
    again = rng.integers(0, events, events // 100)
    for column in (users, items, times):
        column[: len(again)] = column[again]
    return pl.DataFrame(
        {"user_id": user_ids(pl.Series(users)), "item_id": item_ids(pl.Series(items)), "timestamp": times}
    )


def skewed(rng: np.random.Generator, events: int, size: int, power: float) -> np.ndarray:  # type: ignore[type-arg]
    """Numbers below `size`, the smaller the more frequent, scattered over the range."""
    drawn = (rng.random(events) ** power * size).astype(np.int64)
    return drawn * 7_919 % size


def user_ids(numbers: pl.Series) -> pl.Series:
    """Texts of 14 characters."""
    return pl.select("A" + (numbers * 2_654_435_761 % 10**13).cast(pl.String).str.zfill(13)).to_series()


def item_ids(numbers: pl.Series) -> pl.Series:
    """Texts of 10 characters."""
    return pl.select("B" + (numbers * 40_503 % 10**9).cast(pl.String).str.zfill(9)).to_series()


if __name__ == "__main__":
    main()
