"""Records of named fields, one a line: JSON, or the Python literals of the older Amazon files.

Literals are read without ever running them: strings are turned into JSON ones by a tokeniser, and what
that does not cover goes through `ast.literal_eval`, which knows constants and containers only.
"""

import ast
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from hm4sr.data.sources.lines import BadLineError, Schema

_STRING = rb"'(?:[^'\\\n]|\\.)*+'|\"(?:[^\"\\\n]|\\.)*+\""
_WORD = rb"\b(?:None|True|False)\b"
_TOKEN = re.compile(_STRING + b"|" + _WORD)
_STRETCH = re.compile(rb"(?:[^\"'\\\n]*+'[^'\"\\\n]*+')++|" + _STRING + b"|" + _WORD)
"""As _TOKEN, but many plain strings with what is between them count as one: most of a line, at one stroke."""
_WORDS = {b"None": b"null", b"True": b"true", b"False": b"false"}


class RecordParser:
    """Reads some fields of each record.

    Args:
        schema: field to polars type: String, Int64, Float64, lists of those, or a struct of strings.
        literals: whether lines may be Python literals.
    """

    def __init__(self, schema: Schema, literals: bool = False):
        self.schema = schema
        self.literals = literals

    def block(self, data: bytes) -> pl.DataFrame | None:
        """All lines at once, see `LineParser`."""
        frame = self._parse(data)
        if frame is None and self.literals:
            converted = _STRETCH.sub(_json_stretch, data)
            frame = self._parse(converted) if converted is not data else None
        return frame

    def _parse(self, data: bytes) -> pl.DataFrame | None:
        try:
            return pl.read_ndjson(io.BytesIO(data), schema=self.schema)
        except pl.exceptions.PolarsError:
            return None

    def line(self, data: bytes) -> Sequence[Any]:
        """One line, see `LineParser`."""
        record = self._record(data)
        return [coerce(record.get(name), dtype, name) for name, dtype in self.schema.items()]

    def _record(self, data: bytes) -> Mapping[str, Any]:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise BadLineError("is not UTF-8 text") from error
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            if not self.literals:
                raise BadLineError("is not JSON") from error
            record = parse_literal(text)
        if not isinstance(record, dict):
            raise BadLineError("is not a record of named fields")
        return record


def parse_literal(text: str) -> Any:
    """A Python literal, as the text of its value.

    Raises:
        BadLineError: the text is anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return _mended(ast.literal_eval(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise BadLineError("is neither JSON nor a Python literal") from error


def coerce(value: Any, dtype: Any, name: str) -> Any:
    """A value as the polars type wants it.

    Raises:
        BadLineError: it is of another kind.
    """
    if value is None:
        return None
    if isinstance(dtype, pl.List):
        values = value if isinstance(value, list | tuple) else [value] if value not in ("", {}) else []
        return [coerce(inner, dtype.inner, name) for inner in values]
    if isinstance(dtype, pl.Struct):
        if not isinstance(value, dict):
            raise BadLineError(f"has no named fields in {name}")
        return {field.name: coerce(value.get(field.name), field.dtype, name) for field in dtype.fields}
    if isinstance(value, list | tuple | dict | set):
        raise BadLineError(f"has a list or a record as {name}")
    if dtype == pl.String:
        return _text(value, name)
    return _number(value, dtype, name)


def _text(value: Any, name: str) -> str:
    try:
        text = value if isinstance(value, str) else str(value)
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise BadLineError(f"has half of a character as {name}") from error
    except ValueError as error:  # Python writes no whole number of more than 4,300 digits
        raise BadLineError(f"has a number of thousands of digits as {name}") from error
    return text


def _number(value: Any, dtype: Any, name: str) -> int | float | None:
    if value == "":
        return None
    try:
        number = float(value)
        if dtype == pl.Float64:
            return number
        if isinstance(value, str) and value.strip().lstrip("+-").isdigit():
            number, whole = 0.0, int(value)
        else:
            whole = value if isinstance(value, int) else int(number)
        if number not in (0.0, whole) or abs(whole) >= 2**63:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        kind = "a number" if dtype == pl.Float64 else "a whole number"
        raise BadLineError(f"has {_text(value, name)[:40]!r} as {name}, which is not {kind}") from error
    return whole


def _json_stretch(match: re.Match[bytes]) -> bytes:
    stretch = match.group()
    if b"\\" in stretch or b'"' in stretch or any(word in stretch for word in _WORDS):
        return _TOKEN.sub(_json_token, stretch)
    return stretch.replace(b"'", b'"')


def _json_token(match: re.Match[bytes]) -> bytes:
    token = match.group()
    if token in _WORDS:
        return _WORDS[token]
    if b"\\" not in token:
        if token[:1] == b'"':
            return token
        if b'"' not in token:
            return b'"' + token[1:-1] + b'"'
    try:
        return json.dumps(parse_literal(token.decode())).encode()
    except (BadLineError, UnicodeDecodeError):
        return token  # not JSON either: the line is looked at alone


def _mended(value: Any) -> Any:
    """Strings whose characters are the bytes of UTF-8, as Python 2 wrote them, become what they mean."""
    if isinstance(value, str):
        if value.isascii():
            return value
        try:
            return value.encode("latin-1").decode("utf-8")
        except UnicodeError:
            return value
    if isinstance(value, dict):
        return {_mended(key): _mended(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(inner) for inner in value]
    return value
