"""`hm4sr evaluate`."""

from pathlib import Path

import click


@click.command("evaluate")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--data", type=click.Path(path_type=Path), help="The prepared data set, if it has moved.")
@click.option(
    "--part", type=click.Choice(["valid", "test"]), default="test", show_default=True, help="Targets to rank."
)
@click.option(
    "-k",
    "ks",
    type=click.IntRange(min=1),
    multiple=True,
    help="Cut-off; repeat for several [default: 5 10 20].",
)
@click.option(
    "--unseen",
    is_flag=True,
    help="Rank among the items that the user has not had, not among all as the protocol wants.",
)
@click.option(
    "--ranks",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write run, user_id, item_id and rank of every target: .csv, .json or .parquet.",
)
@click.option("--force", is_flag=True, help="Replace the file that --ranks names.")
def command(
    runs: tuple[Path, ...],
    data: Path | None,
    part: str,
    ks: tuple[int, ...],
    unseen: bool,
    ranks: Path | None,
    force: bool,
) -> None:
    """Rank every user's target again with the trained models in RUNS and print their metrics."""
    from typing import cast

    import polars as pl

    from hm4sr.cli.output import check_out, print_metrics, write
    from hm4sr.data.dataset import Part
    from hm4sr.evaluation.metrics import summarise
    from hm4sr.evaluation.ranking import rank_part
    from hm4sr.runtime import choose_device
    from hm4sr.training.events import seen_events
    from hm4sr.training.run import Run

    if ranks:
        check_out(ranks, force, "--ranks")
    device = choose_device("auto")
    columns, tables = {}, []
    for path in runs:
        run = Run.open(path)
        dataset = run.dataset(data)
        log = seen_events(dataset, run.experiment.data)
        ranked = rank_part(run.load_model(dataset, device), log, cast(Part, part), device, unseen)
        columns[path.name] = summarise(ranked.ranks, ks or run.experiment.evaluate.ks)
        if ranks:
            named = {
                "run": [path.name] * len(ranked.ranks),
                "user_id": dataset.users["user_id"].gather(ranked.users),
                "item_id": dataset.items["item_id"].gather(ranked.items - 1),
                "rank": ranked.ranks,
            }
            tables.append(pl.DataFrame(named))
    print_metrics(columns)
    if ranks:
        write(pl.concat(tables), ranks, "--ranks")
        click.echo(f"{sum(map(len, tables)):,} ranks written to {ranks}")
