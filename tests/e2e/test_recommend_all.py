import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

import hm4sr
from hm4sr.features.extract import FeatureConfig, extract

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import ITEMS, START, USERS, make_dataset, make_run, recommend_caller


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    make_run(folder / "run", make_dataset(folder / "data"))
    make_run(folder / "other", hm4sr.Dataset.open(folder / "data"), max_length=5)
    return folder


@pytest.fixture
def run(shop, tmp_path, monkeypatch, capsys):
    """Call `hm4sr recommend` in-process, in a folder of its own; returns code, output, errors."""
    monkeypatch.chdir(tmp_path)
    return recommend_caller(shop, capsys)


EVERYBODY = ("--all-users", "--out", "out", "--part-users", 5, "-k", 4)
PARTS = ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_the_parts_hold_what_python_gives(run, shop):
    code, out, err = run(*EVERYBODY, "--exclude", "7", "--keep-seen")
    assert (code, err) == (0, "")
    assert "12 users answered in 3 parts" in out
    assert sorted(contents("out")) == ["manifest.json", *PARTS]
    table = pl.read_parquet("out/part-*.parquet")
    expected = hm4sr.Recommender.load(shop / "run").recommend(USERS, k=4, exclude=["7"], filter_seen=False)
    assert table["user_id"].to_list() == expected.table()["user_id"].to_list()
    assert table["item_id"].to_list() == expected.table()["item_id"].to_list()
    assert table["score"].to_list() == pytest.approx(expected.table()["score"].to_list(), abs=1e-5)
    assert [len(pl.read_parquet(f"out/{name}")) for name in PARTS] == [20, 20, 8]
    assert json.loads(Path("out/manifest.json").read_text())["finished"] is True


def test_all_limits_reach_the_answers(run):
    limits = ["--category", "odd", "--include", "7", "--include", "i7", "--include", "gone"]
    assert run(*EVERYBODY, *limits, "--at-time", "2014-07-14")[0] == 0
    table = pl.read_parquet("out/part-*.parquet")
    assert set(table["item_id"]) == {"7", "i7"}
    assert "popularity" in set(table["source"])
    assert run(*EVERYBODY[:3], "-k", 2, "--category", "odd", "--at-time", START, "--force")[0] == 0


def test_what_is_finished_and_whole_is_kept(run):
    assert run(*EVERYBODY)[0] == 0
    whole = contents("out")
    before = {name: Path("out", name).stat().st_mtime_ns for name in PARTS}
    Path("out", PARTS[0]).unlink()
    damaged = bytearray(whole[PARTS[1]])
    damaged[40] ^= 1
    Path("out", PARTS[1]).write_bytes(damaged)
    Path("out", ".part-00001.parquet.x.parquet").write_bytes(b"half")
    code, out, _ = run(*EVERYBODY)
    assert code == 0
    assert "1 of them there already" in out
    assert contents("out") == whole
    assert Path("out", PARTS[2]).stat().st_mtime_ns == before[PARTS[2]]


def test_an_interruption_keeps_the_finished_parts(run, monkeypatch):
    from hm4sr.serving.batch import Answerer

    assert run(*EVERYBODY)[0] == 0
    whole = contents("out")
    plain, asked = Answerer.part, []

    def stopped_in_the_second(self, number):
        asked.append(number)
        if number == 1:
            raise KeyboardInterrupt
        return plain(self, number)

    monkeypatch.setattr(Answerer, "part", stopped_in_the_second)
    code, _, err = run(*EVERYBODY[:2], "again", *EVERYBODY[3:])
    assert code == 130
    assert "what was finished is kept" in err
    assert sorted(contents("again")) == ["manifest.json", PARTS[0]]
    assert json.loads(Path("again/manifest.json").read_text())["finished"] is False
    monkeypatch.setattr(Answerer, "part", plain)
    assert "1 of them there already" in run(*EVERYBODY[:2], "again", *EVERYBODY[3:])[1]
    assert contents("again") == whole


def test_answers_to_another_question_are_not_mixed(run):
    assert run(*EVERYBODY)[0] == 0
    before = contents("out")
    for other, what in ((["-k", 5], "k"), (["--exclude", "7"], "exclude"), (["--keep-seen"], "filter_seen")):
        code, _, err = run(*EVERYBODY[:5], "-k", 4, *other)
        assert code == 2
        assert f"answers to another question ({what} differ)" in err
    code, _, err = run(*EVERYBODY, where="other")
    assert code == 2
    assert "(run differ)" in err
    assert contents("out") == before
    assert run(*EVERYBODY[:5], "-k", 5, "--force")[0] == 0
    assert pl.read_parquet("out/part-*.parquet")["rank"].max() == 5


@pytest.fixture(scope="module")
def with_texts(tmp_path_factory):
    """A run that reads texts."""
    folder = tmp_path_factory.mktemp("texts")
    dataset = make_dataset(folder / "data")
    extract(dataset, FeatureConfig(text="builtin"))
    return make_run(folder / "run", dataset, "hm4sr").path


