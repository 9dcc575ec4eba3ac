"""From a mirror to a prepared data set, and pictures, through the command itself."""

import shlex
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from hm4sr.cli import main
from hm4sr.data.dataset import Dataset
from hm4sr.progress import show_progress

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import source_kit as kit


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in the test's folder; exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        output = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code, stdout=output.out, stderr=output.err)

    yield command
    show_progress(False)


SMALL = ["--min-user-events", "1", "--min-item-events", "1"]


def test_from_a_mirror_to_a_data_set(tmp_path, run):
    kit.recbole(tmp_path / "made")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    with zipfile.ZipFile(mirror / "ml-100k.zip", "w") as content:
        for file in sorted((tmp_path / "made").iterdir()):
            content.write(file, f"ml-100k/{file.name}")
    done = run("download", "recbole-ml-100k", "--out", "raw", "--mirror", mirror)
    assert done.returncode == 0, done.stderr
    assert "not verified (no recorded sha256)" in done.stdout
    following = done.stdout.strip().splitlines()[-1].removeprefix("next: ")
    assert following.startswith("hm4sr prepare --source recbole --folder ")
    done = run(*shlex.split(following)[1:], *SMALL)
    assert done.returncode == 0, done.stderr
    assert Dataset.open(tmp_path / "data" / "recbole-ml-100k").events.num_events == 9


def test_bad_rows_are_named_in_the_summary(tmp_path, run):
    reviews, meta = kit.amazon(tmp_path, "2018")
    lines = list(kit.amazon_reviews("2018"))
    kit.write(reviews, [lines[0], "{cut", *lines[1:]])
    files = [
        "prepare",
        "--source",
        "amazon-2018",
        "--interactions",
        reviews.name,
        "--items",
        meta.name,
        "--out",
        "x",
    ]
    failed = run(*files, *SMALL)
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr == (
        "hm4sr: Beauty.json.gz, line 2 is not JSON: mend it, or leave such rows out with --bad-rows skip.\n"
    )
    done = run(*files, *SMALL, "--bad-rows", "skip")
    assert done.returncode == 0, done.stderr
    text = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "rows read 10",
        "removed: bad rows 1",
        "bad rows of Beauty.json.gz 1 skipped",
        "Beauty.json.gz, line 2 is not JSON",
        "repeated items 1 rows of meta_Beauty.json.gz left out, the first of each kept",
        "items with image_url 1",
    ):
        assert line in text


def test_pictures_of_this_machine_are_never_asked_for(tmp_path, run):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,a,1405296000\nu,b,1405296001\n")
    (tmp_path / "items.csv").write_text(
        "item_id,image_url\na,https://127.0.0.1/a.png\nb,file:///etc/passwd\n"
    )
    files = ["--interactions", "log.csv", "--items", "items.csv"]
    assert run("prepare", *files, "--out", "x", *SMALL).returncode == 0
    failed = run("download", "images", "x")
    assert failed.returncode == 2
    assert "https://127.0.0.1/a.png: leads to 127.0.0.1, no public address" in failed.stdout
    assert "file:///etc/passwd: is not an https address" in failed.stdout
    assert "no picture could be fetched" in failed.stderr
    again = run("features", "x", "--image", "builtin")
    assert again.returncode == 2
    assert "run `hm4sr download images` first" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["download", "movielens-9m"], "there is no data set 'movielens-9m' to download; did you mean"),
        (["download", "movielens-1m"], "Missing option '--out'"),
        (
            ["download", "movielens-1m", "--out", "raw", "--mirror", "nowhere"],
            "nowhere has no ml-1m.zip: put it there",
        ),
        (["download", "images", "nowhere"], "is not a prepared data set"),
        (
            ["prepare", "--source", "amazon-2014", "--out", "x"],
            "give --interactions (and --items), or --folder",
        ),
        (["prepare", "--source", "nonsense", "--out", "x"], "is not one of 'table', 'amazon-2014'"),
    ],
)
def test_a_mistake_is_one_sentence(run, arguments, sentence):
    failed = run(*arguments)
    assert failed.returncode == 2
    assert sentence in failed.stderr
    assert "Traceback" not in failed.stderr
    assert failed.stdout == ""
