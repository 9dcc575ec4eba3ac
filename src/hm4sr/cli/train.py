"""`hm4sr train`."""

from pathlib import Path

import click


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a key, e.g. train.epochs=5."
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [default: runs/DATASET-MODEL-SEED].")
@click.option("--resume", is_flag=True, help="Continue an interrupted run; a finished one is left as it is.")
@click.option("--force", is_flag=True, help="Replace a run that is there already.")
def command(config: Path, overrides: tuple[str, ...], out: Path | None, resume: bool, force: bool) -> None:
    """Train the model that CONFIG (a TOML file) describes, and judge its best epoch on the test part.

    Started by torchrun, several processes train one model: docs/scaling.md.
    """
    from hm4sr.cli.output import log_to_stdout, print_metrics
    from hm4sr.progress import show_progress
    from hm4sr.training.parallel import joined
    from hm4sr.training.run import accompany, train_run
    from hm4sr.training.settings import Experiment

    with joined() as ranks:
        experiment = Experiment.load(config, overrides)
        if ranks.rank:
            show_progress(False)
            accompany(experiment)
            return
        log_to_stdout()
        name = f"{experiment.data.path.resolve().name}-{experiment.model['name']}-{experiment.seed}"
        run = train_run(experiment, out or Path("runs") / name, resume, force)
    print_metrics({"valid": run.report["valid"], "test": run.report["test"]})
    report = run.report
    click.echo(
        f"best epoch {report['best_epoch']} of {report['epochs']}, "
        f"{report['seconds_per_epoch']:.1f} s an epoch, "
        f"{report['seconds_per_validation']:.1f} s a validation, peak memory {report['peak_memory_mb']} MB\n"
        f"run folder: {run.path}"
    )
