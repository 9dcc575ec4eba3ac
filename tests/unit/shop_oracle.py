"""What can be known about the simulated shop: a Bayesian filter with the true model, parts of it hidden.

The belief is over the user's current interest (taste in text x taste in pictures x category) and, when
times are hidden, over the time of year. It stands for the best a recommender could do with this information
and endless data.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl

from hm4sr.data.drawing import PICTURE_TASTES
from hm4sr.data.simulate import START, Shop, SimulateConfig
from hm4sr.data.vocabulary import KINDS, TEXT_TASTES

MONTHS = 12


@dataclass
class Histories:
    """Users side by side (U x L): item rows from 0, seconds, number of events."""

    items: np.ndarray
    times: np.ndarray
    lengths: np.ndarray


def read_histories(interactions: pl.DataFrame, num_users: int) -> Histories:
    table = interactions.sort("user_id", "timestamp").group_by("user_id", maintain_order=True).agg(pl.all())
    table = table.head(num_users)
    lengths = table["item_id"].list.len().to_numpy().astype(int)
    shape = (len(lengths), lengths.max())
    items, times = np.zeros(shape, dtype=int), np.zeros(shape, dtype=np.int64)
    real = np.arange(shape[1]) < lengths[:, None]
    items[real] = table["item_id"].explode().str.slice(1).cast(pl.Int64).to_numpy()
    times[real] = table["timestamp"].explode().to_numpy()
    return Histories(items, times, lengths)


def oracle_ndcg(config: SimulateConfig, shop: Shop, histories: Histories, hidden: Collection[str]) -> float:
    """Mean NDCG@10 of each user's last item, with some of {"text", "picture", "gaps", "season"} hidden."""
    states = np.array(list(np.ndindex(len(TEXT_TASTES), len(PICTURE_TASTES), len(KINDS))))
    known = config.model_copy(
        update={f"{name}_strength": 0.0 for name in hidden if name in ("text", "picture")}
    )
    interest = np.exp(shop.interest_score(states, known)).astype(np.float32)  # states x items
    months = START + ((np.arange(MONTHS) + 0.5) / MONTHS * 365.25 * 86_400).astype(np.int64)
    season = np.exp(shop.season_score(months, config) + shop.popularity).astype(np.float32)  # months x items
    total = interest @ season.T  # states x months
    impulse = season / season.sum(axis=1, keepdims=True)

    users, steps = histories.items.shape
    rows = np.arange(users)
    belief = np.full((users, len(states)), 1 / len(states), dtype=np.float32)
    profile = np.zeros_like(belief)
    month = np.full((users, MONTHS), 1 / MONTHS, dtype=np.float32)
    prior = np.array([config.impulse, 1 - config.impulse - config.jump, config.jump])
    for step in range(steps - 1):
        going = (step < histories.lengths - 1)[:, None]
        item, time = histories.items[:, step], histories.times[:, step]
        if "season" in hidden:
            # In a thread the month stays; after a jump it is some other. Interest and month are kept apart.
            likely = season[:, item].T / season.sum(axis=1)
            after = month * (1 - config.jump) + config.jump / MONTHS
            month = np.where(going, _normal(after * likely), month)
        else:
            at = ((time - START) / (365.25 * 86_400) * MONTHS).astype(int) % MONTHS
            month = np.where(going, np.eye(MONTHS, dtype=np.float32)[at], month)
        chances = np.tile(prior, (users, 1))
        if "gaps" not in hidden and step:
            gap = time - histories.times[:, step - 1]
            chances = np.eye(3)[np.digitize(gap, [1_000, 10 * 86_400])]
        if step == 0:
            chances = np.tile([0.0, 0.0, 1.0], (users, 1))
        fresh = _jumped(profile, len(states), config)
        seen = interest[:, item].T * ((season[:, item].T * month) @ (1 / total.T))
        by_impulse = belief * (month * impulse[:, item].T).sum(axis=1, keepdims=True) * chances[:, :1]
        updated = _normal(by_impulse + (belief * chances[:, 1:2] + fresh * chances[:, 2:]) * seen)
        belief = np.where(going, updated.astype(np.float32), belief)
        profile += np.where(going, belief, 0)
    ahead = (prior[1] * belief + prior[2] * _jumped(profile, len(states), config)).astype(np.float32)
    score = prior[0] * month @ impulse
    for at in range(MONTHS):
        score += month[:, at : at + 1] * season[at] * ((ahead / total[:, at]) @ interest)
    for step in range(steps):
        bought = step < histories.lengths - 1
        score[rows[bought], histories.items[bought, step]] = 0.0
    target = score[rows, histories.items[rows, histories.lengths - 1]]
    rank = (score > target[:, None]).sum(axis=1)
    return float(np.where(rank < 10, 1 / np.log2(rank + 2), 0.0).mean())


def _jumped(profile: np.ndarray, num_states: int, config: SimulateConfig) -> np.ndarray:
    """Belief right after a jump: an interest seen before, or any."""
    seen = profile.sum(axis=1, keepdims=True)
    old = np.divide(profile, seen, out=np.full_like(profile, 1 / num_states), where=seen > 0)
    weight = (1 - config.drift) / 2
    return weight * old + (1 - weight) / num_states


def _normal(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=1, keepdims=True)