def test_new_items_from_a_file_are_recommended(with_texts, run):
    Path("new.csv").write_text("item_id,title,category\nnew,Title of i9,odd\nother,Title of 7,fresh\n")
    where = with_texts  # absolute, so it wins over the folder of the other tests
    options = ["--keep-seen", "-k", 99, "--new-items", "new.csv", "--out", "o.csv"]
    code, _, err = run("--user", "42", *options, where=where)
    assert (code, err) == (0, "")
    assert {*ITEMS, "new", "other"} == set(pl.read_csv("o.csv")["item_id"])
    options = ["--new-items", "new.csv", "--category", "fresh"]
    assert run(*EVERYBODY, *options, where=where)[0] == 0
    assert set(pl.read_parquet("out/part-*.parquet")["item_id"]) == {"other"}
    Path("new.csv").write_text("item_id,title,category\nthird,Title of 7,fresh\n")
    assert "(new_items differ)" in run(*EVERYBODY, *options, where=where)[2]
    Path("bad.csv").write_text("item_id,title\n7,Title\n")
    code, _, err = run("--user", "42", "--new-items", "bad.csv", where=where)
    assert (code, err.count("\n")) == (2, 1)
    assert "'7' is in the catalogue already" in err
    code, _, err = run("--user", "42", "--new-items", "new.csv")
    assert code == 2
    assert "sasrec was trained on item IDs alone" in err


def test_an_index_is_chosen_on_the_command_line(run):
    pytest.importorskip("faiss", reason="faiss is not installed")
    assert run("--user", "42", "--index", "exact", "--out", "exact.csv")[0] == 0
    assert run("--user", "42", "--index", "auto", "--out", "auto.csv")[0] == 0
    assert Path("exact.csv").read_text() == Path("auto.csv").read_text()
    assert run("--user", "42", "--index", "faiss", "--out", "faiss.csv")[0] == 0
    exact, found = (pl.read_csv(f"{name}.csv")["item_id"].to_list() for name in ("exact", "faiss"))
    assert exact == found


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--all-users"], "--all-users needs --out"),
        (["--all-users", "--out", "file"], "file is a file"),
        (["--all-users", "--out", "full"], "is not empty and holds no recommendations"),
        (["--all-users", "--out", "full", "--force"], "is not empty and holds no recommendations"),
        (["--all-users", "--out", "new", "--user", "42"], "leave out --user"),
        (["--all-users", "--out", "new", "--category", "evne"], "did you mean 'even'?"),
        (["--all-users", "--out", "new", "--at-time", "yesterday"], "--at-time"),
        (["--user", "42", "--workers", 2], "belong to --all-users"),
        (["--user", "42", "--part-users", 2], "belong to --all-users"),
        (["--user", "42", "--category", "evne"], "did you mean 'even'?"),
        (["--user", "42", "--at-time", "999999999999"], "not milliseconds"),
        (["--user", "42", "--at-time", ""], "--at-time is empty"),
        (["--user", "42", "--at-time", "\u0663"], "is neither an ISO date"),
        (["--user", "42", "--at-time", "2014-13-01"], "the moment '2014-13-01' is neither an ISO date"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(run, tmp_path, arguments, says):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("hm4sr: ")
    assert err.count("\n") == 1
    assert says in err
    assert sorted(tmp_path.rglob("*")) == before


def test_what_lies_after_the_moment_is_told(run):
    code, _, err = run("--user", "Zoë", "--at-time", "1990-01-01", "--out", "out.csv")
    assert code == 0
    assert err.splitlines() == [
        "hm4sr: user 'Zoë': 6 events after --at-time are not known yet, left out.",
        "hm4sr: user 'Zoë': no known item to go by, answered with the most popular items.",
    ]
    assert len(pl.read_csv("out.csv")) == 10 <= len(ITEMS)


def test_a_moment_may_have_a_fraction(run):
    for moment, out in ((f"{START}.5", "half.csv"), (START, "whole.csv")):
        assert run("--user", "Zoë", "--at-time", moment, "--out", out)[0] == 0
    assert Path("half.csv").read_text() == Path("whole.csv").read_text()


def command(shop, out, *arguments):
    line = [sys.executable, "-m", "hm4sr.cli", "recommend", str(shop / "run"), "--all-users", "--out", out]
    return [*line, "--part-users", "1", *arguments]


@pytest.mark.slow
def test_a_kill_leaves_whole_parts(shop, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command(shop, "out"), cwd=tmp_path, env=environment)
    while process.poll() is None and not (tmp_path / "out" / PARTS[1]).exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run(command(shop, "out"), cwd=tmp_path, env=environment, check=False).returncode == 0
    assert subprocess.run(command(shop, "once"), cwd=tmp_path, env=environment, check=False).returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "once")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray (extra `distributed`) is not installed"
)
def test_several_processes_write_what_one_writes(shop, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for out, workers in (("one", "1"), ("two", "2")):
        done = subprocess.run(
            command(shop, out, "--workers", workers),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
