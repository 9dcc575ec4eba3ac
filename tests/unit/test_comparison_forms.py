"""Segments of a comparison, and its tables in all forms: one and the same figures, by hand from the ranks."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from record_kit import comparison_of, facts_of, record, records_of

from hm4sr.experiments.compare import write_comparison
from hm4sr.experiments.comparison import Comparison
from hm4sr.experiments.tables import Table

DAY = 86_400
DASH = "\N{EN DASH}"
RANKS = {
    "ours": {1: [1, 2, 1, 9, 1, 2, 4, 1], 2: [2, 2, 1, 1, 9, 9, 4, 5]},
    "A_b & <c>": {1: [4, 1, 9, 9, 9, 5, 5, 1]},
    "late": {1: [9, 9, 9, 5, 9, 9, 9, 5], 3: [9, 9, 9, 9, 9, 9, 9, 9]},
}
HISTORY = [3, 4, 4, 9, 12, 12, 40, 1_500]
POPULARITY = [0, 0, 1, 4, 5, 6, 7, 8]
GAP = [0, 0, DAY, 3 * DAY, 4 * DAY, 4 * DAY, 30 * DAY, 40 * DAY]


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    records = {
        label: {
            seed: record(
                tmp_path / "runs" / f"{place}-{seed}",
                {"valid": [seed] * 8, "test": ranks},
                seed,
                model="gru4rec",
                epochs=[(50.0, 10.0, 0.1), (50.0, 10.0, 0.2)],
            )
            for seed, ranks in seeds.items()
        }
        for place, (label, seeds) in enumerate(RANKS.items())
    }
    keys = {"user": range(8), "item": range(1, 9)}
    columns = {**keys, "history": HISTORY, "popularity": POPULARITY, "gap": GAP}
    kinds = {name: pl.Int64 if name == "gap" else pl.Int32 for name in columns}
    targets = pl.DataFrame(columns, schema=kinds).sample(fraction=1.0, shuffle=True, seed=3)
    toys = {"users": 19_412, "items": 11_924, "actions": 167_597}
    return comparison_of(records, "mrr@5", "hit@1", facts=facts_of(records, toys, targets))


def mrr5(label: str, targets: list[int]) -> list[float]:
    """Of some targets, for each seed."""
    seeds = np.array(list(RANKS[label].values()), dtype=float)[:, targets]
    return np.where(seeds <= 5, 1 / seeds, 0).mean(axis=1).tolist()


# Segments


SEGMENTS = {
    "users by events before the target": {
        "3 to 4 events": [0, 1, 2],
        "9 events": [3],
        "12 events": [4, 5],
        "40 to 1,500 events": [6, 7],
    },
    "items by training events": {
        "0 training events": [0, 1],
        "1 to 4 training events": [2, 3],
        "5 to 6 training events": [4, 5],
        "7 to 8 training events": [6, 7],
    },
    "cold items": {
        "in no training event": [0, 1],
        "1 to 4 training events": [2, 3],
        "5 or more training events": [4, 5, 6, 7],
    },
    "time since the event before": {
        "same moment": [0, 1],
        "1 to 3 days": [2, 3],
        "4 days": [4, 5],
        "30 to 40 days": [6, 7],
    },
}


def test_segments_hold_the_figures_of_their_own_targets(comparison):
    tables = {table.title: table for table in comparison.by_segment()}
    assert list(tables) == [f"MRR@5: {group}" for group in SEGMENTS]
    for group, bins in SEGMENTS.items():
        table = tables[f"MRR@5: {group}"]
        assert table.name == f"segment {group}"
        assert list(table.header) == ["Model", *bins]
        assert [row[0].text for row in table.rows] == [*RANKS, "targets"]
        assert list(table.rules) == [len(RANKS)]
        for row, label in zip(table.rows, RANKS, strict=False):
            for cell, targets in zip(row[1:], bins.values(), strict=True):
                values = mrr5(label, targets)
                assert cell.value == pytest.approx(np.mean(values)), (group, label)
                spread = np.std(values, ddof=1) if len(values) > 1 else None
                assert cell.spread == pytest.approx(spread), (group, label)
        assert [cell.value for cell in table.rows[-1][1:]] == list(map(len, bins.values()))
        assert not any(cell.mark for cell in table.rows[-1])


def test_the_best_of_each_segment_is_marked_apart(comparison):
    table = comparison.by_segment()[0]
    marks = [[row[place].mark for row in table.rows[:3]] for place in (1, 2, 4)]
    assert marks == [["best", "second", ""], ["best", "", "second"], ["second", "best", ""]]


# Forms


class Cells(HTMLParser):
    """Cells of each table of a page, row by row; marks as in Markdown."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._open = True
        elif self._open and tag in ("strong", "u"):
            self.tables[-1][-1][-1] += {"strong": "**", "u": "<ins>"}[tag]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = False
        elif self._open and tag in ("strong", "u"):
            self.tables[-1][-1][-1] += {"strong": "**", "u": "</ins>"}[tag]

    def handle_data(self, data: str) -> None:
        if self._open:
            self.tables[-1][-1][-1] += data


def shown(table: Table) -> list[list[str]]:
    """Header and rows with their marks and signs, as a person reads them."""
    wraps = {"": "{}", "best": "**{}**", "second": "<ins>{}</ins>"}
    rows = [[wraps[cell.mark].format(cell.text or DASH) + cell.note for cell in row] for row in table.rows]
    return [list(table.header), *rows]


