"""`hm4sr demo`."""

from pathlib import Path

import click

from hm4sr.cli.options import Folder


@click.command("demo")
@click.option("--out", type=Folder(), default=Path("demo"), show_default=True, help="Folder to use.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of shop and models."
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=40, show_default=True, help="Most epochs a model."
)
def command(out: Path, seed: int, epochs: int) -> None:
    """Simulate a shop, train HM4SR and SASRec on it, judge them, recommend, and write a page.

    Called again after an interruption, it goes on where it stopped.
    """
    from hm4sr.cli.output import log_to_stdout, print_metrics, print_table
    from hm4sr.data.dataset import Dataset
    from hm4sr.evaluation.metrics import summarise
    from hm4sr.evaluation.popularity import rank_by_popularity
    from hm4sr.experiments.demo import MODELS, run_demo
    from hm4sr.serving.recommender import Recommender
    from hm4sr.training.run import Run

    log_to_stdout()
    page = run_demo(out, seed, epochs)
    dataset = Dataset.open(out / "data")
    runs = {name: Run.open(out / "runs" / name) for name in MODELS}
    popular = rank_by_popularity(dataset.events, dataset.num_items, "test")
    print_metrics(
        {
            "Popularity": summarise(popular.ranks, (5, 10, 20)),
            **{MODELS[name]: run.report["test"] for name, run in runs.items()},
        }
    )
    user = dataset.users["user_id"][0]
    (answer,) = Recommender.load(out / "runs" / "hm4sr").recommend(user, k=5)
    print_table(
        ["title", "item", "score"],
        [[item.title or item.item_id, item.item_id, f"{item.score:.2f}"] for item in answer.items],
        title=f"recommended to user {user}",
    )
    click.echo(f"more like this: hm4sr recommend {out / 'runs' / 'hm4sr'} --user {user}\npage: {page}")
