"""`hm4sr prepare`: raw tables in, a prepared data set out."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from hm4sr.data.catalogue import count_missing_pictures
from hm4sr.data.dataset import Dataset
from hm4sr.data.prepare import PrepareConfig, prepare


def _rule_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each rule; its text and default are those of `PrepareConfig`."""
    for name, field in reversed(PrepareConfig.model_fields.items()):
        kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
        kind: Any = field.annotation
        if get_origin(field.annotation) is Literal:
            kind = click.Choice(get_args(field.annotation))
        elif get_origin(field.annotation) is tuple:
            kind = str
        elif kinds:
            kind = click.Choice(get_args(kinds[0])) if get_origin(kinds[0]) is Literal else kinds[0]
        if kind is datetime:
            kind = str
        text = (field.description or "").rstrip(".")
        if field.default not in (None, ()):
            text += f"  [default: {field.default}]"
        if name == "text_columns":
            text += ", divided by commas"
        function = click.option(f"--{name.replace('_', '-')}", type=kind, default=None, help=text)(function)
    return function


@click.command()
@click.option("--interactions", type=Path, required=True, help="CSV, TSV or Parquet: user, item, timestamp.")
@click.option("--items", type=Path, required=True, help="CSV, TSV or Parquet: the catalogue.")
@click.option("--out", type=Path, required=True, help="Folder to create.")
@click.option("--force", is_flag=True, help="Replace a prepared data set, and the features in it.")
@_rule_options
def command(interactions: Path, items: Path, out: Path, force: bool, **rules: Any) -> None:
    """Turn raw interactions and a catalogue into a prepared data set.

    Duplicates are dropped, users and items with few interactions removed until all have enough, histories
    sorted by time; the last interaction of each user becomes the test target, the one before the validation
    target. With --split global-time two moments divide all histories instead, and only what lies before the
    first of them decides which users and items are kept. The same input gives the same bytes. The raw files
    are only read.
    """
    given = {name: value for name, value in rules.items() if value is not None}
    if "text_columns" in given:
        given["text_columns"] = [name.strip() for name in given["text_columns"].split(",") if name.strip()]
    config = PrepareConfig.parse(given, "hm4sr prepare")
    click.echo(summary(prepare(interactions, items, out, config, force)))


def summary(dataset: Dataset) -> str:
    """The statistics of a prepared data set as an aligned table."""
    numbers, rules = dataset.manifest["statistics"], dataset.manifest["rules"]
    how = "recognised" if rules["time_unit"] == "auto" else "as set"
    missing = count_missing_pictures(dataset.items["image"], rules["image_root"])
    lines = {
        "users": f"{numbers['users']:,}",
        "items": f"{numbers['items']:,}",
        "actions": f"{numbers['actions']:,}",
        "avg. actions / user": f"{numbers['actions_per_user']:.2f}",
        "avg. actions / item": f"{numbers['actions_per_item']:.2f}",
        "sparsity": f"{numbers['sparsity']:.2%}",
        "time range": f"{numbers['first_date']} to {numbers['last_date']}",
        "time unit": f"{numbers['time_unit']} ({how})",
        "categories divided by": _separator(numbers, rules["category_separator"] == "auto"),
        "split": rules["split"],
        **_parts(numbers),
        "rows read": f"{numbers['rows_read']:,}",
    }
    lines |= {f"removed: {rule.replace('_', ' ')}": f"{n:,}" for rule, n in numbers["rows_removed"].items()}
    lines |= {f"items with {name}": f"{n:,}" for name, n in numbers["items_with"].items()}
    if missing:
        lines["pictures not found"] = f"{missing:,} of them, below {rules['image_root']}"
    width = max(map(len, lines))
    return "\n".join([f"{dataset.path}", *(f"  {name:<{width}}  {value}" for name, value in lines.items())])


def _parts(numbers: dict[str, Any]) -> dict[str, str]:
    lines = {f"actions in {part}": f"{count:,}" for part, count in numbers["events_in"].items()}
    for part in ("valid", "test"):
        if f"{part}_from" in numbers:
            lines[f"actions in {part}"] += f" (from {numbers[f'{part}_from']})"
    return lines


def _separator(numbers: dict[str, Any], recognised: bool) -> str:
    if numbers["category_separator"]:
        return f"'{numbers['category_separator']}' ({'recognised' if recognised else 'as set'})"
    seen = " and ".join(f"'{mark}'" for mark in numbers["category_separators_seen"])
    return f"nothing: {seen} all occur, choose with --category-separator" if seen else "nothing"
