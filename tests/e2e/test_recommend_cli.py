import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import hm4sr

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import DAY, ITEMS, START, make_dataset, make_run, recommend_caller

EVENTS = [("007", START + DAY), ("Käse", START), ("a,b", START + 2 * DAY)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    make_run(folder / "run", make_dataset(folder / "data"))
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "config.json").write_text("{}")
    make_run(folder / "damaged", hm4sr.Dataset.open(folder / "data"))
    with (folder / "damaged" / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    make_dataset(folder / "other", rng_seed=4)
    return folder


@pytest.fixture
def run(shop, tmp_path, monkeypatch, capsys):
    """Call the command in-process, in a folder of its own beside the run; returns code, output, errors."""
    monkeypatch.chdir(tmp_path)
    return recommend_caller(shop, capsys)


def write_history(path, events=EVENTS, users=None):
    rows = [{"item_id": item, "timestamp": second} for item, second in events]
    for row, user in zip(rows, users or [], strict=False):
        row["user_id"] = user
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    elif path.suffix == ".csv":
        pl.DataFrame(rows).write_csv(path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(pl.DataFrame(rows).write_csv().encode()))
    else:
        pl.DataFrame(rows).write_parquet(path)
    return path


def read(path):
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    elif path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
    else:
        rows = pl.read_parquet(path).to_dicts()
    return [
        {**row, "rank": int(row["rank"]), "score": float(row["score"]), "title": row["title"] or None}
        for row in rows
    ]


def test_a_table_with_titles_is_printed(run):
    code, out, err = run("--user", "42", "-k", 3)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines() if line.strip()]
    assert lines[0] == ["user_id", "rank", "item_id", "title", "score", "source"]
    assert [line[:2] for line in lines[2:]] == [["42", "1"], ["42", "2"], ["42", "3"]]
    assert all("Title of" in " ".join(line) or line[2] == "i8" for line in lines[2:])


def test_formats_hold_the_same_and_equal_python(run, shop, tmp_path):
    found = []
    for ending in (".csv", ".json", ".parquet"):
        out = tmp_path / f"answers{ending}"
        code, said, err = run("--user", "42", "--user", "0042", "--keep-seen", "-k", 99, "--out", out)
        assert (code, err) == (0, "")
        assert said.startswith("2 answers written")
        found.append(read(out))
    assert found[0] == found[1] == found[2]
    table = hm4sr.Recommender.load(shop / "run").recommend(["42", "0042"], k=99, filter_seen=False).table()
    assert found[0] == table.to_dicts()
    assert {row["item_id"] for row in found[0]} == set(ITEMS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answers.csv",
        "answers.json",
        "answers.parquet",
    ]


@pytest.mark.parametrize("users", [None, ["b", "a", "b"], ["7", "007", "7"]])
def test_histories_from_each_format_are_answered_alike(run, shop, tmp_path, users):
    found = []
    for ending in (".csv", ".json", ".parquet", ".csv.gz"):
        out = tmp_path / f"out-{ending[1:]}.json"
        history = write_history(tmp_path / f"in{ending}", users=users)
        code, _, err = run("--history", history, "--out", out)
        assert (code, err) == (0, "")
        found.append(read(out))
    assert all(answers == found[0] for answers in found)
    recommender = hm4sr.Recommender.load(shop / "run")
    if users is None:
        assert found[0] == recommender.recommend(histories=EVENTS).table().to_dicts()
    else:
        expected = recommender.recommend(histories=[[EVENTS[0], EVENTS[2]], [EVENTS[1]]]).table()
        assert [row["item_id"] for row in found[0]] == expected["item_id"].to_list()
        assert list(dict.fromkeys(row["user_id"] for row in found[0])) == users[:2]


