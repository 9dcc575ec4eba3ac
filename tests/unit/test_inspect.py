"""`hm4sr inspect` on data whose figures can be counted by hand."""

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hm4sr.cli import main
from hm4sr.cli.inspect import columns
from hm4sr.data.dataset import Dataset
from hm4sr.data.prepare import PrepareConfig, prepare
from hm4sr.experiments.bars import Layer, bar_chart
from hm4sr.experiments.facts import Facts, collect, gini, head_share, lorenz, same_titles
from hm4sr.experiments.facts_page import binned
from hm4sr.experiments.findings import findings

DAY, START = 86_400, 1_400_000_000 // 86_400 * 86_400
ITEMS = [  # id, title, brand, category, picture
    ("a", "Blue cup & saucer <b>", "Acme", "Kitchen", "a.png"),
    ("b", "cup, BLUE & saucer b", None, "Kitchen", None),
    ("c", "Hat", None, None, "gone.png"),
    ("d", None, None, None, None),
]


@pytest.fixture
def make(tmp_path):
    def prepared(rows: list[tuple[str, str, int]], items: Sequence[str] = (), **rules: object) -> Dataset:
        """Rows of user, item and second since `START`; `items` beside those above."""
        log = pl.DataFrame(
            [(user, item, START + second) for user, item, second in rows],
            schema=["user_id", "item_id", "timestamp"],
            orient="row",
        )
        log.write_csv(tmp_path / "log.csv")
        columns = ["item_id", "title", "brand", "category", "image_path"]
        catalogue = [*ITEMS, *((item, None, None, None, None) for item in items)]
        pl.DataFrame(catalogue, schema=columns, orient="row").write_csv(tmp_path / "items.csv")
        Image.effect_noise((20, 20), 80).save(tmp_path / "a.png")
        config = PrepareConfig.parse({"min_user_events": 1, "min_item_events": 1, **rules}, "test")
        return prepare(tmp_path / "log.csv", tmp_path / "items.csv", tmp_path / "shop", config, force=True)

    return prepared


ROWS = [
    ("u", "a", 0), ("u", "b", 40 * DAY + 7), ("u", "a", 60 * DAY + 7), ("u", "b", 60 * DAY + 7),
    ("v", "b", 10 * DAY + 1), ("v", "a", 20 * DAY + 1), ("v", "c", 30 * DAY + 1), ("w", "a", 5 * DAY),
]  # fmt: skip


def texts(facts: Facts, level: str) -> str:
    return "\n".join(finding.text for finding in findings(facts) if finding.level == level)


def test_figures_counted_by_hand(make):
    facts = collect(make(ROWS))
    assert (facts.num_users, facts.num_items, facts.num_events) == (3, 3, 8)
    assert facts.num_pairs == 6, "u has both a and b twice"
    assert facts.sparsity == pytest.approx(1 - 6 / 9)
    assert facts.lengths.tolist() == [4, 3, 1]
    assert facts.item_events.tolist() == [4, 3, 1]
    assert (facts.times.first, facts.times.last) == (START, START + 60 * DAY + 7)
    assert facts.times.bins.sum() == 8
    # Intervals of two days and a quarter of a second: what lies a second after day 10 is still in number 4.
    assert facts.times.bins.sum(0)[[0, 2, 4, 9, 14, 20, 29]].tolist() == [1, 1, 1, 1, 1, 1, 2]
    assert facts.times.on_busiest_day == 2
    train, valid, test = (facts.parts[part] for part in ("train", "valid", "test"))
    assert [(part.events, part.users) for part in (train, valid, test)] == [(4, 3), (2, 2), (2, 2)]
    assert (valid.repeated, test.repeated) == (1, 1)  # u had a and b before
    assert (valid.cold, test.cold) == (0, 1)  # c is in the test part alone
    assert (valid.tied, test.tied) == (0, 1)
    assert facts.tied == 2
    # Training: days 0, 40, 10, 5. After v's test target (day 30): one of four; after u's: none.
    assert test.newer_in_training == pytest.approx(1 / 8)
    covered = {row.name: (row.items, row.events) for row in facts.coverage}
    assert covered["title"] == (1, 1)
    assert covered["brand"] == pytest.approx((1 / 3, 4 / 8))
    assert covered["categories"] == pytest.approx((2 / 3, 7 / 8))
    assert covered["picture named"] == pytest.approx((2 / 3, 5 / 8))
    assert covered["picture found"] == pytest.approx((1 / 3, 4 / 8))
    assert facts.same_titles == [["a", "b"]]


