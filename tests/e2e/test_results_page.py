"""The tables of the README and of docs/results.md against the committed reports of the runs."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from hm4sr.experiments.paper import paper_results

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"

SAME_DATA = {"beauty-levels": "beauty", "ml100k-levels": "ml100k"}
"""Copies of a data set that hold hidden states, too."""

DATASETS = {"Beauty": "beauty", "MovieLens-100K": "ml100k"}
"""How a heading, or a line that ends in a colon, begins; tables after it are of that data set."""

LABELS = {
    "SASRec (prefixes, as in `configs/beauty/sasrec.toml`)": "SASRec",
    "SASRec (prefixes)": "SASRec",
    "SASRec, all positions (`--set train.parallel=true`)": "SASRec (all positions)",
    "SASRec, all positions": "SASRec (all positions)",
    "SASRec: all positions, bfloat16, full softmax, 1,024 targets a step": "SASRec (all positions)",
    "full": "HM4SR",
    "full: interval and absolute time": "HM4SR",
    "no time at all (-TMoE)": "HM4SR -TMoE",
    "`train_temporal_experts = false`": "HM4SR frozen temporal experts",
    '`time_unit = "seconds"`': "HM4SR absolute time in seconds",
    '`released_time = true`, `time_unit = "seconds"`': "HM4SR released time (seconds)",
    "`exclude_false_negatives = false`": "HM4SR same target as a negative",
    "`replace_at_least_one = false`": "HM4SR placeholders rounded down",
    "`score_padding = true`": "HM4SR padding as a class",
    "`center_features = false`": "HM4SR features not centred",
    "`train.average = 0`": "HM4SR weights not averaged",
    '`preset = "released"` (all of them but the average, no CP, zeros for what is missing)': (
        "HM4SR preset released"
    ),
    "float32": "SASRec (float32)",
    "prefixes one by one": "SASRec",
    "prefixes, dropout .4 instead of .5 (attention's stays .5)": "SASRec (prefixes with dropout 0.4)",
    "all positions, dropout .4": "SASRec (dropout 0.4)",
    "all positions, dropout .3": "SASRec (dropout 0.3)",
    "all positions, attention's dropout .2 instead of .5": "SASRec (attention dropout 0.2)",
    "all positions, 2,048 targets a step, dropout .4, attention's .2": (
        "SASRec (2048 targets and both dropouts lower)"
    ),
    "all positions, half the learning rate": "SASRec (learning rate 0.0005)",
    "2,048 targets a step": "SASRec (2048 targets)",
    "weights not averaged": "SASRec (weights not averaged)",
    "GRU4Rec, 2,048 targets a step": "GRU4Rec (2048 targets)",
    "TiSASRec, the authors' blocks": "TiSASRec (the authors' blocks)",
    "TiSASRec, 2,048 targets a step": "TiSASRec (2048 targets)",
    "HM4SR, prefixes one by one": "HM4SR (prefixes)",
    "HM4SR, 2,048 targets a step": "HM4SR 2048 targets a step",
    "hm4sr-plus with PCL, seen alone": "hm4sr-plus with PCL (seen alone)",
    "hm4sr-plus with PCL, question alone": "hm4sr-plus with PCL (question alone)",
    "HM4SR -Image (text alone)": "HM4SR -Image",
    "HM4SR -Text (pictures alone)": "HM4SR -Text",
    "none": "HM4SR",
}
"""Labels of rows that are named otherwise in a table, beside `PATTERNS`; other names are labels."""

LABELS_BY_HASH = {"SASRec, all positions": "SASRec"}
"""Where a day is ordered by a hash, SASRec was trained at all positions alone."""

PATTERNS = {
    r"(.+), learning rate \.(\d+)": r"\1 (learning rate 0.\2)",
    r"-(\w+)": r"HM4SR -\1",
    r"(interval only|absolute only|cos|day|day of year)": r"HM4SR time \1",
    r"sampled, ([\d,]+) negatives, weights not averaged": r"SASRec (sampled \1)",
    r"the same, ([\d,]+) negatives": r"SASRec (sampled \1)",
    r"(\d+) %, learned stand-in": r"HM4SR \1% of pictures missing",
    r"(\d+) %, zeros": r"HM4SR zeros for missing \1% of pictures missing",
    r"(\d+) days": r"HM4SR times off by \1 days",
}

PEAKS = {"hm4sr-plus": {1, 2, 3}, "hm4sr-plus (learning rate 0.001)": {1, 2, 3}}
"""Seeds whose peak of memory is the default's: the others kept 1,024 compiled kernels (docs/log.md)."""