def test_dates_are_read_and_times_may_be_left_out(run, shop, tmp_path):
    recommender = hm4sr.Recommender.load(shop / "run")
    Path("dates.csv").write_text("item_id,timestamp\n007,2014-07-15\nKäse,2014-07-14\n", encoding="utf-8")
    Path("bare.csv").write_text("item_id\n007\nKäse\n", encoding="utf-8")
    assert run("--history", "dates.csv", "--out", "dates.json")[0] == 0
    assert run("--history", "bare.csv", "--out", "bare.json")[0] == 0
    dated = recommender.recommend(histories=[("Käse", START), ("007", START + DAY)])
    assert read(tmp_path / "dates.json") == dated.table().to_dicts()
    assert read(tmp_path / "bare.json") == recommender.recommend(histories=["007", "Käse"]).table().to_dicts()


def test_columns_may_have_other_names(run):
    Path("log.csv").write_text("who,what,when\nx,007,1405296000000\ny,i9,1405296000000\n")
    columns = ["--user-column", "who", "--item-column", "what", "--time-column", "when"]
    code, out, _ = run("--history", "log.csv", *columns, "-k", 1)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[3:] if line.strip()] == ["x", "y"]


def test_users_from_a_file(run, tmp_path):
    Path("users.txt").write_bytes("Zoë\r\n\n42\nZoë\n".encode())
    Path("users.csv").write_text("user_id,x\nZoë,1\n42,2\n", encoding="utf-8")
    Path("users.json").write_text('[{"user_id": "Zoë"}, {"user_id": 42}]', encoding="utf-8")
    for name in ("users.txt", "users.csv", "users.json"):
        out = tmp_path / f"{name}.parquet"
        assert run("--users-file", name, "-k", 1, "--out", out)[0] == 0
        assert [row["user_id"] for row in read(out)] == ["Zoë", "42"]


def test_unknown_items_and_the_fallback_are_told(run, tmp_path):
    Path("h.csv").write_text("user_id,item_id\na,007\na,zz\nb,yy\n")
    out = tmp_path / "out.csv"
    code, _, err = run("--history", "h.csv", "--exclude", "gone", "--out", out)
    assert code == 0
    assert err.splitlines() == [
        "hm4sr: --exclude: 'gone' is not in the catalogue, ignored.",
        "hm4sr: user 'a': 'zz' is not in the catalogue, ignored.",
        "hm4sr: user 'b': 'yy' is not in the catalogue, ignored.",
        "hm4sr: user 'b': no known item to go by, answered with the most popular items.",
    ]
    assert {row["user_id"]: row["source"] for row in read(out)} == {"a": "model", "b": "popularity"}


def test_a_data_set_that_moved_is_named(run, shop):
    assert run("--user", "42", "--data", shop / "data")[0] == 0


