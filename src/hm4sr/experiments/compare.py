"""From finished runs to a comparison on disk: labels, what only the weights can tell, and the files."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.evaluation.metrics import GAINS, Metric
from hm4sr.evaluation.speed import NUM_RECOMMENDED, NUM_USERS, seconds_per_thousand
from hm4sr.experiments.chart import NUM_SERIES_STYLES, Line, line_chart
from hm4sr.experiments.comparison import Comparison
from hm4sr.experiments.page import write_document
from hm4sr.experiments.paper import model_titles, title_of
from hm4sr.experiments.records import SPEED, DatasetFacts, find_facts, finished, published_labels
from hm4sr.experiments.runs import Entry, Records, Shelf, best_on_validation, obtain
from hm4sr.experiments.tables import to_csv, to_html, to_latex, to_markdown
from hm4sr.files import write_text
from hm4sr.manifest import write_manifest
from hm4sr.runtime import choose_device
from hm4sr.training import run as run_folder
from hm4sr.training.settings import EvaluateConfig, Experiment

logger = logging.getLogger(__name__)


def label_entries(experiments: Mapping[Path, Experiment]) -> list[Entry]:
    """Entries named by their models; where several share a model, by their files.

    Raises:
        UserError: two files cannot be told apart by name and folder.
    """
    models = Counter(experiment.model["name"] for experiment in experiments.values())
    stems = Counter(path.stem for path in experiments)
    labels = []
    for path, experiment in experiments.items():
        name = experiment.model["name"]
        stem = path.stem if stems[path.stem] == 1 else f"{path.resolve().parent.name}/{path.stem}"
        labels.append(title_of(name if models[name] == 1 else stem))
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise UserError(f"several configurations are called {twice[0]}: rename one of the files.")
    return [Entry(label, experiment) for label, experiment in zip(labels, experiments.values(), strict=True)]


def expect_one_dataset(entries: Sequence[Entry], shelf: Shelf) -> Dataset:
    """The data set that all entries are about.

    Raises:
        UserError: they are about different ones.
    """
    datasets = [shelf.dataset(entry.experiment) for entry in entries]
    for entry, dataset in zip(entries, datasets, strict=True):
        if dataset.hashes != datasets[0].hashes:
            raise UserError(
                f"{entries[0].label} is about {datasets[0].path} and {entry.label} about {dataset.path}: "
                "compare them on one data set, for example with --set data.path=DIR."
            )
    return datasets[0]


def obtain_in_two_rounds(
    entries: Sequence[Entry],
    seeds: Sequence[int],
    finalists: int,
    final_seeds: Sequence[int],
    metric: Metric,
    shelf: Shelf,
    workers: int,
    train: bool,
    address: str | None = None,
) -> Records:
    """All entries under `seeds`; the first and the best others on validation under `final_seeds` too.

    Raises:
        UserError: see `runs.obtain`.
    """
    records = obtain(entries, seeds, shelf, workers, train, address)
    if finalists and final_seeds:
        order = [label for label in best_on_validation(records, metric) if label != entries[0].label]
        chosen = {entries[0].label, *order[:finalists]}
        logger.info("under further seeds: %s", ", ".join(e.label for e in entries if e.label in chosen))
        final = [entry for entry in entries if entry.label in chosen]
        for label, further in obtain(final, final_seeds, shelf, workers, train, address).items():
            records[label] |= further
    return records


def published_records(folders: Sequence[Path], dataset: str | None) -> Records:
    """All finished runs below some folders, as the entries of one comparison: a line for each identity.

    The paper's models come first, in the order of its table, then the others by name.

    Args:
        folders: of run folders or published copies.
        dataset: take the runs on the data set of this name alone, and on the same data under another name.

    Raises:
        UserError: there is none, or there are several data sets to choose from.
    """
    runs = [run for folder in folders for run in finished(folder)]
    if dataset is not None:
        meant = [run.data["files"] for run in runs if run.report["dataset"] == dataset]
        runs = [run for run in runs if run.data["files"] in meant]
    names = sorted({str(run.report["dataset"]) for run in runs})
    if not runs:
        where = f" on {dataset}" if dataset else ""
        raise UserError(f"no finished run{where} is there: name a folder of runs or published copies.")
    if len({tuple(sorted(run.data["files"].items())) for run in runs}) > 1:
        raise UserError(
            f"these runs are about several data sets ({', '.join(names)}): choose with --dataset."
        )
    given = {
        str(folder / name): text for folder in folders for name, text in published_labels(folder).items()
    }
    labels = {run.path: given.get(str(run.path), title_of(run.model)) for run in runs}
    identities: dict[str, set[str]] = {}
    for run in runs:
        identities.setdefault(labels[run.path], set()).add(run.identity)
    order = list(model_titles().values())
    records: Records = {}
    for run in sorted(runs, key=lambda run: (_place(order, labels[run.path]), run.identity, run.seed)):
        run.verify()
        label = labels[run.path]
        unique = label if len(identities[label]) == 1 else f"{label} {run.identity[:8]}"
        records.setdefault(unique, {})[run.seed] = run
    return records


def _place(order: Sequence[str], label: str) -> tuple[int, str]:
    return (order.index(label), "") if label in order else (len(order), label)


def default_ours(records: Records) -> str | None:
    """The first HM4SR among published runs, if there is one."""
    models = {label: next(iter(seeds.values())).model for label, seeds in records.items()}
    return next((label for label, model in models.items() if model == "hm4sr"), None)


def facts_about(records: Records, folders: Sequence[Path]) -> DatasetFacts:
    """Facts of the data set that some runs were trained on: published ones, or from the data set itself.

    Raises:
        UserError: neither is there, or the data set has changed.
    """
    run = next(iter(next(iter(records.values())).values()))
    found = find_facts(folders, run.data["files"])
    if found is not None:
        return found
    place = Path(run.data["path"])
    if not place.exists():
        raise UserError(f"{place}, the data of {run.path}, is not there: export the runs again where it is.")
    dataset = Dataset.open(place)
    if dataset.hashes != run.data["files"]:
        raise UserError(f"{place} is not the data that {run.path} was trained on: prepare it as it was.")
    return DatasetFacts.of(dataset)


def shown_metrics(ks: Sequence[int], primary: Metric) -> list[Metric]:
    """All kinds of metrics at all cut-offs (5, 10 and 20 if none are given), the primary one among them."""
    metrics = [Metric(kind, k) for kind in GAINS for k in ks or EvaluateConfig().ks]
    return metrics if primary in metrics else [primary, *metrics]


def measure_speeds(records: Records, dataset: Dataset) -> None:
    """Time recommending, one after the other, for a run of each entry that has weights and no time yet."""
    device = choose_device("auto")
    for label, seeds in records.items():
        run = min(seeds.values(), key=lambda run: run.seed)
        folder = run.path
        whole = (folder / "model.safetensors").is_file()
        if not whole or any(run.speed() for run in seeds.values()):
            continue
        logger.info("timing the recommendations of %s", label)
        model = run_folder.Run.open(folder).load_model(dataset, device)
        values = {
            "seconds": round(seconds_per_thousand(model, dataset.events, device), 4),
            "users": NUM_USERS,
            "k": NUM_RECOMMENDED,
            "threads": torch.get_num_threads(),
            "device": str(device),
        }
        write_manifest(folder / SPEED, values)


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write comparison.md, .tex and .html, and a CSV file for each table; returns their paths.

    Tables of an earlier comparison that this one has not are removed: they would be about other models.
    """
    tables = comparison.tables()
    title = comparison.title
    texts = {
        "comparison.md": to_markdown(tables, title, comparison.lead),
        "comparison.tex": to_latex(tables),
        **{f"{table.name.replace(' ', '-')}.csv": to_csv(table) for table in tables},
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    for earlier in (folder / "significance.csv", folder / "paper.csv", *folder.glob("segment-*.csv")):
        if earlier.name not in texts:
            earlier.unlink(missing_ok=True)
    page = folder / "comparison.html"
    sections = [to_html(tables[0]), _curves(comparison), *map(to_html, tables[1:])]
    write_document(page, title, " ".join(comparison.lead), sections)
    return [page, *(folder / name for name in texts)]


def _curves(comparison: Comparison) -> str:
    """Validation by epoch of the first seed of ours and of the best others on validation."""
    metric = comparison.primary
    order = best_on_validation(comparison.records, metric)
    chosen = [comparison.ours, *(label for label in order if label != comparison.ours)][:NUM_SERIES_STYLES]
    lines = []
    for label in chosen:
        run = min(comparison.records[label].values(), key=lambda run: run.seed)
        points = [(float(row["epoch"]), float(row["valid"].get(str(metric), "nan"))) for row in run.metrics()]
        lines.append(Line(label, points, int(run.report["best_epoch"]) - 1))
    described = f"Validation {metric.title} by epoch of {', '.join(chosen)}."
    chart = line_chart(lines, described, "epoch", metric.title)
    if not chart:
        return ""
    caption = f"Validation {metric.title}, first seed; a dot marks the epoch that was kept"
    return (
        '<section aria-labelledby="curves">\n<h2 id="curves">Training</h2>\n<div class="figures">\n'
        f"<figure>{chart}<figcaption>{caption}</figcaption></figure>\n</div>\n</section>"
    )