def test_findings(make):
    facts = collect(make(ROWS))
    warnings, notes = texts(facts, "warning"), texts(facts, "note")
    assert "1 pictures are not found below" in warnings
    assert "1 test targets (50.0%) are items that their user had before" in warnings
    assert "2 items (66.7%) share their title's words with another one, in 1 groups" in warnings
    assert "25% of the events share their time" in notes
    assert "For a test target, 12% of the training events are newer" in notes
    assert "1 test targets (50.0%) are items without a training event" in notes
    assert "1 users have no test target" in notes
    assert "1980" not in warnings


@pytest.mark.parametrize(("ids", "descending"), [("letters", False), ("numbers", False), ("numbers", True)])
def test_a_file_that_is_sorted_by_item_gives_targets_away(make, ids, descending):
    names = [f"i{n:03}" if ids == "letters" else str(n) for n in range(5, 15)]  # as words, 10 comes before 9
    rows = [(f"u{u}", names[(u + 3 * k) % 10], DAY) for u in range(120) for k in range(3)]
    rows.sort(key=lambda row: names.index(row[1]), reverse=descending)
    facts = collect(make(rows, items=names))
    test = facts.parts["test"]
    assert test.tied == 120
    assert test.ascending == (0 if descending else 120)
    which = "smaller" if descending else "greater"
    assert f"100% of the 120 test targets at the time of the event before have the {which} item id" in texts(
        facts, "warning"
    )
    hashed = collect(make(rows, items=names, ties="hash"))
    assert 30 < hashed.parts["test"].ascending < 90
    assert "item id of the two" not in texts(hashed, "warning")


def test_clean_data_has_no_findings(make):
    rows = [(user, item, DAY * day + 5) for user in "uv" for day, item in enumerate("acdbcd")]
    rows = [(user, item, second + 40 * (user == "v")) for user, item, second in rows]
    data = make(rows[:2] + rows[6:8] + [("u", "d", 9 * DAY), ("v", "d", 9 * DAY + 1)])
    facts = collect(data)
    assert "warning" not in {finding.level for finding in findings(facts) if "picture" not in finding.text}


@pytest.mark.parametrize(
    ("rows", "rules", "expected"),
    [
        ([("u", "a", 0), ("u", "b", 60)], {}, "within one day"),
        ([("u", "a", 999 * START), ("u", "b", 999 * START + DAY)], {"time_unit": "s"}, "milliseconds read"),
        ([("u", "a", 0), ("u", "b", 3 * DAY)], {"time_unit": "ms"}, "before 1980"),
        ([("u", "a", 0)] * 3 + [("u", "b", 99 * DAY)], {"duplicates": "keep"}, "of one day, 2014-05-13"),
        ([("u", "a", 0), ("u", "b", 3 * DAY)], {}, "There are no test targets"),
    ],
)
def test_warnings_about_times_and_parts(make, rows, rules, expected):
    assert expected in texts(collect(make(rows, **rules)), "warning")


def test_whole_days_are_noted(make):
    assert "whole days" in texts(collect(make([("u", "a", 0), ("u", "b", 3 * DAY)])), "note")
    assert "whole days" not in texts(collect(make(ROWS)), "note")


def test_a_global_split_learns_nothing_from_the_future(make):
    rules = {"split": "global-time", "valid_share": 0.2, "test_share": 0.2, "cold_items": "keep"}
    facts = collect(make(ROWS, **rules))
    assert facts.parts["test"].newer_in_training == 0
    assert "newer" not in texts(facts, "note")
    assert "overlap" not in texts(facts, "warning")


