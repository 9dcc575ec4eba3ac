"""A simulated shop whose answer is known: tastes in words, tastes in pictures, and time that matters.

Every user follows a *thread*, one interest: a taste in text, a taste in pictures, a category. The gap
before an event says what the event is:

    seconds          an impulse buy at the till: popular, in season, and silent about the interest
    hours to days    the thread goes on
    weeks            another thread begins: one of the user's few interests, or a new one (tastes drift)

and the day of the year says which product kinds sell at all. An item is drawn from a softmax over the sum
of these parts, never twice for one user. A recommender is not shown the time of the event to predict, but
the gaps between the history's events tell which of them speak of the current interest, and the last one's
time tells the season.

Written files: interactions.csv, items.csv, images/*.png, and what only a test may read: truth.json
(settings, names of the tastes, latent facts of each item) and truth.parquet (kind and interest behind each
interaction).
"""

import calendar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hm4sr.config import Config
from hm4sr.data.drawing import PICTURE_TASTES, draw_product
from hm4sr.data.vocabulary import FILLERS, KINDS, SEASON_PEAKS, SEASONS, TEXT_TASTES
from hm4sr.files import atomic_directory, write_json
from hm4sr.progress import track

IMPULSE, THREAD, JUMP = 0, 1, 2
KIND_NAMES = ("impulse", "thread", "jump")
GAP_SECONDS = ((15, 150), (3_600, 3 * 86_400), (21 * 86_400, 120 * 86_400))
"""Shortest and longest gap before an event of each kind; in between its logarithm is uniform."""

START = calendar.timegm((2021, 1, 1, 0, 0, 0))
DAYS_OF_YEAR = 365.25
_FEWEST_EVENTS, _MOST_EVENTS = 5, 60
_USERS_AT_ONCE = 2048


class SimulateConfig(Config):
    """Size and strengths of the simulated shop."""

    users: int = Field(1_500, ge=1)
    """Number of users."""
    items: int = Field(1_000, ge=50)
    """Number of items."""
    events_per_user: float = Field(12.0, ge=_FEWEST_EVENTS)
    """Mean length of a history; the shortest is 5, as a 5-core filter wants it."""
    seed: int = Field(0, ge=0)
    """Seed of the one random generator; the same seed gives the same bytes."""
    start_days: int = Field(730, ge=1)
    """Users arrive evenly over this many days from 2021-01-01."""
    impulse: float = Field(0.2, ge=0, le=1)
    """Share of events that are impulse buys."""
    jump: float = Field(0.15, ge=0, le=1)
    """Share of events that begin another thread."""
    interests: int = Field(3, ge=1)
    """Interests a user has at one time."""
    drift: float = Field(0.3, ge=0, le=1)
    """Probability that a jump leads to an interest new to the user, which replaces an old one."""
    text_strength: float = 5.0
    """Added to an item's score when its words speak to the interest."""
    picture_strength: float = 5.0
    """Added to an item's score when its picture speaks to the interest."""
    category_strength: float = 2.5
    """Added to an item's score when its category is the interest's."""
    season_strength: float = 3.5
    """Added to an item's score at the height of its season, subtracted half a year later."""
    popularity_strength: float = 0.5
    """Standard deviation of the items' popularity on the score's scale."""
    picture_size: int = Field(96, ge=16)
    """Width and height of the pictures in pixels."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.impulse + self.jump > 1:
            raise ValueError("impulse and jump are shares of the same events: make them sum to 1 at most")
        return self


@dataclass(frozen=True)
class Shop:
    """The latent facts of the items, and what follows from them for the score of an item.

    Attributes:
        text_taste: row of TEXT_TASTES, for each item.
        picture_taste: row of PICTURE_TASTES, for each item.
        category: row of KINDS, for each item.
        season: row of SEASONS, for each item.
        popularity: part of the score that is the same for everybody.
    """

    text_taste: NDArray[np.int64]
    picture_taste: NDArray[np.int64]
    category: NDArray[np.int64]
    season: NDArray[np.int64]
    popularity: NDArray[np.float64]

    def season_score(self, times: NDArray[np.int64], config: SimulateConfig) -> NDArray[np.float64]:
        """Part of the score that the time decides (times x items); 0 for what sells all year."""
        peaks = np.array(SEASON_PEAKS)[np.minimum(self.season, 3)]
        days = (times - START) / 86_400
        height = np.cos((days[:, None] - peaks) * (2 * np.pi / DAYS_OF_YEAR))
        score: NDArray[np.float64] = config.season_strength * height * (self.season < 4)
        return score

    def interest_score(self, interests: NDArray[np.int64], config: SimulateConfig) -> NDArray[np.float64]:
        """Part of the score that the interest decides (interests x items).

        Args:
            interests: taste in text, taste in pictures and category, side by side (interests x 3).
            config: the strengths.
        """
        parts = (
            (config.text_strength, self.text_taste),
            (config.picture_strength, self.picture_taste),
            (config.category_strength, self.category),
        )
        score = np.zeros((len(interests), len(self.category)))
        for wanted, (strength, offered) in zip(interests.T, parts, strict=True):
            score += strength * (wanted[:, None] == offered)
        return score


@dataclass(frozen=True)
class _Events:
    """Events in order of users, each history oldest first, with what lies behind them."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    kinds: NDArray[np.int64]
    interests: NDArray[np.int64]  # events x 3: taste in text, taste in pictures, category


