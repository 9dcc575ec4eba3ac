"""`hm4sr features` as a user runs it, in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from safetensors.numpy import load_file

pytest.importorskip("PIL")
from PIL import Image

COMMAND = [sys.executable, "-m", "hm4sr.cli"]
ITEMS = 12
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set whose pictures have one that is cut and one that is missing."""
    raw = tmp_path_factory.mktemp("raw")
    for item in range(ITEMS - 1):
        picture = Image.linear_gradient("L").resize((40, 40 + item)).convert("RGB")
        picture.save(raw / f"{item}.png")
    (raw / "3.png").write_bytes((raw / "3.png").read_bytes()[:60])
    items = range(ITEMS)
    pl.DataFrame(
        {
            "item_id": [f"i{item}" for item in items],
            "title": [f"soap number {item}" for item in items],
            "category": ["Bath"] * ITEMS,
            "image_path": [f"{item}.png" for item in items],
        }
    ).write_csv(raw / "items.csv")
    pl.DataFrame(
        [
            {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": 1_400_000_000 + 60 * item}
            for user in range(6)
            for item in items
        ]
    ).write_csv(raw / "interactions.csv")
    out = tmp_path_factory.mktemp("prepared") / "shop"
    done = run(
        "prepare", "--interactions", raw / "interactions.csv", "--items", raw / "items.csv", "--out", out
    )
    assert done.returncode == 0, done.stderr
    return out


def test_encodes_reports_and_remembers(shop: Path) -> None:
    first = run("features", shop, "--text", "builtin", "--image", "builtin")
    assert first.returncode == 0, first.stderr
    assert "broken pictures  2" in first.stdout
    assert "3.png: damaged" in first.stdout
    assert "11.png: there is no such file" in first.stdout
    before = load_file(shop / "features" / "text" / "vectors.safetensors")
    assert before["present"].sum() == ITEMS
    second = run("features", shop, "--text", "builtin", "--image", "builtin")
    assert "encoded         0 texts" in second.stdout
    assert f"from the cache  {ITEMS} texts" in second.stdout
    after = load_file(shop / "features" / "text" / "vectors.safetensors")
    assert (before["vectors"] == after["vectors"]).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give --text ENCODER, --image ENCODER or both"),
        (["--text", "google-bert/no-such-copy-here"], "the model hub was not reachable"),
        (["--image", "/nowhere/vit"], "there is no such folder"),
        (["--text", "builtin", "--text-batch", "0"], "text_batch"),
        (["--text", "builtin", "--levels"], "--text builtin has no layers: leave out --levels"),
        (["--text", "builtin", "--layer", "3"], "--text builtin has no layers: leave out --layer"),
        (["--text", "builtin", "--pooling", "mean"], "--text builtin has no layers: leave out --pooling"),
        (["--image", "builtin", "--pooling", "mean"], "--image builtin has no layers: leave out --pooling"),
        (["--text", "builtin", "--cache", "/proc/nothing"], "--cache"),
    ],
)
def test_a_mistake_is_one_sentence(shop: Path, arguments: list[str], sentence: str) -> None:
    started = time.monotonic()
    failed = run("features", shop, *arguments)
    assert failed.returncode == 2
    assert sentence in failed.stderr
    assert "Traceback" not in failed.stderr
    assert failed.stdout == ""
    assert time.monotonic() - started < 60


def test_a_folder_that_is_not_prepared(tmp_path: Path) -> None:
    failed = run("features", tmp_path, "--text", "builtin")
    assert failed.returncode == 2
    assert "run `hm4sr prepare` first" in failed.stderr


def test_help_names_every_option_and_its_default() -> None:
    text = run("features", "--help").stdout
    for option in (
        "--text",
        "--image",
        "--pooling",
        "--precision",
        "--dtype",
        "--cache",
        "[default: auto]",
        "--workers",
        "--levels",
    ):
        assert option in text


def test_ctrl_c_keeps_what_was_finished(shop: Path, tmp_path: Path) -> None:
    """An encoder that is slow after its first batch is interrupted; the next run has that batch already."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from hm4sr.features import builtin\n"
        "encode = builtin.BuiltinText.encode\n"
        "def slow(self, texts):\n"
        "    for part in encode(self, texts):\n"
        "        yield part\n"
        "        print('first', flush=True)\n"
        "        time.sleep(60)\n"
        "builtin.TEXT_CHUNK = 5\n"
        "builtin.BuiltinText.encode = slow\n"
        "from hm4sr.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    rest = ["features", str(shop), "--text", "builtin", "--cache", str(tmp_path / "cache")]
    with subprocess.Popen(
        [sys.executable, str(script), *rest], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    again = run(*rest)
    assert f"encoded         {ITEMS - 5} texts" in again.stdout
    assert "from the cache  5 texts" in again.stdout
