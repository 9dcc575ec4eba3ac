"""`hm4sr prepare`: raw tables in, a prepared data set out."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from hm4sr.data.catalogue import count_missing_pictures
from hm4sr.data.dataset import Dataset
from hm4sr.data.prepare import PrepareConfig, prepare_source
from hm4sr.data.sources import SOURCES, open_source


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
@click.option(
    "--source",
    type=click.Choice(list(SOURCES)),
    default="table",
    show_default=True,
    help="What the raw files are.",
)
@click.option("--interactions", type=Path, help="File of interactions; table: CSV, TSV or Parquet.")
@click.option("--items", type=Path, help="File of items; without it they have neither text nor picture.")
@click.option("--folder", type=Path, help="Folder of the raw files under their usual names, not those two.")
@click.option("--out", type=Path, required=True, help="Folder to create.")
@click.option(
    "--force",
    is_flag=True,
    help="Replace a prepared data set and the features in it; downloaded pictures stay.",
)
@_rule_options
def command(
    source: str,
    interactions: Path | None,
    items: Path | None,
    folder: Path | None,
    out: Path,
    force: bool,
    **rules: Any,
) -> None:
    """Turn raw interactions and a catalogue into a prepared data set.

    \b
    hm4sr prepare --interactions events.csv --items items.csv --out data/shop
    hm4sr prepare --source amazon-2014 --interactions reviews_Beauty_5.json.gz \\
                  --items meta_Beauty.json.gz --out data/beauty
    hm4sr prepare --source movielens-1m --folder raw/ml-1m --out data/ml-1m

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
    opened = open_source(source, interactions, items, folder, config.image_root)
    click.echo(summary(prepare_source(opened, out, config, force)))


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
        "source": f"{numbers['source']}: {', '.join(file['name'] for file in dataset.manifest['sources'])}",
        "rows read": f"{numbers['rows_read']:,}",
    }
    lines |= {f"removed: {rule.replace('_', ' ')}": f"{n:,}" for rule, n in numbers["rows_removed"].items()}
    recognised = numbers.get("recognised_columns", {})
    lines |= {f"{name} of items": f"column {column!r} (recognised)" for name, column in recognised.items()}
    lines |= {f"items with {name}": f"{n:,}" for name, n in numbers["items_with"].items()}
    for file, count in numbers.get("repeated_items", {}).items():
        lines["repeated items"] = f"{count:,} rows of {file} left out, the first of each kept"
    if missing:
        lines["pictures not found"] = f"{missing:,} of them, below {rules['image_root']}"
    bad_rows = numbers.get("bad_rows", {})
    lines |= {f"bad rows of {file}": f"{found['skipped']:,} skipped" for file, found in bad_rows.items()}
    width = max(map(len, lines))
    rows = [f"{dataset.path}", *(f"  {name:<{width}}  {value}" for name, value in lines.items())]
    rows += [f"    {file}, {row}" for file, found in bad_rows.items() for row in found["first"]]
    return "\n".join(rows)


def _parts(numbers: dict[str, Any]) -> dict[str, str]:
    lines = {f"actions in {part}": f"{count:,}" for part, count in numbers["events_in"].items()}
    for part in ("valid", "test"):
        if f"{part}_from" in numbers:
            lines[f"actions in {part}"] += f" (from {numbers[f'{part}_from']})"
    return lines


def _separator(numbers: dict[str, Any], recognised: bool) -> str:
    if numbers["source"] not in ("table", "microlens"):
        return "the source, which knows them"
    if numbers["category_separator"]:
        return f"'{numbers['category_separator']}' ({'recognised' if recognised else 'as set'})"
    seen = " and ".join(f"'{mark}'" for mark in numbers["category_separators_seen"])
    return f"nothing: {seen} all occur, choose with --category-separator" if seen else "nothing"