def simulate(config: SimulateConfig, folder: str | Path) -> None:
    """Write the raw files of a simulated shop, whole or not at all; an existing folder is replaced."""
    generator = np.random.default_rng(config.seed)
    shop = _stock(config, generator)
    titles, brands = _describe(shop, generator)
    events = _shop_for_years(config, shop, generator)
    with atomic_directory(Path(folder)) as place:
        (place / "images").mkdir()
        item_ids = _ids("i", config.items)
        paths = [f"images/{item}.png" for item in item_ids]
        for row, path in enumerate(track(paths, "drawing", len(paths), "pictures")):
            category, taste = int(shop.category[row]), int(shop.picture_taste[row])
            draw_product(category, taste, config.picture_size, generator).save(place / path)
        names = list(KINDS)
        pl.DataFrame(
            {
                "item_id": item_ids,
                "title": titles,
                "category": [names[category] for category in shop.category],
                "brand": brands,
                "image_path": paths,
            }
        ).write_csv(place / "items.csv")
        truth = _event_table(config, events)
        truth.select("user_id", "item_id", "timestamp").write_csv(place / "interactions.csv")
        truth.write_parquet(place / "truth.parquet")
        write_json(place / "truth.json", _truth(config, shop))


def load_shop(truth: dict[str, Any]) -> tuple[SimulateConfig, Shop]:
    """The settings and the latent facts of the items, from the content of truth.json."""
    columns = {name: np.array(values) for name, values in truth["items"].items()}
    return SimulateConfig.parse(truth["config"], "truth.json"), Shop(**columns)


def _stock(config: SimulateConfig, generator: np.random.Generator) -> Shop:
    def even(choices: int) -> NDArray[np.int64]:
        return generator.permutation(np.arange(config.items) % choices)

    return Shop(
        text_taste=even(len(TEXT_TASTES)),
        picture_taste=even(len(PICTURE_TASTES)),
        category=even(len(KINDS)),
        season=even(len(SEASONS)),
        popularity=np.round(config.popularity_strength * generator.standard_normal(config.items), 6),
    )


def _describe(shop: Shop, generator: np.random.Generator) -> tuple[list[str], list[str]]:
    """Titles and brands, which tell the taste in text and the product kind."""
    vocabulary, kinds = list(TEXT_TASTES.values()), list(KINDS.values())
    titles, brands = [], []
    for taste, category, season in zip(shop.text_taste, shop.category, shop.season, strict=True):
        words, makers = vocabulary[taste]
        first, second = generator.permutation(len(words))[:2]
        filler = FILLERS[generator.integers(len(FILLERS))]
        titles.append(f"{words[first].capitalize()} {words[second]} {kinds[category][season]}{filler}")
        brands.append(makers[generator.integers(len(makers))])
    return titles, brands


