"""Generated pages and listings are complete and current."""

import re
from pathlib import Path

import click
from tools import api, licences, reference

from hm4sr.cli import VERBS, cli
from hm4sr.config import Config
from hm4sr.models import registered_models
from hm4sr.training.settings import Experiment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MOST_WORDS = 9


def test_every_command_and_option_is_on_the_page():
    page = reference.commands_page()
    sections = dict(re.findall(r"^## (\S.*?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert {f"hm4sr {verb}" for verb in VERBS} | {"hm4sr download images"} <= set(sections)
    context = click.Context(cli)
    for verb in VERBS:
        for parameter in cli.get_command(context, verb).params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in sections[f"hm4sr {verb}"], (verb, parameter.opts)
                assert parameter.help, (verb, parameter.opts)


def all_keys(cls: type[Config], prefix: str = "") -> list[str]:
    keys = []
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            keys += all_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def test_every_setting_is_on_the_pages_with_its_meaning():
    settings, models = reference.settings_page(), reference.model_settings_page()
    names = {cls.__name__ for cls in reference.config_classes()}
    assert {"Experiment", "ServeConfig", "FeatureConfig", "PrepareConfig"} <= names
    for key in all_keys(Experiment):
        assert f"| `{key}` |" in settings
    sections = dict(re.findall(r"^## `([\w-]+)`\n(.*?)(?=^## |\Z)", models, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(registered_models())
    for name, model in registered_models().items():
        for key in all_keys(model.Config, "model."):
            assert f"| `{key}` |" in sections[name], (name, key)
    for page in (settings, models):
        rows = re.findall(r"^\| `([\w.]+)` \|.*\| ([^|]*) \|$", page, re.MULTILINE)
        assert not [key for key, meaning in rows if not meaning.strip()], "each key says what it means"


def test_kinds_and_limits_are_words():
    page = reference.settings_page()
    assert "| `train.learning_rate` | number, above 0 | `0.001` | Step size of Adam. |" in page
    assert "| `train.loss` | `full` / `sampled` | `full` |" in page
    assert "| `data.path` | path | required |" in page
    assert "list of whole number" in page


def test_the_readme_has_a_row_for_every_file():
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|$", README, re.MULTILINE)
    package = ROOT / "src" / "hm4sr"
    listed = [name for cell, _ in rows for name in re.findall(r"`([\w/]+\.\w+)`", cell)]
    assert len(set(listed)) == len(listed), "no file is listed twice"
    files = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.*")
        if file.is_file() and file.suffix != ".pyc" and file.name != "py.typed"
        # A file that says what its folder is has nothing more to say.
        if file.name != "__init__.py" or len(file.read_text(encoding="utf-8").splitlines()) > 1
    }
    assert files - set(listed) == set(), "rows are missing in the README"
    assert {name for name in listed if not (package / name).is_file()} == set(), "rows of what is gone"
    for cell, words in rows:
        if set(re.findall(r"`([^`]+)`", cell)) & files:
            assert len(words.split()) <= MOST_WORDS, (cell, words)


def test_the_public_interface_is_as_recorded():
    expected = api.SNAPSHOT.read_text(encoding="utf-8").splitlines()
    actual = api.listing().splitlines()
    gone, new = sorted(set(expected) - set(actual)), sorted(set(actual) - set(expected))
    assert actual == expected, f"gone: {gone[:5]}, new: {new[:5]}: if that is meant, `make snapshots`"


def test_the_licences_are_those_of_the_constraints():
    assert licences.PAGE.read_text() == licences.page(), "`make snapshots`"
    names = re.findall(r"^\| (\S+) \|", licences.page(), re.MULTILINE)
    assert list(licences.pinned()) == [name for name in names if name not in ("package", "---", "|---|---|")]
