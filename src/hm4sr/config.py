"""Base of every configuration: frozen, typed, and strict about names.

A default lives in one place, the Config class beside the code that reads it.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from hm4sr.errors import UserError


class Config(BaseModel):
    """Frozen settings in which an unknown key is an error that names the key."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _expect_no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name is not None:
            wanted = cls.model_fields[info.field_name].annotation
            kinds = {wanted, *get_args(wanted)}
            if kinds & {int, float} and bool not in kinds:  # else true would be 1
                raise ValueError("a number is wanted, not true or false")
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Build from plain values.

        Args:
            values: nested dictionary, as TOML or JSON gives it.
            where: file or option named in error messages.

        Raises:
            UserError: an unknown key, or a value of the wrong type or range.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UserError(_explain(cls, error, where)) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: the file is missing or malformed.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give the path of a configuration file.") from error
    except (ValueError, RecursionError) as error:  # also numbers of too many digits, too deep nesting
        raise UserError(f"{path} is not valid TOML ({error}): mend that line.") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give the path of a configuration file."
        ) from error


def override(values: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Apply `section.key=value` assignments to nested values; the right side is TOML, or else a string.

    Raises:
        UserError: an assignment has no `=`, or runs through something that is not a section.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(
                f"--set {assignment!r} is not of the form key=value: write for example model.dim=64."
            )
        assign(values, key.strip(), _value(text.strip()), f"--set {assignment!r}")
    return values


def assign(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a key such as "model.dim" of nested values, in place.

    Raises:
        UserError: the key runs through something that is not a section; the message starts with `where`.
    """
    *sections, name = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"{where}: {section!r} is a value, not a section: drop the dot.")
    values[name] = value


def to_toml(values: Mapping[str, Any]) -> str:
    """Nested plain values as TOML that `read_toml` reads back; None, which TOML lacks, is left out."""
    return "\n".join(_sections(values, ())).lstrip("\n") + "\n"


def _sections(values: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[str]:
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    if place and (plain or not values):
        yield f"\n[{'.'.join(map(_key, place))}]"
    for name, value in plain.items():
        if value is not None:
            yield f"{_key(name)} = {_toml(value)}"
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _sections(value, (*place, name))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(name)} = {_toml(inner)}' for name, inner in value.items())} }}"
    if isinstance(value, float):
        return repr(value)
    # The escapes of JSON are TOML's, but for the delete character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _explain(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _fields_at(cls, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(sorted(known))}."
        return f"{where}: unknown key {key!r}; {hint}"
    if first["type"] == "missing":
        return f"{where}: the key {key!r} is missing: add it."
    message = first["msg"].removeprefix("Value error, ")
    if not key:  # a rule about several keys at once
        return f"{where}: {message}: change one of them."
    return f"{where}: {key} = {first['input']!r} is not accepted: {message[:1].lower()}{message[1:]}."


def _fields_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        annotation = cls.model_fields[str(part)].annotation if str(part) in cls.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        cls = annotation
    return list(cls.model_fields)
