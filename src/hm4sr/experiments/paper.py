"""The paper's own figures, kept as data in paper.toml, to stand beside ours."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def _figures() -> dict[str, Any]:
    return tomllib.loads((files("hm4sr.experiments") / "paper.toml").read_text(encoding="utf-8"))


def model_titles() -> dict[str, str]:
    """Registered name of each of the paper's models to the name it has there, in the order of Table 1."""
    return {_simple(title): title for title in _figures()["beauty"]["results"]}


def title_of(model: str) -> str:
    """The paper's name of a registered model; its own name if the paper has none."""
    return model_titles().get(_simple(model), model)


def paper_dataset(size: Mapping[str, int]) -> str | None:
    """Which of the paper's data sets has these numbers of users, items and actions."""
    for name, table in _figures().items():
        if isinstance(table, dict) and table["size"] == dict(size):
            return name.capitalize()
    return None


def paper_results(dataset: str, model: str) -> dict[str, float] | None:
    """Table 1 of one model on one data set, by names such as "ndcg@5"; None where it has no such row."""
    row = _figures()[dataset.lower()]["results"].get(title_of(model))
    return dict(zip(_figures()["metrics"], row, strict=True)) if row else None


def paper_improvement(dataset: str) -> dict[str, float]:
    """Last line of Table 1: HM4SR over the best other model, as shares, by names such as "ndcg@5"."""
    figures = _figures()
    return dict(zip(figures["metrics"], figures[dataset.lower()]["improvement"], strict=True))


def paper_statistics() -> dict[str, dict[str, float]]:
    """Table 2: users, items, actions, actions_per_user, actions_per_item and sparsity of each data set."""
    return {
        name.capitalize(): {**table["size"], **table["statistics"]}
        for name, table in _figures().items()
        if isinstance(table, dict)
    }


def _simple(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