def test_a_damaged_order_is_found(make):
    data = make(ROWS, split="global-time", valid_share=0.2, test_share=0.2, cold_items="keep")
    times = data.events.times.copy()
    times[0] += 999 * DAY
    data.__dict__["events"] = replace(data.events, times=times)
    warnings = texts(collect(data), "warning")
    assert "1 events are older than the one before" in warnings
    assert "overlap in time" in warnings


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_shares_of_the_head(counts):
    counts = np.array(counts)
    slow = np.abs(counts[:, None] - counts).sum() / max(2 * len(counts) * counts.sum(), 1)
    assert gini(counts) == pytest.approx(slow)
    if counts.sum():
        assert head_share(counts, 1.0) == pytest.approx(1)
        assert head_share(counts, 0) == pytest.approx(counts.max() / counts.sum())
        curve = lorenz(counts)
        assert curve[0] == (0, 0)
        assert curve[-1] == pytest.approx((100, 100))
        assert all(y >= x - 1e-9 for x, y in curve)  # never below equality


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=60))
def test_bins_hold_every_count_once(counts):
    labels, heights = binned(np.array(counts))
    assert sum(heights) == len(counts)
    assert len(labels) == len(heights) == len(set(labels)) <= 25
    low = labels[0].split("-")[0], labels[-1].split("-")[-1]
    assert low == (str(min(counts)), str(max(counts)))


def test_titles_agree_but_for_case_marks_and_order():
    titles = ["Red  hat!", "hat red", "HAT, Red", "red hats", None, "!!", "?", "Größe 7", "größe-7"]
    items = pl.DataFrame({"item_id": [str(n) for n in range(len(titles))], "title": titles})
    assert same_titles(items) == [["0", "1", "2"], ["7", "8"]]


def test_bars_of_a_terminal():
    assert columns([0, 1, 8, 16], 2, True) == ["      ██", "  ▁▁████"]
    assert columns([0, 1, 10], 2, False) == ["    ##", "  ####"]
    assert columns([0, 0], 1, True) == [""]


def test_a_bar_chart_stacks_its_layers():
    svg = bar_chart([Layer("x", [1, 0]), Layer("y", [3, 2])], ["<1>", "2"], "what & how", "a", "b")
    assert svg.count("<rect") == 3 + 2  # and two keys of the legend
    assert "what &amp; how" in svg
    assert "&lt;1&gt;: x 1, y 3" in svg
    assert bar_chart([Layer("x", [0])], ["1"], "", "", "").count("<rect") == 0


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_the_command_shows_a_table_and_writes_a_page(make, tmp_path, capsys):
    data, page = make(ROWS), tmp_path / "page.html"
    assert run("inspect", data.path, "--html", page) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "shop: 3 users, 3 items, 8 actions" in shown
    assert "test 2 2 1 1 2014-06-12" in shown
    assert "warning: 1 pictures are not found" in shown
    text = page.read_text()
    assert "Blue cup &amp; saucer &lt;b&gt;" in text
    assert text.count('src="data:image/png;base64,') == 1
    picture = text.split('src="data:image/png;base64,')[1].split('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (20, 20)
    assert "http" not in text.replace("http-equiv", "")
    assert run("inspect", data.path, "--html", page) == 2
    assert "exists already: add --force" in capsys.readouterr().err
    assert run("inspect", data.path, "--html", page, "--force") == 0


def test_mistakes_of_the_command(make, tmp_path, capsys):
    data = make(ROWS)
    for arguments, message in [
        ([tmp_path / "none"], "is not a prepared data set"),
        ([data.path, "--html", tmp_path / "no" / "x.html"], "is not a folder that takes files"),
        ([data.path, "--html", tmp_path], "is a folder: give the name of a file"),
    ]:
        assert run("inspect", *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


BEAUTY = Path(__file__).parents[3] / "shared" / "data" / "amazon_beauty"


@pytest.mark.skipif(
    not BEAUTY.is_dir(), reason="needs Amazon Beauty in ../shared/data, which cannot be shipped"
)
def test_beauty_is_as_in_table_2(tmp_path):
    facts = collect(prepare(BEAUTY / "interactions.csv", BEAUTY / "items.csv", tmp_path / "beauty"))
    assert (facts.num_users, facts.num_items, facts.num_events) == (22_363, 12_101, 198_502)
    assert round(facts.num_events / facts.num_users, 2) == 8.88
    assert round(facts.num_events / facts.num_items, 2) == 16.40
    assert round(100 * facts.sparsity, 2) == 99.93
    assert facts.times.whole_days