SHARES = {
    "share of items whose text is taken away": r"HM4SR \1% of texts missing",
    "share of the users learned from": r"MODEL \1% of the users",
}
"""First headers of tables whose rows are shares, and what label a share stands for."""


Reports = dict[tuple[str, str], dict[int, dict[str, Any]]]
"""By data set and label, then by seed."""


@dataclass(frozen=True)
class Row:
    """One row of a table: where it stands, what it is about, its cells under their headers."""

    where: str
    dataset: str
    name: str
    first_header: str
    cells: list[tuple[str, str]]


def tables(path: Path) -> Iterator[Row]:
    dataset, headers = "", None
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if begins := re.match(r"(?:## )?(Beauty|MovieLens-100K)(?: \(.*|:)$", line):
            dataset = DATASETS[begins[1]]
        elif line.startswith("## "):
            dataset = ""
        elif line.startswith("### The switches"):
            dataset = "beauty"
        if not line.startswith("|"):
            headers = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if headers is None:
            headers = cells
        elif set(line) - set("|- "):
            where = f"{path.name}:{number}"
            yield Row(where, dataset, cells[0], headers[0], list(zip(headers[1:], cells[1:], strict=True)))


def label_of(row: Row, model: str) -> str:
    """What the run of a row is labelled; `model` is the one that a column is about."""
    if row.first_header in SHARES:
        share = re.fullmatch(r"(\d+) %", row.name)
        return share.expand(SHARES[row.first_header]).replace("MODEL", model) if share else model
    if ("order within a day", "hash") in row.cells and row.name in LABELS_BY_HASH:
        return LABELS_BY_HASH[row.name]
    if row.name in LABELS:
        return LABELS[row.name]
    for pattern, label in PATTERNS.items():
        if found := re.fullmatch(pattern, row.name):
            return found.expand(label).replace(",", "")
    return row.name


def values_of(header: str, part: str, runs: Mapping[int, dict[str, Any]], label: str) -> list[float] | None:
    """What a cell is the mean of; None if its column is not checked."""
    if metric := re.search(r"(NDCG|MRR|Hit)@\d+", header.replace("among all items", "NDCG@10")):
        return [run[part][metric[0].lower()] for run in runs.values()]
    if header == "best epoch":
        return [run["best_epoch"] for run in runs.values()]
    if header == "peak MB":
        return [max(runs[seed]["peak_memory_mb"] for seed in PEAKS.get(label, runs))]
    if header == "parameters":
        return [run["parameters"] for run in runs.values()]
    return None


def compare(cell: str, values: list[float]) -> str | None:
    """What is wrong with a cell such as ".0123 ± .0004"; empty if nothing, None if it has no figure."""
    figure = re.match(r"\**([\d,]*\.?\d+)\**(?: ± (\.\d+))?", cell)
    if figure is None:
        return None
    digits = len(figure[1].partition(".")[2])
    half = 0.5 * 10**-digits + 1e-9
    if abs(float(figure[1].replace(",", "")) - mean(values)) > half:
        return f"{mean(values):.{digits}f}, not {figure[1]}"
    if figure[2] and abs(float(figure[2]) - stdev(values)) > half:
        return f"± {stdev(values):.{digits}f}, not {figure[2]}"
    return ""


CHECKED = re.compile(r"@\d|^(seeds|among all items|best epoch|peak MB|parameters)$")


