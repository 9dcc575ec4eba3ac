"""Pages of every command and every setting, from click and pydantic: `python -m tools.reference FOLDER`."""

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

import hm4sr
from hm4sr.cli import cli
from hm4sr.config import Config
from hm4sr.models import registered_models
from hm4sr.models.base import ModelConfig
from hm4sr.serving.http.settings import ServeConfig
from hm4sr.training.settings import Experiment

_AS_IT_IS = "(as it is)"
_FIRST = (Experiment, ServeConfig)
_TITLES = {
    "Experiment": "A run: `hm4sr train`, `compare` and `tune`",
    "ServeConfig": "The service: `hm4sr serve`",
}


def commands(
    group: click.Group = cli, path: tuple[str, ...] = ("hm4sr",)
) -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, groups before what is in them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def commands_page() -> str:
    """Usage, text and options of every command."""
    parts = [
        "# Commands",
        "Made from the commands themselves. Each says the same with `--help`. Bad input is answered by one "
        "sentence and exit code 2; an interruption by exit code 130.",
    ]
    for name, command in commands():
        context = click.Context(command, info_name=name)
        usage = " ".join(command.collect_usage_pieces(context))
        parts += [f"## {name}", f"```text\n{name} {usage}\n```", _prose(command.help or "")]
        rows = [_option_row(option, context) for option in command.params if isinstance(option, click.Option)]
        if rows:
            parts.append("\n".join(["| option | what it does |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _prose(text: str) -> str:
    """Help as Markdown: what click is told not to wrap is code."""
    parts = []
    for paragraph in inspect.cleandoc(text.replace("\b\n", f"{_AS_IT_IS}\n")).split("\n\n"):
        if paragraph.startswith(_AS_IT_IS):
            parts.append("```text\n" + inspect.cleandoc(paragraph.removeprefix(_AS_IT_IS)) + "\n```")
        else:
            parts.append(" ".join(paragraph.split()))
    return "\n\n".join(parts)


def _option_row(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    names, text = record or (", ".join(option.opts), "")
    return f"| `{_cell(names)}` | {_cell(text)} |"


def config_classes() -> list[type[Config]]:
    """Every settings class that is not a part of another one, those of models left out."""
    for module in walk_packages(hm4sr.__path__, "hm4sr."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    found = {c for c in _subclasses(Config) if not issubclass(c, ModelConfig) and c.model_fields}
    parts = {inner for c in found for field in c.model_fields.values() if (inner := _inner(field.annotation))}
    bases = {base for c in found for base in c.__mro__[1:]}
    rest = sorted(found - parts - bases - set(_FIRST), key=lambda c: c.__name__)
    return [*_FIRST, *rest]


def _subclasses(cls: type[Config]) -> Iterator[type[Config]]:
    for subclass in cls.__subclasses__():
        if subclass.__module__.startswith("hm4sr."):
            yield subclass
        yield from _subclasses(subclass)


def _inner(annotation: Any) -> type[Config] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, Config) else None


def settings_page() -> str:
    """Every settings class but those of the models."""
    parts = [
        "# Settings",
        "Made from the classes that read them. A key is set in a TOML file (`a.b` is `b` under `[a]`), with "
        "`--set KEY=VALUE`, or by the option of the same name where a command has one. An unknown key is an "
        "error that names it. The settings under `model` are those of the model that `model.name` names: "
        "[model settings](model-settings.md).",
    ]
    for cls in config_classes():
        title = _TITLES.get(cls.__name__, f"`{cls.__name__}`")
        parts += [f"## {title}", _first_paragraph(cls), _table(cls)]
    return "\n\n".join(parts) + "\n"


def model_settings_page() -> str:
    """Every registered model's settings."""
    parts = ["# Model settings", "Made from each model's Config class; keys stand under `[model]`."]
    for name, model in registered_models().items():
        parts += [f"## `{name}`", _first_paragraph(model), _table(model.Config, "model.")]
    return "\n\n".join(parts) + "\n"


def _first_paragraph(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _table(cls: type[Config], prefix: str = "") -> str:
    return "\n".join(["| key | kind | default | meaning |", "|---|---|---|---|", *_rows(cls, prefix)])


def _rows(cls: type[Config], prefix: str) -> Iterator[str]:
    for name, field in cls.model_fields.items():
        inner = _inner(field.annotation)
        if inner:
            yield from _rows(inner, f"{prefix}{name}.")
            continue
        default = (
            "required" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"
        )
        limits = [str(limit) for limit in field.metadata if type(limit).__name__ in ("Ge", "Gt", "Le", "Lt")]
        kind = _kind(field.annotation) + "".join(f", {_limit(limit)}" for limit in limits)
        yield f"| `{prefix}{name}` | {_cell(kind)} | {_cell(default)} | {_cell(field.description or '')} |"


def _limit(text: str) -> str:
    sign = {"Ge": "at least", "Gt": "above", "Le": "at most", "Lt": "below"}[text[:2]]
    return f"{sign} {text.partition('=')[2].rstrip(')')}"


def _kind(annotation: Any) -> str:
    """A type in words a reader of TOML knows."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return " / ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        kinds = [_kind(argument) for argument in arguments if argument is not NoneType]
        return " or ".join(kinds)
    if origin in (tuple, list):
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return f"table of {_kind(arguments[1])}"
    return {
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
        "Path": "path",
    }.get(getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation)))


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def write(folder: Path) -> None:
    """Write the pages; a page that has not changed is left alone, so that a build can skip it."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "commands.md": commands_page(),
        "settings.md": settings_page(),
        "model-settings.md": model_settings_page(),
    }
    for name, text in pages.items():
        file = folder / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
