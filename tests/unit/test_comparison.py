"""The tables of a comparison against figures told by hand from ranks that are given."""

from itertools import product

import numpy as np
import pytest
from record_kit import comparison_of, facts_of, record, records_of

from hm4sr.errors import UserError
from hm4sr.evaluation.compare import PairedTest
from hm4sr.evaluation.significance import Difference
from hm4sr.experiments.comparison import Comparison
from hm4sr.experiments.tables import Cell, Table

THREE = {
    "ours": ([1, 1, 2, 2], [1, 2, 2, 4]),
    "steady": ([1, 2, 4, 6],),
    "late": ([4, 4, 4, 3], [4, 4, 3, 6]),
}


def column(table: Table, name: str) -> list[Cell]:
    return [row[list(table.header).index(name)] for row in table.rows]


def daggers(comparison: Comparison) -> list[tuple[str, int]]:
    """Label and column of each figure that has the sign."""
    rows = comparison.results().rows
    return [(row[0].text, place) for row in rows for place, cell in enumerate(row) if cell.note]


# Results


def test_a_metric_is_the_mean_over_seeds_with_the_deviation_of_a_sample(tmp_path):
    table = comparison_of(records_of(tmp_path, THREE), "mrr@5", "hit@4").results()
    cells = column(table, "MRR@5")
    # Ours: (1 + 1 + 1/2 + 1/2) / 4 = 0.75 and (1 + 1/2 + 1/2 + 1/4) / 4 = 0.5625.
    assert cells[0].value == pytest.approx(0.65625)
    assert cells[0].spread == pytest.approx(0.1875 / 2**0.5)
    assert cells[0].text == "0.6562 ± 0.1326"
    assert (cells[1].value, cells[1].spread, cells[1].text) == (0.4375, None, "0.4375")
    # Late: (3 · 1/4 + 1/3) / 4 and (2 · 1/4 + 1/3) / 4.
    assert cells[2].value == pytest.approx((13 / 48 + 10 / 48) / 2)
    assert cells[2].spread == pytest.approx(3 / 48 / 2**0.5)
    assert [cell.value for cell in column(table, "Hit@4")[:3]] == pytest.approx([1.0, 0.75, 0.875])
    assert table.notes[0] == "Mean ± standard deviation over seeds."
    assert [row[0].text for row in table.rows] == [*THREE, "ours over the best other"]


def test_runs_about_other_targets_are_refused(tmp_path):
    records = {
        label: {1: record(tmp_path / label, {"test": [1, 2]}, users=users)}
        for label, users in (("ours", [0, 1]), ("other", [0, 2]))
    }
    with pytest.raises(UserError, match=r"other \(seed 1\) was judged on other test targets than ours"):
        comparison_of(records, "mrr@5", facts=facts_of(records))


def test_of_single_seeds_no_deviation_is_told(tmp_path):
    single = {label: seeds[:1] for label, seeds in THREE.items()}
    table = comparison_of(records_of(tmp_path, single), "mrr@5").results()
    assert [cell.spread for cell in column(table, "MRR@5")] == [None] * 4
    assert not any("deviation" in note for note in table.notes)


def test_the_best_and_the_second_best_of_each_metric_are_marked_apart(tmp_path):
    table = comparison_of(records_of(tmp_path, THREE), "mrr@5", "hit@4").results()
    assert [cell.mark for cell in column(table, "MRR@5")] == ["best", "second", "", ""]
    assert [cell.mark for cell in column(table, "Hit@4")] == ["best", "", "second", ""]
    assert {cell.mark for name in ("Seeds", "Parameters", "min / run") for cell in column(table, name)} == {
        ""
    }


def test_improvement_is_over_the_best_other_on_each_metric(tmp_path):
    records = records_of(tmp_path, THREE)
    table = comparison_of(records, "mrr@5", "hit@4").results()
    mrr, hit = (column(table, name)[-1] for name in ("MRR@5", "Hit@4"))
    assert (mrr.value, hit.value) == pytest.approx((0.65625 / 0.4375 - 1, 1 / 0.875 - 1))
    assert (mrr.text, hit.text) == ("+50.00%", "+14.29%")
    assert list(table.rules) == [3], "a line above what is no model"
    behind = comparison_of(records, "mrr@5", ours="steady").results()
    assert column(behind, "MRR@5")[-1].text == "-33.33%"
    absent = comparison_of(records, "mrr@5", ours="nobody")
    assert [row[0].text for row in absent.results().rows] == list(THREE)
    assert absent.significance() is None


