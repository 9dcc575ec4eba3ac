"""Search spaces: which values of which settings are tried, beside the configurations and not inside them.

[search]
"model.dropout" = [0.2, 0.5]
"train.learning_rate" = [0.0005, 0.001]
"""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from hm4sr.config import assign, read_toml
from hm4sr.errors import UserError
from hm4sr.training.settings import Experiment

_POINTS_CHECKED = 200

Point = dict[str, Any]
"""A value for each key of a space."""


@dataclass(frozen=True)
class Space:
    """A grid of settings.

    Attributes:
        path: file it came from, for messages.
        choices: key, such as "model.dropout", to the values to try.
    """

    path: Path
    choices: dict[str, list[Any]]

    @classmethod
    def load(cls, path: Path) -> "Space":
        """Read a TOML file with one table, [search], of keys and lists of values.

        Raises:
            UserError: it is malformed; the message names the key.
        """
        values = read_toml(path)
        search = values.pop("search", None)
        if not isinstance(search, dict) or not search or values:
            raise UserError(
                f"{path} must hold one table, [search], "
                'of lines such as "model.dropout" = [0.2, 0.5]: change it to that.'
            )
        for key, choices in search.items():
            if not isinstance(choices, list) or not choices:
                raise UserError(
                    f"{path}: {key} must be a list of one value or more, "
                    f'in quotes if it has a dot ("{key}" = [...]).'
                )
            try:
                json.dumps(choices, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{path}: {key} = {choices}: only finite numbers, texts, true, false, lists and tables "
                    "can be tried; drop the others."
                ) from error
            if any(value in choices[:place] for place, value in enumerate(choices)):
                raise UserError(f"{path}: {key} lists a value twice: drop one of them.")
        return cls(path, search)

    @property
    def size(self) -> int:
        """Number of points."""
        return prod(map(len, self.choices.values()))

    def draw(self, rng: np.random.Generator) -> Point:
        """A point, each as likely as any other."""
        return {key: choices[int(rng.integers(len(choices)))] for key, choices in self.choices.items()}

    def points(self) -> Iterator[Point]:
        """All points, the last key moving fastest."""
        for values in product(*self.choices.values()):
            yield dict(zip(self.choices, values, strict=True))

    def check(self, base: Mapping[str, Any]) -> None:
        """Find keys and values that the experiment does not take, before anything is trained.

        Raises:
            UserError: none of a key's values is taken, nor is a point. One that clashes with another key is
            found when they meet.
        """
        for key, choices in self.choices.items():
            if key in ("data.path", "train.monitor"):
                raise UserError(f"{self.path}: {key} cannot be searched, its scores do not compare: drop it.")
            problems = []
            for value in choices:
                try:
                    Experiment.build(placed(base, {key: value}), str(self.path))
                except UserError as error:
                    problems.append(error)
            if len(problems) == len(choices) and not self._goes_together(base):
                raise problems[0]

    def _goes_together(self, base: Mapping[str, Any]) -> bool:
        """Whether one of the first points is taken, though its values may not be by themselves."""
        for point in islice(self.points(), _POINTS_CHECKED):
            try:
                Experiment.build(placed(base, point), str(self.path))
            except UserError:
                continue
            return True
        return False

    def of(self, base: Mapping[str, Any]) -> Point | None:
        """The point that a configuration already stands at, if it is one of the space."""
        resolved = Experiment.build(copy.deepcopy(dict(base)), str(self.path)).resolved()
        point: Point = {}
        for key, choices in self.choices.items():
            value: Any = resolved
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value not in choices:
                return None
            point[key] = choices[choices.index(value)]
        return point


def placed(base: Mapping[str, Any], point: Point) -> dict[str, Any]:
    """A copy of nested values with a point's values in their places."""
    values = copy.deepcopy(dict(base))
    for key, value in point.items():
        assign(values, key, value, key)
    return values


def point_key(point: Mapping[str, Any]) -> str:
    """A text that is the same for equal points."""
    return json.dumps(dict(point), sort_keys=True)
