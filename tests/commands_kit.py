"""Commands as they stand in the documentation: found, and read without being run."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from hm4sr.cli import cli
from hm4sr.config import override, read_toml
from hm4sr.errors import UserError
from hm4sr.models import registered_models
from hm4sr.serving.http.settings import ServeConfig
from hm4sr.training.settings import Experiment

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    file
    for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/decisions/*.md")]
    if file.is_file()
)
_ELLIPSIS = {"...", "…"}


class Documented(NamedTuple):
    """A command and where it stands."""

    place: str
    words: tuple[str, ...]
    whole: bool
    """Not an excerpt within a sentence, which may leave out what is required."""

    def __str__(self) -> str:
        return f"{self.place}: {' '.join(self.words)}"


def blocks(text: str, language: str = "") -> list[str]:
    """Fenced blocks of a page in one language."""
    return [
        body
        for kind, body in re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if kind.strip() in ({language} if language else {"", "sh", "bash", "console"})
    ]


def lines_of(block: str) -> Iterator[str]:
    """Commands of a block: continued lines joined, comments dropped."""
    for line in block.replace("\\\n", " ").splitlines():
        stripped = line.strip().removeprefix("$ ").removeprefix(".venv/bin/").strip()
        if stripped and not stripped.startswith("#"):
            yield stripped


def documented(program: str) -> list[Documented]:
    """Every command of a program in the pages and at the head of the configurations."""
    found: list[Documented] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        indented = "\n".join(
            re.findall(r"^    (\S.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
        )
        inline = [piece for piece in re.findall(r"`([^`\n]+)`", text) if piece.startswith(f"{program} ")]
        for line in [
            *(line for block in blocks(text) for line in lines_of(block)),
            *lines_of(indented),
            *inline,
        ]:
            found += _command(line, program, page, line not in inline)
    for file in sorted(ROOT.glob("configs/**/*.toml")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("# "):
                found += _command(line.removeprefix("# "), program, file, True)
    return list(dict.fromkeys(found))


def _command(line: str, program: str, page: Path, whole: bool) -> list[Documented]:
    line = re.sub(r"^(?:\w+=\S+ )+", "", line)
    if line.split(" ")[0] != program:
        return []
    line = re.sub(r"(?<= )\[(--?\w[^\[\]]*)\]", r"\1", line)  # what may be left out
    words = shlex.split(line, comments=True)[1:]
    return [Documented(page.relative_to(ROOT).as_posix(), tuple(words), whole)]


def check(words: tuple[str, ...], whole: bool = True) -> None:
    """Read a command line of hm4sr as click would, without running it or looking for files.

    Args:
        words: of the command line; those in capitals stand for what the reader has.
        whole: whether all that is required has to be there.

    Raises:
        click.ClickException: an unknown command or option, or a value that the option does not take.
        UserError: a key that no setting has.
    """
    command: click.Command = cli
    path, rest = ["hm4sr"], list(words)
    context = click.Context(cli, info_name="hm4sr")
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        if rest[0].isupper():
            return
        inner = command.get_command(context, rest[0])
        if inner is None:
            raise click.UsageError(f"no such command: {' '.join([*path, rest[0]])}")
        command, path, rest = inner, [*path, rest[0]], rest[1:]
    if not rest or rest in (["--help"], ["--version"]):
        return
    whole = whole and not _ELLIPSIS & set(rest)
    rest = [word for word in rest if word not in _ELLIPSIS]
    context = click.Context(command, info_name=path[-1])
    if not whole and rest and rest[-1].startswith("--"):
        rest += ["VALUE"] if _takes_value(command, rest[-1]) else []
    given, extra, _ = command.make_parser(context).parse_args(args=rest)
    if extra:
        raise click.UsageError(f"{' '.join(extra)} is too much for {' '.join(path)}")
    for parameter in command.params:
        value = given.get(parameter.name)
        absent = value in (None, ()) or type(value).__name__ == "Sentinel"
        if absent:
            if whole and parameter.required:
                raise click.MissingParameter(ctx=context, param=parameter)
        elif not (_is_path(parameter) or str(value).isupper()):
            parameter.type_cast_value(context, value)
    assignments = [text for text in given.get("overrides") or () if text != "VALUE"]
    if path[-1] == "serve":
        ServeConfig.parse(override({}, assignments), "--set")
    elif assignments:
        names = given.get("configs") or [given.get("config")]
        for name in names:
            check_settings(ROOT / str(name), assignments)


def _is_path(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, click.Path) or getattr(parameter.type, "func", None) is Path


def _takes_value(command: click.Command, option: str) -> bool:
    return any(option in p.opts and not getattr(p, "is_flag", False) for p in command.params)


def check_settings(config: Path, assignments: list[str]) -> None:
    """Expect that `--set` fits a configuration; one that the reader makes may hold any model."""
    if config.is_file():
        Experiment.build(override(read_toml(config), assignments), str(config))
        return
    problems = []
    for name in registered_models():
        values = {"data": {"path": "data"}, "model": {"name": name}}
        try:
            Experiment.build(override(values, assignments), str(config))
        except UserError as error:
            problems.append(error)
        else:
            return
    raise problems[0]