def test_costs_are_of_all_seeds(tmp_path):
    parts = {"test": [1, 2]}
    runs = {
        1: record(
            tmp_path / "1",
            parts,
            1,
            epochs=[(60.0, 30.0, 0.1), (60.0, 30.0, 0.1)],
            speed=0.5,
            threads=2,
            parameters=12_345,
            seconds_per_epoch=60.0,
            peak_memory_mb=1_700,
        ),
        2: record(
            tmp_path / "2",
            parts,
            2,
            epochs=[(100.0, 20.0, 0.1)],
            speed=0.25,
            parameters=12_345,
            seconds_per_epoch=100.5,
            peak_memory_mb=1_600,
        ),
        3: record(tmp_path / "3", parts, 3, epochs=[(0.0, 30.0, 0.1)]),
    }
    comparison = comparison_of({"ours": runs}, "mrr@5")
    (row,) = comparison.costs().rows
    # Three, two and half a minute; an epoch of 60, 100.5 and 1 s; the third run was never timed.
    assert [cell.text for cell in row] == ["ours", "3", "12,345", "53.83", "1.8", "1,700", "0.375"]
    assert row[4].value == pytest.approx((3 + 2 + 0.5) / 3)
    assert comparison.results().rows[0][2:] == row[1:]
    assert comparison.costs().notes == [
        "Trained on cpu with 1 thread, cpu with 2 threads."
        " Times of different machines or thread counts do not compare.",
        "s / 1,000 rec. measured with 1 thread and 2 threads.",
    ]


# The dagger: better than every other model


def test_the_dagger_is_for_a_clear_win_over_every_other(tmp_path):
    # Of twelve users' signs two assignments in 4,096 are as extreme as twelve wins.
    records = records_of(tmp_path, {"ours": ([1] * 12,), "behind": ([9] * 12,), "far": ([30] * 12,)})
    comparison = comparison_of(records, "hit@1", "mrr@10")
    assert daggers(comparison) == [("ours", 1), ("ours", 2)]
    assert any(
        note.startswith("† better than every other model (p < 0.05") for note in comparison.results().notes
    )


def test_one_rival_that_is_as_good_costs_the_dagger(tmp_path):
    records = records_of(tmp_path, {"ours": ([1] * 12,), "behind": ([9] * 12,), "near": ([1] * 11 + [9],)})
    comparison = comparison_of(records, "hit@1", "hit@9")
    assert {test.rival: test.adjusted < 0.05 for test in comparison.tests if test.metric.k == 1} == {
        "behind": True,
        "near": False,
    }
    assert daggers(comparison) == []
    assert not any("†" in note for note in comparison.results().notes)


def test_a_clear_defeat_is_no_dagger(tmp_path):
    records = records_of(tmp_path, {"ours": ([9] * 12,), "ahead": ([1] * 12,)})
    comparison = comparison_of(records, "hit@1")
    (test,) = comparison.tests
    assert test.adjusted < 0.05
    assert daggers(comparison) == []


def test_the_dagger_goes_by_the_corrected_value(tmp_path):
    # Six wins of six: p = 2 / 64, which is below 0.05 alone and above it as one of two.
    records = records_of(tmp_path, {"ours": ([1] * 6,), "behind": ([9] * 6,)})
    assert daggers(comparison_of(records, "hit@1")) == [("ours", 1)]
    assert daggers(comparison_of(records, "hit@1", "mrr@5")) == []


# Significance in full


def test_the_interval_is_1_96_standard_errors_wide_on_either_side(tmp_path):
    records = records_of(tmp_path, {"ours": ([1, 1, 1, 9],), "rival": ([9, 9, 1, 9],)})
    table = comparison_of(records, "hit@1").significance()
    differences = np.array([1.0, 1.0, 0.0, 0.0])
    half = 1.96 * differences.std(ddof=1) / 2
    (row,) = table.rows
    assert [cell.text for cell in row[:3]] == ["rival", "+0.5000", f"{0.5 - half:+.4f} to {0.5 + half:+.4f}"]
    assert row[2].text == "-0.0658 to +1.0658"
    assert row[1].value == 0.5


def test_correction_is_over_all_models_and_metrics(tmp_path):
    tests = {
        "ours": ([1, 1, 1, 2, 1, 3, 2, 1],),
        "a": ([2, 9, 4, 9, 3, 9, 9, 2],),
        "b": ([1, 2, 1, 1, 9, 4, 3, 9],),
    }
    comparison = comparison_of(records_of(tmp_path, tests), "mrr@10", "hit@1")
    gains = {"mrr@10": lambda ranks: 1 / ranks, "hit@1": lambda ranks: ranks == 1}
    signs = np.array(list(product([1, -1], repeat=8)))
    family = [(rival, metric) for rival in "ab" for metric in gains]
    exact = []
    for rival, metric in family:
        own, other = (gains[metric](np.array(tests[name][0])).astype(float) for name in ("ours", rival))
        exact.append(float((np.abs(signs @ (own - other)) >= abs((own - other).sum()) - 1e-9).mean()))
    assert [(test.rival, str(test.metric)) for test in comparison.tests] == family
    found = np.array([test.difference.p_value for test in comparison.tests])
    assert found == pytest.approx(exact, abs=0.02)
    # Holm: the least of four times 4, the next times 3, ..., none below the one before.
    order = np.argsort(found)
    corrected = np.minimum(1, np.maximum.accumulate(found[order] * np.array([4, 3, 2, 1])))
    assert [comparison.tests[place].adjusted for place in order] == pytest.approx(corrected)

    table = comparison.significance()
    assert table.header[:5] == ["ours minus", "MRR@10", "95 % interval", "p", "p, corrected"]
    assert [row[3].value for row in table.rows] == [found[0], found[2]]
    assert [row[4].value for row in table.rows] == [comparison.tests[place].adjusted for place in (0, 2)]
    assert [row[5].value for row in table.rows] == pytest.approx([5 / 8, 2 / 8])
    assert "over 8 users" in table.notes[0]
    assert "all 4 tests" in table.notes[0]