def check(row: Row, reports: Reports) -> tuple[list[str], int]:
    """What is wrong in a row, and how many of its figures were compared."""
    dataset, part, model = row.dataset, "test", "HM4SR"
    if ("order within a day", "hash") in row.cells:
        dataset += "-hash"
    wrong, compared = [], 0
    for header, cell in row.cells:
        model = named[1] if (named := re.match(r"(HM4SR|SASRec): ", header)) else model
        if heading := re.search(r"\b(validation|test)\b", header):
            part = {"validation": "valid"}.get(heading[1], heading[1])
        if not CHECKED.search(header):
            continue
        if row.name.startswith("the paper's"):
            theirs = paper_results(dataset, row.name.split()[2])
            found = compare(cell, [theirs[header.lower()]]) if theirs and header.lower() in theirs else None
        else:
            label = label_of(row, model)
            runs = reports[dataset, label]
            if "order within a day" in dict(row.cells):
                runs = {1: runs[1]}
            if "among all items" in dict(row.cells):  # of which a part was ranked anew
                runs = {seed: runs[seed] for seed in seeds_in(dict(row.cells)["seeds"])}
            if header == "seeds" and seeds_in(cell) != set(runs):
                wrong.append(f"{row.where}: seeds {cell}, committed are {sorted(runs)}")
            values = values_of(header, part, runs, label)
            found = None if values is None else compare(cell, values)
            paper = re.search(r"\((\.\d+)\)", cell)
            if paper and "parameters" in dict(row.cells):
                theirs = paper_results(dataset, label) or {}
                if abs(theirs[header.lower()] - float(paper[1])) > 1e-9:
                    wrong.append(f"{row.where}: the paper's {header} is {theirs[header.lower()]}")
        compared += found is not None
        if found:
            wrong.append(f"{row.where}: {row.name}, {header} is {found}")
    return wrong, compared


def seeds_in(cell: str) -> set[int]:
    first, _, last = cell.partition("-")
    return set(range(int(first), int(last) + 1)) if last else {int(seed) for seed in cell.split(",")}


@pytest.fixture(scope="module")
def reports() -> Reports:
    found: Reports = {}
    for folder, label in json.loads((RESULTS / "labels.json").read_text()).items():
        report = json.loads((RESULTS / folder / "report.json").read_text())
        dataset = SAME_DATA.get(report["dataset"], report["dataset"])
        seeds = found.setdefault((dataset, label), {})
        assert report["seed"] not in seeds, f"{folder}: another run of {dataset}, {label} has this seed"
        seeds[report["seed"]] = report
    return found


def test_the_tables_of_the_results_page_are_those_of_the_committed_reports(reports):
    checked = [check(row, reports) for row in tables(RESULTS.parent / "results.md") if row.dataset]
    assert not [line for wrong, _ in checked for line in wrong]
    assert sum(compared for _, compared in checked) > 600


def test_the_quality_in_the_tables_of_the_readme_is_that_of_the_committed_reports(reports):
    wrong, compared = [], 0
    for row in tables(ROOT / "README.md"):
        for header, cell in row.cells:
            name = f"{row.name}, {header.removesuffix(' here')}"
            about = re.match(r"(?:Amazon )?(Beauty|MovieLens-100K), (.*)", name)
            metric = re.search(r"(NDCG|MRR)@\d+", name)
            model = re.search(r"hm4sr-plus|\bHM4SR\b|SASRec", name)
            if about is None or metric is None or model is None:
                continue
            dataset = DATASETS[about[1]]
            theirs = paper_results(dataset, model[0]) if "the paper's" in name else None
            runs = reports[dataset, model[0]].values()
            values = [run["test"][metric[0].lower()] for run in runs]
            found = compare(cell, [theirs[metric[0].lower()]] if theirs else values)
            compared += found is not None
            if found:
                wrong.append(f"{row.where}: {name} is {found}")
    assert not wrong
    assert compared == 8 + 24


@pytest.mark.parametrize(
    ("cell", "values", "wrong"),
    [
        (".0123", [0.0122, 0.0124], ""),
        ("**.0123**", [0.0125], "0.0125, not .0123"),
        (".0123 ± .0002", [0.0122, 0.0124], "± 0.0001, not .0002"),
        ("1,234", [1234], ""),
        ("-", [1.0], None),
    ],
)
def test_a_cell_is_compared_to_its_last_digit(cell, values, wrong):
    assert compare(cell, values) == wrong
