"""`hm4sr tune`."""

from pathlib import Path
from typing import Any

import click

from hm4sr.cli import options

_SHOWN = 10


@click.command("tune")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--space",
    type=click.Path(path_type=Path),
    required=True,
    help="TOML file, [search]: values to try.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Points to try, pruned too.",
)
@click.option("--out", type=options.Folder(), required=True, help="Folder of the search.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a key outside the space.")
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "grid"]),
    default="tpe",
    show_default=True,
    help="Learn from finished trials, or take the points in a random order.",
)
@click.option(
    "--pruner",
    type=click.Choice(["median", "hyperband", "none"]),
    default="median",
    show_default=True,
    help="Rule that stops trials early, by the validation score after each epoch.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the search."
)
@options.workers("Trials")
@options.address("Try")
def command(
    config: Path,
    space: Path,
    trials: int,
    out: Path,
    overrides: tuple[str, ...],
    workers: int,
    address: str | None,
    **choices: Any,
) -> None:
    """Search the settings of the model in CONFIG for the best validation score.

    The test part is never looked at. Called again after an interruption, or with more --trials, it goes on
    where it stopped. The winner is an ordinary configuration, OUT/best.toml.
    """
    from hm4sr.cli.output import log_to_stdout, print_table
    from hm4sr.config import override, read_toml
    from hm4sr.experiments.space import Space
    from hm4sr.experiments.tune import Search

    log_to_stdout()
    search = Search(override(read_toml(config), overrides), str(config), Space.load(space), out, **choices)
    tried = search.run(trials, workers, address)
    rows = [
        [
            str(trial.number),
            f"{trial.score:.4f}" + (" pruned" if trial.pruned else " diverged" if trial.diverged else ""),
            str(trial.epochs),
            *map(str, trial.point.values()),
        ]
        for trial in tried[:_SHOWN]
    ]
    title = f"{len(tried)} of {search.space.size:,} points tried, the best {len(rows)}"
    print_table(["trial", search.monitor, "epochs", *search.space.choices], rows, title)
    click.echo(f"all trials: {out / 'trials.csv'}\nthe best: hm4sr train {out / 'best.toml'}")