def test_a_user_counts_once_however_many_targets(tmp_path):
    users = [0, 1, 2, 2, 2]
    records = {
        "ours": {1: record(tmp_path / "o", {"test": [1, 1, 1, 9, 9]}, users=users)},
        "rival": {1: record(tmp_path / "r", {"test": [9, 9, 9, 9, 9]}, users=users)},
    }
    comparison = comparison_of(records, "hit@1")
    table = comparison.significance()
    assert table.rows[0][1].value == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert "over 3 users" in table.notes[0]
    assert comparison.lead[0].startswith("8 users, 9 items, 1,234 events; 5 test targets,")
    assert comparison.results().rows[0][1].value == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("adjusted", "stars"),
    [(0.06, ""), (0.05, ""), (0.049, "*"), (0.01, "*"), (0.009, "**"), (0.001, "**"), (0.0009, "***")],
)
def test_stars_are_below_the_levels_of_the_corrected_value(tmp_path, adjusted, stars):
    comparison = comparison_of(
        records_of(tmp_path, {"ours": ([1],), "a": ([2],), "b": ([2],)}), "hit@1", "mrr@5"
    )
    # As if it had been computed: the property keeps its value there.
    vars(comparison)["tests"] = [
        PairedTest(rival, metric, Difference(0.25, 0.125, 0.0001), value)
        for rival, values in (("a", (adjusted, 0.3)), ("b", (0.3, adjusted)))
        for metric, value in zip(comparison.metrics, values, strict=True)
    ]
    one, other = comparison.significance().rows
    assert [cell.note for cell in one] == ["", stars, "", "", "", ""]
    assert [cell.note for cell in other] == ["", "", "", "", "", stars]
    assert [cell.text for cell in one[1:4]] == ["+0.2500", "+0.1250 to +0.3750", "0.0001"]


# Beside the paper


TOYS = {"users": 19_412, "items": 11_924, "actions": 167_597}


def test_the_difference_is_ours_over_the_papers(tmp_path):
    hits = [1, 7, *[99] * 38]  # NDCG@5 = MRR@5 = 1/40, NDCG@10 = (1 + 1/3)/40, MRR@10 = (1 + 1/7)/40
    runs = {
        "GRU4Rec": {1: record(tmp_path / "g", {"test": hits}, model="gru4rec")},
        "mine": {1: record(tmp_path / "m", {"test": hits}, model="mine")},
        "HM4SR": {
            seed: record(
                tmp_path / f"h{seed}", {"test": ranks}, seed, model="hm4sr", features=("text", "image")
            )
            for seed, ranks in ((1, hits), (2, [1, 1, *[99] * 38]))
        },
    }
    comparison = comparison_of(runs, "hit@1", ours="HM4SR", facts=facts_of(runs, TOYS))
    table = comparison.beside_paper()
    assert table.title == "Beside the paper's Table 1, Toys"
    assert table.header[2:5] == ["NDCG@5", "paper", "difference"]
    assert [row[0].text for row in table.rows] == ["GRU4Rec", "HM4SR"]
    assert [row[1].text for row in table.rows] == ["none", "text, image"]
    one, two = (row[2:] for row in table.rows)
    own = [1 / 40, 4 / 3 / 40, 1 / 40, 8 / 7 / 40]
    paper = [0.0236, 0.0289, 0.0201, 0.0222]
    assert [cell.value for cell in one[::3]] == pytest.approx(own)
    assert [cell.value for cell in one[1::3]] == paper
    assert [cell.value for cell in one[2::3]] == pytest.approx(
        [a / b - 1 for a, b in zip(own, paper, strict=True)]
    )
    assert [cell.text for cell in one[2::3]] == ["+5.9%", "+15.3%", "+24.4%", "+28.7%"]
    # The mean of two seeds, 1/40 and 2/40, beside 0.0503.
    assert (two[0].text, two[1].text, two[2].text) == ("0.0375 ± 0.0177", "0.0503", "-25.4%")


def test_other_data_and_other_models_have_no_paper_beside_them(tmp_path):
    known = records_of(tmp_path / "known", {"ours": ([1, 2],)})
    assert comparison_of(known, "hit@1", facts=facts_of(known, {**TOYS, "items": 5})).beside_paper() is None
    unknown = records_of(tmp_path / "unknown", {"ours": ([1, 2],)}, model="mine")
    assert comparison_of(unknown, "hit@1", facts=facts_of(unknown, TOYS)).beside_paper() is None
