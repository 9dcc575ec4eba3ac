"""`hm4sr compare`."""

from pathlib import Path

import click

from hm4sr.cli import options
from hm4sr.errors import UserError


@click.command("compare")
@click.argument("configs", type=click.Path(path_type=Path), nargs=-1)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a key in every CONFIG.")
@options.seeds
@click.option(
    "--finalists",
    type=click.IntRange(min=0),
    default=0,
    help="Train the first CONFIG and so many of the others, best on validation, under --final-seeds too.",
)
@click.option("--final-seeds", callback=options.read_seeds, help="Seeds of the finalists, e.g. 1-3.")
@options.runs
@options.reports("; without CONFIG, all runs in it are compared")
@click.option("--dataset", help="Without CONFIG: compare the runs on the data set of this name.")
@click.option("--no-train", is_flag=True, help="Compare what is trained; a missing run is an error.")
@options.workers("Runs")
@options.address("Train")
@click.option(
    "--ours", help="The model whose rivals the others are [default: the first; without CONFIG HM4SR]."
)
@options.metric("finalists, tests and segments")
@options.cutoffs("Cut-off; repeat for several [default: the CONFIG's].")
@click.option(
    "--out",
    type=options.Folder(),
    default=Path("comparison"),
    show_default=True,
    help="Folder for the tables as Markdown, CSV, LaTeX and HTML.",
)
@options.export
def command(
    configs: tuple[Path, ...],
    overrides: tuple[str, ...],
    seeds: list[int],
    finalists: int,
    final_seeds: list[int],
    runs: Path,
    reports: tuple[Path, ...],
    dataset: str | None,
    no_train: bool,
    workers: int,
    address: str | None,
    ours: str | None,
    primary: str,
    ks: tuple[int, ...],
    out: Path,
    export: Path | None,
) -> None:
    """Train the models that CONFIGS describe, as far as they are not trained yet, and compare them.

    A run is known by its settings, data and seed, so nothing is trained twice; after an interruption the same
    command continues. The first CONFIG is ours, the others its rivals.
    """
    from hm4sr.cli.output import console, log_to_stdout
    from hm4sr.evaluation.metrics import Metric
    from hm4sr.experiments.compare import (
        default_ours,
        expect_one_dataset,
        facts_about,
        label_entries,
        measure_speeds,
        obtain_in_two_rounds,
        published_records,
        shown_metrics,
        write_comparison,
    )
    from hm4sr.experiments.comparison import Comparison
    from hm4sr.experiments.records import publish
    from hm4sr.experiments.runs import Shelf
    from hm4sr.experiments.tables import terminal_tables
    from hm4sr.training.settings import Experiment

    log_to_stdout()
    metric = Metric.parse(primary)
    if bool(finalists) != bool(final_seeds):
        raise UserError("--finalists and --final-seeds belong together: give both or neither.")
    if configs:
        entries = label_entries({path: Experiment.load(path, overrides) for path in configs})
        labels = [entry.label for entry in entries]
        _expect_known(ours, labels)
        shelf = Shelf(runs, reports)
        data = expect_one_dataset(entries, shelf)
        records = obtain_in_two_rounds(
            entries, seeds, finalists, final_seeds, metric, shelf, workers, not no_train, address
        )
        ks = ks or entries[0].experiment.evaluate.ks
    else:
        if overrides or not reports:
            raise UserError("name the CONFIG files to compare, or a folder of finished runs with --reports.")
        records = published_records(reports, dataset)
        labels = list(records)
        _expect_known(ours, labels)
        ours = ours or default_ours(records)
    facts = facts_about(records, reports)
    comparison = Comparison.of(records, facts, shown_metrics(ks, metric), metric, ours or labels[0])
    if configs:
        measure_speeds(records, data)
    written = write_comparison(comparison, out)
    terminal = console()
    for table in comparison.tables():
        terminal.print(*terminal_tables(table, terminal.width))
    click.echo("\n".join(map(str, written)))
    if export:
        copies = publish(records, facts, export)
        click.echo(f"{export}: {len(copies)} runs; the same tables: hm4sr compare --reports {export}")


def _expect_known(ours: str | None, labels: list[str]) -> None:
    if ours is not None and ours not in labels:
        raise UserError(f"--ours {ours!r} is none of the models compared: take one of {', '.join(labels)}.")
