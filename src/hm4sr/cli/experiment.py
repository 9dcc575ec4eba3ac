"""`hm4sr experiment`."""

from pathlib import Path

import click

from hm4sr.cli import options
from hm4sr.errors import UserError


@click.command("experiment")
@click.argument("name")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--part", "parts", multiple=True, metavar="NAME:LABEL,...", help="Run these lines or groups only."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a key of every run.")
@click.option(
    "--configs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with settings such as hm4sr.toml [default: configs/NAME OF DATASET, where that is].",
)
@options.seeds
@options.runs
@options.reports()
@click.option("--no-train", is_flag=True, help="Show what is trained; the rest is said to be not run.")
@options.workers("Runs")
@options.address("Train")
@options.metric("tests and segments")
@options.cutoffs("Cut-off for the models of Table 1; repeat for several [default: 5 10 20].")
@click.option(
    "--out",
    type=options.Folder(),
    help="Folder for pages, tables and figures [default: experiments/NAME OF DATASET].",
)
@click.option("--report", "whole", is_flag=True, help="Also write all.html with what is there of the others.")
@options.export
def command(
    name: str,
    dataset: Path,
    parts: tuple[str, ...],
    overrides: tuple[str, ...],
    configs: Path | None,
    seeds: list[int],
    runs: Path,
    reports: tuple[Path, ...],
    no_train: bool,
    workers: int,
    address: str | None,
    primary: str,
    ks: tuple[int, ...],
    out: Path | None,
    whole: bool,
    export: Path | None,
) -> None:
    """Rerun the experiment NAME of the paper on the prepared data set DATASET and write a report.

    NAME is table1, table2, ablation, hyperparameters, time-embeddings, case-study, time-distribution, studies
    or all. Runs are known by their content, so experiments share them, nothing is trained twice, and after an
    interruption the same command continues.
    """
    from hm4sr.cli.output import console, log_to_stdout
    from hm4sr.evaluation.metrics import Metric
    from hm4sr.experiments.experiment import Request, run
    from hm4sr.experiments.tables import terminal_tables

    log_to_stdout()
    if any(text.partition("=")[0].strip() in ("data.path", "seed", "model.name") for text in overrides):
        raise UserError("--set cannot change data.path, model.name or seed here: give DATASET and --seeds.")
    request = Request(
        name=name,
        dataset=dataset,
        parts=parts,
        overrides=overrides,
        configs=configs,
        seeds=seeds,
        runs=runs,
        reports=reports,
        train=not no_train,
        workers=workers,
        address=address,
        primary=Metric.parse(primary),
        ks=ks,
        out=out,
        whole=whole,
        export=export,
    )
    done = run(request)
    terminal = console()
    for chapter in done.chapters:
        for table in chapter.tables:
            terminal.print(*terminal_tables(table, terminal.width))
    click.echo("\n".join(map(str, done.written)))
    if done.problem is not None:
        raise done.problem