def _shop_for_years(config: SimulateConfig, shop: Shop, generator: np.random.Generator) -> _Events:
    extra = config.events_per_user - _FEWEST_EVENTS
    lengths = _FEWEST_EVENTS + generator.geometric(1 / (1 + extra), config.users) - 1
    lengths = np.minimum(lengths, max(_FEWEST_EVENTS, min(_MOST_EVENTS, config.items // 4)))
    parts = []
    for first in range(0, config.users, _USERS_AT_ONCE):
        users = np.arange(first, min(first + _USERS_AT_ONCE, config.users))
        parts.append(_histories(config, shop, users, lengths[users], generator))
    return _Events(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in _Events.__annotations__)
    )


def _histories(
    config: SimulateConfig,
    shop: Shop,
    users: NDArray[np.int64],
    lengths: NDArray[np.int64],
    generator: np.random.Generator,
) -> _Events:
    """Let users shop side by side, one event of each at a time."""
    count, steps = len(users), int(lengths.max())
    sizes = (len(TEXT_TASTES), len(PICTURE_TASTES), len(KINDS))
    own = generator.integers(0, sizes, (count, config.interests, 3))
    current = np.zeros(count, dtype=np.int64)
    now = START + generator.integers(0, config.start_days * 86_400, count)
    bought = np.zeros((count, config.items), dtype=bool)
    items, times, kinds = (np.zeros((count, steps), dtype=np.int64) for _ in range(3))
    interests = np.zeros((count, steps, 3), dtype=np.int64)
    bounds = np.log(GAP_SECONDS)
    for step in range(steps):
        kind = generator.choice(3, count, p=[config.impulse, 1 - config.impulse - config.jump, config.jump])
        gap = np.exp(generator.uniform(bounds[kind, 0], bounds[kind, 1])).astype(np.int64)
        if step == 0:
            kind[:], gap[:] = JUMP, 0
        now = now + gap
        if step and config.interests > 1:
            _jump(np.flatnonzero(kind == JUMP), own, current, config.drift, sizes, generator)
        draws = generator.random(count)
        rows = np.flatnonzero(lengths > step)
        interest = own[rows, current[rows]]
        score = shop.interest_score(interest, config) * (kind[rows] != IMPULSE)[:, None]
        score += shop.popularity + shop.season_score(now[rows], config)
        weight = np.where(bought[rows], 0.0, np.exp(score))
        edges = np.cumsum(weight, axis=1)
        chosen = (edges <= draws[rows, None] * edges[:, -1:]).sum(axis=1)
        bought[rows, chosen] = True
        items[rows, step], times[rows, step], kinds[rows, step] = chosen, now[rows], kind[rows]
        interests[rows, step] = interest
    real = np.arange(steps) < lengths[:, None]
    return _Events(np.repeat(users, lengths), items[real], times[real], kinds[real], interests[real])


def _jump(
    rows: NDArray[np.int64],
    own: NDArray[np.int64],
    current: NDArray[np.int64],
    drift: float,
    sizes: tuple[int, int, int],
    generator: np.random.Generator,
) -> None:
    """Move users to another of their interests, sometimes to a new one that takes its place."""
    count = own.shape[1]
    current[rows] = (current[rows] + generator.integers(1, count, len(rows))) % count
    fresh = generator.integers(0, sizes, (len(rows), 3))
    drifts = generator.random(len(rows)) < drift
    own[rows[drifts], current[rows[drifts]]] = fresh[drifts]


def _event_table(config: SimulateConfig, events: _Events) -> pl.DataFrame:
    """All events in the order of time, as a shop's log has them."""
    user_ids, item_ids = np.array(_ids("u", config.users)), np.array(_ids("i", config.items))
    order = np.lexsort((events.users, events.times))
    columns: dict[str, Any] = {
        "user_id": user_ids[events.users[order]],
        "item_id": item_ids[events.items[order]],
        "timestamp": events.times[order],
        "kind": np.array(KIND_NAMES)[events.kinds[order]],
    }
    for place, name in enumerate(("text_taste", "picture_taste", "category")):
        columns[name] = events.interests[order, place]
    return pl.DataFrame(columns)


def _truth(config: SimulateConfig, shop: Shop) -> dict[str, Any]:
    return {
        "config": config.model_dump(),
        "text_tastes": list(TEXT_TASTES),
        "picture_tastes": list(PICTURE_TASTES),
        "categories": list(KINDS),
        "seasons": list(SEASONS),
        "items": {name: getattr(shop, name).tolist() for name in Shop.__annotations__},
    }


def _ids(letter: str, count: int) -> list[str]:
    width = max(4, len(str(count - 1)))
    return [f"{letter}{number:0{width}d}" for number in range(count)]