def markdown_tables(text: str) -> list[list[list[str]]]:
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    cells = [
        [re.split(r" (?<!\\)\| ", line[2:-2]) for line in block.strip().splitlines()] for block in blocks
    ]
    plain = [
        [[re.sub(r"\\([\\`*_{}\[\]<>#|~&$])", r"\1", cell) for cell in row] for row in rows] for rows in cells
    ]
    return [[rows[0], *rows[2:]] for rows in plain]


def latex_tables(text: str) -> list[list[list[str]]]:
    tables = []
    for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL):
        rows = [
            re.split(r" (?<!\\)& ", line.removesuffix(r" \\"))
            for line in body.splitlines()
            if line.endswith(r"\\")
        ]
        tables.append([[_from_latex(cell) for cell in row] for row in rows])
    return tables


def _from_latex(cell: str) -> str:
    signs = {r"$\pm$": "±", r"$\dagger$": "†", r"\textless{}": "<", r"\textgreater{}": ">", "--": DASH}
    for sign, text in {**signs, r"\&": "&", r"\_": "_", r"\%": "%"}.items():
        cell = cell.replace(sign, text)
    cell = re.sub(r"\\textsuperscript{(.*?)}", r"\1", cell)
    return re.sub(r"\\underline{(.*?)}", r"<ins>\1</ins>", re.sub(r"\\textbf{(.*?)}", r"**\1**", cell))


def assert_forms_agree(comparison: Comparison, folder: Path) -> list[str]:
    """All cells of all tables, once the three forms for people have been found to show them."""
    write_comparison(comparison, folder)
    expected = [shown(table) for table in comparison.tables()]
    assert markdown_tables((folder / "comparison.md").read_text()) == expected
    assert latex_tables((folder / "comparison.tex").read_text()) == expected
    page = Cells()
    page.feed((folder / "comparison.html").read_text())
    assert page.tables == expected
    return [cell for rows in expected for row in rows for cell in row]


def test_every_form_shows_the_same_cells_and_marks(comparison, tmp_path):
    names = [table.name.split()[0] for table in comparison.tables()]
    assert names == ["results", "paper", "significance", *["segment"] * 4]
    cells = assert_forms_agree(comparison, tmp_path / "out")
    for sign in ("**", "<ins>", " ± ", DASH, "A_b & <c>"):
        assert any(sign in cell for cell in cells), sign


def test_every_form_shows_the_dagger_and_the_stars(tmp_path):
    records = records_of(tmp_path / "runs", {"ours": ([1] * 12,), "behind": ([9] * 12,)})
    cells = assert_forms_agree(comparison_of(records, "hit@1", "mrr@10"), tmp_path / "out")
    # Two assignments of signs in 4,096, twice for two tests: p is about 0.001.
    assert cells.count("**1.0000**†") == 2
    assert any(cell.startswith("+1.0000**") for cell in cells)


def csv_columns(table: Table, file: Path) -> list[tuple[list[str], list[str]]]:
    """Cells of each column, and those of the column of deviations that may follow it."""
    with file.open() as stream:
        columns = [list(column) for column in zip(*csv.reader(stream), strict=True)]
    found = []
    for name in table.header:
        assert columns[0][0] == name
        values = columns.pop(0)[1:]
        has_spread = columns and columns[0][0] == f"{name} std"
        found.append((values, columns.pop(0)[1:] if has_spread else [""] * len(values)))
    assert not columns
    return found


def test_csv_holds_in_full_what_the_others_round(comparison, tmp_path):
    write_comparison(comparison, tmp_path / "out")
    for table in comparison.tables():
        columns = csv_columns(table, tmp_path / "out" / f"{table.name.replace(' ', '-')}.csv")
        for place, (values, spreads) in enumerate(columns):
            for value, spread, row in zip(values, spreads, table.rows, strict=True):
                cell = row[place]
                if cell.value is None:
                    assert value.removeprefix("'") == cell.text
                    continue
                assert float(value) == cell.value
                shown, _, deviation = cell.text.replace(",", "").partition(" ± ")
                scale, decimals = (0.01, 2) if shown.endswith("%") else (1.0, 0)
                decimals += len(shown.rstrip("%").partition(".")[2])
                assert float(shown.rstrip("%")) * scale == pytest.approx(
                    float(value), abs=0.51 * 10**-decimals
                )
                assert bool(deviation) == bool(spread)
                if spread:
                    assert float(deviation) == pytest.approx(float(spread), abs=0.51 * 10**-decimals)


def test_csv_of_the_results_is_what_the_ranks_give(comparison, tmp_path):
    write_comparison(comparison, tmp_path / "out")
    with (tmp_path / "out" / "results.csv").open() as stream:
        told = {row["Model"]: row for row in csv.DictReader(stream)}
    for label in RANKS:
        values = mrr5(label, list(range(8)))
        assert float(told[label]["MRR@5"]) == pytest.approx(np.mean(values), rel=1e-12)
        spread = [told[label]["MRR@5 std"]]
        assert [float(text) for text in spread if text] == pytest.approx(
            [np.std(values, ddof=1)] if len(values) > 1 else []
        )
        assert float(told[label]["min / run"]) == 2.0
    own, other = (np.mean(mrr5(label, list(range(8)))) for label in ("ours", "A_b & <c>"))
    assert float(told["ours over the best other"]["MRR@5"]) == pytest.approx(own / other - 1)