def test_force_replaces_a_file(run, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("precious")
    assert run("--user", "42", "--out", out)[0] == 2
    assert out.read_text() == "precious"
    assert run("--user", "42", "--out", out, "--force")[0] == 0
    assert len(read(out)) == 10


FILES = {
    "good.csv": "item_id,timestamp\n007,1405296000\n",
    "empty.csv": "",
    "header.csv": "item_id,timestamp\n",
    "column.csv": "itemid,timestamp\n007,1405296000\n",
    "time.csv": "item_id,timestamp\n007,1405296000\nKäse,soon\n",
    "blank.csv": "item_id,timestamp\n007,1405296000\n,1405296000\n",
    "ragged.csv": "item_id,timestamp\n007,1405296000,1\n",
    "broken.json": '[{"item_id": ',
    "object.json": '{"item_id": "007"}',
    "list.json": "[]",
    "key.json": '[{"id": "007"}]',
    "hole.json": '[{"item_id": "007"}, {"timestamp": 1}]',
    "bool.json": '[{"item_id": true}]',
    "time.json": '[{"item_id": "007", "timestamp": 1405296000}, {"item_id": "7", "timestamp": "soon"}]',
    "broken.parquet": "PAR1",
    "history.xlsx": "x",
    "users.txt": "\n",
}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give either --user"),
        (["--user", "42", "--history", "good.csv"], "give either --user"),
        (["--user", "nobody"], "user 'nobody' is not among the 12 users"),
        (["--users-file", "users.txt"], "users.txt is empty"),
        (["--users-file", "none.txt"], "none.txt cannot be read"),
        (["--users-file", "good.csv"], "no column 'user_id'"),
        (["--user", "42", "-k", "0"], "'-k'"),
        (["--user", "42", "-k", "many"], "'-k'"),
        (["--user", "42", "--out", "out.xlsx"], "ends in none of .csv, .json, .parquet"),
        (["--user", "42", "--out", "out"], "ends in none of"),
        (["--user", "42", "--out", "missing/out.csv"], "missing is not a folder"),
        (["--user", "42", "--out", "good.csv"], "add --force"),
        (["--user", "42", "--out", "folder.csv", "--force"], "folder.csv is a folder"),
        (["--user", "42", "--data", "nowhere"], "name it with --data"),
        (["--history", "none.csv"], "none.csv does not exist"),
        (["--history", "folder.csv"], "folder.csv is a folder"),
        (["--history", "empty.csv"], "empty.csv is empty"),
        (["--history", "header.csv"], "header.csv has no rows"),
        (["--history", "column.csv"], "did you mean --item-column itemid?"),
        (["--history", "time.csv"], "time.csv, line 3: timestamp 'soon'"),
        (["--history", "good.csv", "--time-unit", "ms"], None),
        (["--history", "good.csv", "--time-unit", "iso"], "good.csv, line 2: timestamp"),
        (["--history", "good.csv", "--user-column", "who"], "no column 'who'"),
        (["--history", "good.csv", "--time-column", "when"], "no column 'when'"),
        (["--history", "blank.csv"], "blank.csv, line 3: item_id is empty"),
        (["--history", "ragged.csv"], "ragged.csv, line 2"),
        (["--history", "broken.json"], "broken.json is not valid JSON"),
        (["--history", "object.json"], "object.json is not a list of objects"),
        (["--history", "list.json"], "list.json is an empty list"),
        (["--history", "key.json"], "key.json has no key 'item_id'"),
        (["--history", "hole.json"], "hole.json, row 2: item_id is empty"),
        (["--history", "bool.json"], "bool.json, row 1: item_id = True"),
        (["--history", "time.json"], "time.json, row 2: timestamp 'soon'"),
        (["--history", "broken.parquet"], "broken.parquet is not a readable Parquet file"),
        (
            ["--history", "history.xlsx"],
            "history.xlsx ends in .xlsx: give a file that ends in .csv, .tsv, .csv.gz, .tsv.gz, .json or ",
        ),
        (["--users-file", "history.xlsx"], ".tsv.gz, .txt, .json or .parquet."),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, arguments, says):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "folder.csv").mkdir()
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*arguments)
    if says is None:
        assert code == 0
        return
    assert (code, out) == (2, "")
    assert err.startswith("hm4sr: ")
    assert err.count("\n") == 1
    assert says in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("nowhere", "is not a folder"),
        ("data", "is not a run folder"),
        ("unfinished", "is not a finished run"),
        ("damaged", "model.safetensors has changed"),
    ],
)
def test_a_run_that_cannot_be_used(run, where, says):
    code, out, err = run("--user", "42", where=where)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err


def test_other_data_are_refused(run, shop):
    code, _, err = run("--user", "42", "--data", shop / "other")
    assert code == 2
    assert "is not the data that" in err


def test_the_true_command(shop, tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "hm4sr.cli", "recommend", str(shop / "run"), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
        )

    good = call("--user", "Zoë", "-k", "2", "--out", "out.json")
    assert (good.returncode, good.stderr) == (0, "")
    assert [row["user_id"] for row in read(tmp_path / "out.json")] == ["Zoë"] * 2
    bad = call("--user", "nobody")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("hm4sr: user 'nobody'")
    assert bad.stderr.count("\n") == 1
    assert "--history" in call("--help").stdout
