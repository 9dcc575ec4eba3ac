"""The README and the pages: every command exists, and those that can run here do."""

import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import click
import polars as pl
import pytest
from test_main_job import run

from commands_kit import PAGES, ROOT, Documented, blocks, check, documented, lines_of
from hm4sr.errors import UserError

HM4SR = documented("hm4sr")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STAND_INS = {"google-bert/bert-base-uncased": "builtin", "google/vit-base-patch16-224": "builtin"}


@pytest.mark.parametrize("command", HM4SR, ids=str)
def test_every_command_line_is_one_that_hm4sr_takes(command: Documented) -> None:
    check(command.words, command.whole)


def test_commands_are_found_and_rotten_ones_are_noticed() -> None:
    assert len(HM4SR) > 60
    places = {command.place for command in HM4SR}
    assert {"README.md", "docs/comparing.md", "docs/features.md", "configs/beauty/hm4sr.toml"} <= places
    for words, error in {
        "compare --wrokers 2": click.NoSuchOption,
        "trian x.toml": click.UsageError,
        "train": click.MissingParameter,
        "train a.toml b.toml": click.UsageError,
        "prepare --split yearly --out data": click.BadParameter,
        "train configs/beauty/sasrec.toml --set model.experts=3": UserError,
        "train mine.toml --set train.epoch=3": UserError,
        "serve runs/shop --set limit.k=3": UserError,
    }.items():
        if words == "train":
            words = "train --out runs/x"
        with pytest.raises(error):
            check(tuple(words.split()))
    check(("train", "...", "--resume"))


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    phony = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split())
    assert phony <= targets
    told = {word for command in documented("make") for word in command.words if word.isalpha()}
    assert told <= targets, told - targets
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert phony - {"install", "demo", "clean"} <= set(re.findall(r"`make (\w+)`", contributing))


def test_every_benchmark_and_tool_exists_with_its_options() -> None:
    found = [command for command in documented("python") if command.words[:1] == ("-m",)]
    assert len(found) > 8
    for command in found:
        module, options = command.words[1], [word for word in command.words[2:] if word.startswith("--")]
        if module.split(".")[0] not in ("benchmarks", "tools"):
            continue
        file = ROOT / (module.replace(".", "/") + ".py")
        file = file if file.is_file() else ROOT / module.replace(".", "/") / "__main__.py"
        assert file.is_file(), command
        for option in options:
            assert f'"{option.partition("=")[0]}"' in file.read_text(), (command, option)


def test_every_extra_exists() -> None:
    extras = set(PROJECT["optional-dependencies"])
    for page in PAGES:
        for names in re.findall(r"hm4sr\[([a-z,]+)\]", page.read_text()):
            assert set(names.split(",")) <= extras, (page, names)


def test_links_between_pages_and_files_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), (page.name, target)


# Commands that run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README takes for granted: raw tables, a visitor, the configurations."""
    folder = tmp_path_factory.mktemp("readme")
    assert run("simulate", "--out", folder / "raw", "--users", 150, "--items", 60) == 0
    for raw, name in {"interactions": "events", "items": "items"}.items():
        shutil.copy(folder / "raw" / f"{raw}.csv", folder / f"{name}.csv")
    rows = (folder / "events.csv").read_text().splitlines()
    (folder / "visitor.csv").write_text("\n".join([rows[0], *rows[1:4]]) + "\n")
    shutil.copytree(ROOT / "configs", folder / "configs")
    if (folder / "raw" / "images").is_dir():
        shutil.copytree(folder / "raw" / "images", folder / "images")
    return folder


def run_block(block: str) -> None:
    """Run a block of commands as it stands, but for encoders that need a download, time and made-up ids."""
    for line in lines_of(block):
        program, *words = shlex.split(line, comments=True)
        assert program == "hm4sr", line
        words = [STAND_INS.get(word, word) for word in words]
        if "--user" in words:
            words[words.index("--user") + 1] = known_user()
        if words[0] in ("train", "compare"):
            words += ["--set", "train.epochs=1"]
        if words[0] == "serve":
            continue  # tests of the service start it
        assert run(*words) == 0, line


def test_the_readme_runs_as_it_is_printed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    text = (ROOT / "README.md").read_text()
    (commands,) = [block for block in blocks(text) if "hm4sr prepare" in block]
    run_block(commands)
    assert (place / "lists.json").is_file()
    (code,) = blocks(text, "python")
    capsys.readouterr()
    run_code(code.replace('"u17"', repr(known_user())))
    assert len(capsys.readouterr().out.splitlines()) == 10


def known_user() -> str:
    """Raw id of somebody who is in the prepared data."""
    import polars as pl

    return str(pl.read_parquet(Path("data/shop/users.parquet"))["user_id"][0])


def run_code(code: str) -> None:
    """Run Python of a page in a namespace of its own."""
    exec(compile(code, "page", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", ["quickstart", "your-data", "add-a-modality"])
def test_the_first_pages_run_as_they_are_printed(
    place: Path, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "place"
    shutil.copytree(place, folder, ignore=shutil.ignore_patterns("data", "runs", "lists*", "raw"))
    monkeypatch.chdir(folder)
    text = (ROOT / "docs" / f"{page}.md").read_text()
    if page == "add-a-modality":
        raw = ("--interactions", "events.csv", "--items", "items.csv")
        assert run("prepare", *raw, "--out", "data/shop") == 0
        assert run("features", "data/shop", "--text", "builtin", "--image", "builtin") == 0
        items = pl.read_parquet("data/shop/items.parquet")["item_id"]
        pl.DataFrame(
            {"item_id": items, "vector": [[float(row), 1.0] for row in range(len(items))]}
        ).write_parquet("audio.parquet")
        for code in blocks(text, "python"):
            run_code(code)
    for block in blocks(text):
        if "make demo" not in block:
            run_block(block)


def test_the_site_builds_without_a_warning_and_leaves_no_command_or_key_out(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    import subprocess

    out = tmp_path / "html"
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going"]
    command += ["-d", str(tmp_path / "trees"), str(ROOT / "docs"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    index = (out / "index.html").read_text()
    for page in ROOT.glob("docs/*.md"):
        assert f'href="{page.stem}.html"' in index or page.stem == "index", page
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="([^"]+)"', text)
        assert not [address for address in loaded if "//" in address], page
