"""Experiments by name: lists of runs, kept as data in definitions.toml."""

import difflib
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import Field

from hm4sr.config import Config
from hm4sr.errors import UserError
from hm4sr.experiments.paper import title_of

ALL = "all"
Layout = Literal["models", "statistics", "bars", "lines", "cases", "times", "studies"]


class RunConfig(Config):
    """One run of a list: what it changes in the settings of its model."""

    label: str | None = None
    """Left out, the model's title."""
    model: str = "hm4sr"
    """Registered name."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Key, such as "model.cp_weight", to value."""
    without: str | None = None
    """A modality that is taken away."""
    reads: tuple[str, ...] | None = None
    """Of the modalities, what the model reads unless its configuration says so; left out, all."""
    needs: str | None = None
    """A modality without which the run has no meaning."""


class GroupConfig(Config):
    """A list of runs, or a sweep of one setting."""

    name: str
    """For --part and for headings."""
    runs: tuple[RunConfig, ...] = ()
    """The runs of a list."""
    key: str | None = None
    """The setting that a sweep changes."""
    values: tuple[float | int, ...] = ()
    """Its values."""
    base: float | int | None = None
    """The value at which the settings are left alone; a point of the sweep too."""
    axis: str = ""
    """What the values are."""
    panel: str | None = None
    """Plot that it is drawn in, if it shares one; left out, one of its own."""
    series: str = ""
    """Name of its line, where several share a plot."""
    model: str = "hm4sr"
    """Model of a sweep."""
    needs: str | None = None
    """A modality without which the group has no meaning."""


class ByHand(Config):
    """A study that needs another prepared data set."""

    what: str
    """The question."""
    how: str
    """The commands."""


class Definition(Config):
    """One experiment."""

    name: str
    """As on the command line."""
    title: str
    """Heading."""
    asks: str
    """The question, a sentence."""
    paper: str
    """What the paper says about it."""
    layout: Layout
    """What is made of the runs."""
    ours: str = ""
    """Label of the run that the others are measured against."""
    groups: tuple[GroupConfig, ...] = ()
    """Its runs."""
    by_hand: tuple[ByHand, ...] = ()
    """What a user can do beside it."""

    @property
    def parts(self) -> list["Part"]:
        """All runs in order."""
        return [part for group in self.groups for part in _parts(group)]

    def select(self, names: Sequence[str]) -> set[str]:
        """Labels that some labels or names of groups stand for.

        Raises:
            UserError: one is neither.
        """
        groups = {group.name.casefold(): [part.label for part in _parts(group)] for group in self.groups}
        single = {part.label.casefold(): [part.label] for part in self.parts}
        found: set[str] = set()
        for name in names:
            key = name.strip().casefold()
            if key not in groups and key not in single:
                known = [*single] if len(self.groups) == 1 else [*groups, *single]
                shown = [part.label for part in self.parts] if len(self.groups) == 1 else list(groups)
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"its parts are {', '.join(shown)}."
                raise UserError(f"--part: {self.name} has no part {name.strip()!r}; {hint}")
            found.update(single.get(key) or groups[key])
        return found


class Part(Config):
    """One run of an experiment, ready to be laid over a base configuration."""

    label: str
    """Unique within the experiment."""
    group: str
    """Name of its group."""
    run: RunConfig
    """What it changes."""
    x: float | int | None = None
    """Its place on the axis of a sweep."""

    @property
    def model(self) -> str:
        """Registered name of its model."""
        return self.run.model


def _parts(group: GroupConfig) -> list[Part]:
    parts = []
    for run in group.runs:
        needs = run.needs or run.without or group.needs
        full = run.model_copy(update={"needs": needs})
        parts.append(Part(label=run.label or title_of(run.model), group=group.name, run=full))
    if group.key is None:
        return parts
    for x in sorted({*group.values, *(() if group.base is None else (group.base,))}):
        changes = {} if x == group.base else {group.key: x}
        run = RunConfig(model=group.model, set=changes, needs=group.needs)
        parts.append(Part(label=f"{group.name} = {x:g}", group=group.name, run=run, x=x))
    return parts


@cache
def definitions() -> dict[str, Definition]:
    """All experiments by name, in the order of the file."""
    text = (files("hm4sr.experiments") / "definitions.toml").read_text(encoding="utf-8")
    found: dict[str, Definition] = {}
    for name, table in tomllib.loads(text).items():
        shared = table.pop("same_runs_as", None)
        if shared is not None:
            table["groups"] = found[shared].groups
        found[name] = Definition.parse({"name": name, **table}, f"definitions.toml [{name}]")
    return found


def chosen_definitions(name: str) -> list[Definition]:
    """The experiment of that name, or all of them.

    Raises:
        UserError: there is none.
    """
    known = definitions()
    if name == ALL:
        return list(known.values())
    if name not in known:
        close = difflib.get_close_matches(name, [*known, ALL], n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"take one of {', '.join([*known, ALL])}."
        raise UserError(f"{name!r} is not an experiment; {hint}")
    return [known[name]]


def chosen_parts(chosen: Sequence[Definition], selections: Sequence[str]) -> dict[str, set[str]]:
    """Labels to run of each experiment, by its name: all of them, or those of --part NAME:LABEL,LABEL.

    Raises:
        UserError: a selection names no experiment that was asked for, or no part of it.
    """
    by_name = {definition.name: definition for definition in chosen}
    if not selections:
        return {name: {part.label for part in definition.parts} for name, definition in by_name.items()}
    wanted: dict[str, set[str]] = {name: set() for name in by_name}
    for selection in selections:
        name, colon, labels = selection.partition(":")
        if not colon or not labels.strip():
            raise UserError(f"--part {selection!r} is not of the form NAME:LABEL,LABEL: write ablation:-CP.")
        if name not in by_name:
            raise UserError(
                f"--part {selection!r}: {name!r} is not among the experiments asked for "
                f"({', '.join(by_name)}): name one of them."
            )
        wanted[name] |= by_name[name].select([label for label in labels.split(",") if label.strip()])
    return wanted
