"""Files of histories and of users: CSV, TSV, Parquet, or JSON (a list of objects)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hm4sr.data.tables import Table, read_table, vocabulary
from hm4sr.data.timestamps import TimeUnit, read_times
from hm4sr.errors import UserError
from hm4sr.serving.histories import History


@dataclass(frozen=True)
class Columns:
    """Names of a file's columns; that of the items, and those in `required`, must be there."""

    user: str
    item: str
    time: str
    required: frozenset[str] = frozenset()


@dataclass(frozen=True)
class HistoryFile:
    """Histories read from a file.

    Attributes:
        histories: in the order in which their first events stand in the file.
        users: the id of each; None if the file has no column of users and so is one history.
    """

    histories: list[History]
    users: list[str] | None


def read_histories(path: Path, columns: Columns, unit: TimeUnit = "auto") -> HistoryFile:
    """Read histories of raw item ids.

    Args:
        path: the file; its ending says what it is.
        columns: the item's is needed; without the time's, rows are taken as ordered, oldest first.
        unit: unit of the timestamps; `auto` recognises it from the whole column.

    Raises:
        UserError: the file is missing, empty or damaged, lacks a column, or a cell is at fault; the message
            names file, line and column.
    """
    pairs = [
        ("--item-column", columns.item),
        ("--user-column", columns.user),
        ("--time-column", columns.time),
    ]
    needed = [pair for pair in pairs if pair[1] == columns.item or pair[1] in columns.required]
    table = _read(path, needed, [columns.user, columns.time], [columns.item, columns.user])
    items = _texts(table, columns.item)
    events: list[Any] = items
    order: Any = range(len(items))
    if columns.time in table.frame.columns:
        times = read_times(table.frame[columns.time], unit, table.place)
        events = list(zip(items, times.seconds().tolist(), strict=True))
        order = np.argsort(times.ticks, kind="stable").tolist()  # fractions of a second decide it, too
    if columns.user not in table.frame.columns:
        return HistoryFile([[events[row] for row in order]], None)
    users = _texts(table, columns.user)
    histories: dict[str, list[Any]] = {user: [] for user in users}
    for row in order:
        histories[users[row]].append(events[row])
    return HistoryFile(list(histories.values()), list(histories))


def read_users(path: Path, column: str) -> list[str]:
    """Read user ids, each once: the lines of a .txt file, or a column of another one.

    Raises:
        UserError: as for `read_histories`.
    """
    if path.suffix.lower() != ".txt":
        table = _read(path, [("--user-column", column)], [], [column], also=(".txt", ".json"))
        return list(dict.fromkeys(_texts(table, column)))
    lines = [line.removesuffix("\r") for line in _read_text(path).split("\n")]
    users = list(dict.fromkeys(line for line in lines if line.strip()))
    if not users:
        raise UserError(f"{path} is empty: give a file with a user id on each line.")
    return users


def _texts(table: Table, column: str) -> list[str]:
    numbers, texts = vocabulary(table, column)
    found: list[str] = texts.gather(numbers.astype(np.int64)).to_list()
    return found


def _read(
    path: Path,
    required: Sequence[tuple[str, str]],
    optional: Sequence[str],
    ids: Sequence[str],
    also: Sequence[str] = (".json",),
) -> Table:
    if path.suffix.lower() == ".json":
        return _read_json(path, required, optional, ids)
    return read_table(path, required, optional, ids, also)


def _read_json(
    path: Path, required: Sequence[tuple[str, str]], optional: Sequence[str], ids: Sequence[str]
) -> Table:
    try:
        rows = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): write a list of objects.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f'{path} is not a list of objects: write [{{"{required[0][1]}": ...}}, ...].')
    if not rows:
        raise UserError(f"{path} is an empty list: give a file with rows.")
    names = dict.fromkeys(name for row in rows for name in row)
    for option, column in required:
        if column not in names:
            shown = ", ".join(names)[:200]
            raise UserError(
                f"{path} has no key {column!r} (it has: {shown}); name the right one with {option}."
            )
    wanted = dict.fromkeys(
        [*(column for _, column in required), *(name for name in optional if name in names)]
    )
    columns = [_json_column(path, name, [row.get(name) for row in rows], name in ids) for name in wanted]
    return Table(path, pl.DataFrame(columns), separator=None)


def _json_column(path: Path, name: str, values: list[Any], is_id: bool) -> pl.Series:
    """Texts and numbers as texts, which keeps integers exact; ids as read_table gives them."""
    for row, value in enumerate(values, start=1):
        accepted = isinstance(value, str | int | None) or (isinstance(value, float) and not is_id)
        if not accepted or isinstance(value, bool):
            what = "an id as text or as an integer" if is_id else "a time as an integer or as an ISO date"
            raise UserError(f"{path}, row {row}: {name} = {value!r} is not accepted: write {what}.")
        if isinstance(value, str) and any("\ud800" <= mark <= "\udfff" for mark in value):
            raise UserError(f"{path}, row {row}: {name} = {value!r} holds half of a character: mend it.")
    texts = [None if value is None else _plain(value) for value in values]
    return pl.Series(name, texts, dtype=pl.String).cast(pl.Categorical if is_id else pl.String)


def _plain(value: str | int | float) -> str:
    """A number as digits: whole floats without an exponent."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a file that can be.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
