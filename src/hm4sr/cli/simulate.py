"""`hm4sr simulate`: the files of a small shop whose answer is known, or a data set of a wanted size."""

import json
from pathlib import Path
from typing import Any

import click

from hm4sr.cli.options import Folder
from hm4sr.errors import UserError


@click.command()
@click.option("--out", type=Folder(), required=True, help="Folder to create.")
@click.option(
    "--preset",
    type=click.Choice(["shop", "games-size", "large"]),
    default="shop",
    show_default=True,
    help="shop: raw tables and pictures, to prepare and learn from. games-size: a prepared data set as large "
    "as Amazon Games, for measuring speed. large: the same with a million items and ten million events.",
)
@click.option("--users", type=int, help="Number of users.")
@click.option("--items", type=int, help="Number of items.")
@click.option("--events", type=int, help="Number of events (games-size and large).")
@click.option("--seed", type=int, help="Seed; the same one gives the same bytes.")
@click.option("--force", is_flag=True, help="Replace what an earlier `hm4sr simulate` wrote there.")
def command(out: Path, preset: str, force: bool, **sizes: int | None) -> None:
    """Make data of a small shop whose answer is known.

    Tastes told by words, tastes told by pictures, seasons and sessions: what a model should find is known,
    because it was put there.
    """
    place = out.resolve()
    _check_output(place, force)
    given: dict[str, Any] = {name: value for name, value in sizes.items() if value is not None}
    try:
        click.echo(_shop(place, given) if preset == "shop" else _prepared(place, preset, given))
    except OSError as error:
        raise UserError(
            f"{place} cannot be written ({error.strerror or error}): choose another --out."
        ) from error


def _shop(out: Path, given: dict[str, Any]) -> str:
    from hm4sr.data.simulate import SimulateConfig, simulate

    if "events" in given:
        raise UserError("--events belongs to --preset games-size or large: leave it out.")
    simulate(SimulateConfig.parse(given, "hm4sr simulate"), out)
    files = f"--interactions {out / 'interactions.csv'} --items {out / 'items.csv'}"
    return f"{out}\n  next: hm4sr prepare {files} --out DATASET"


def _prepared(out: Path, preset: str, given: dict[str, Any]) -> str:
    from hm4sr.features.synthetic import LARGE, SyntheticConfig, synthesize

    if preset == "large":
        given = {**LARGE, **given}
    numbers = synthesize(SyntheticConfig.parse(given, "hm4sr simulate"), out).manifest["statistics"]
    counts = ", ".join(f"{numbers[name]:,} {name}" for name in ("users", "items", "actions"))
    return f"{out}\n  prepared: {counts}"


def _check_output(out: Path, force: bool) -> None:
    if not out.exists() or not any(out.iterdir()):
        return
    if not force:
        raise UserError(
            f"{out} is not empty: choose another --out, or add --force to replace simulated data."
        )
    if not (out / "truth.json").is_file() and not _synthetic(out / "manifest.json"):
        raise UserError(
            f"{out} was not written by `hm4sr simulate`, so --force leaves it alone: choose another --out."
        )


def _synthetic(manifest: Path) -> bool:
    try:
        return "feature_width" in json.loads(manifest.read_text(encoding="utf-8"))["rules"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
