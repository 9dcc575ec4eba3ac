"""`hm4sr recommend`: what known users, or customers with new histories, may want next."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from hm4sr.data.prepare import PrepareConfig
from hm4sr.data.timestamps import TimeUnit
from hm4sr.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from hm4sr.serving.answers import Recommendations
    from hm4sr.serving.recommender import Recommender

_WIDEST_TITLE = 70
_MOST_NOTES = 10


def _columns(function: Callable[..., None]) -> Callable[..., None]:
    """Options for the columns of the input; their defaults are those of `hm4sr prepare`."""
    for name in ("time", "item", "user"):
        default = PrepareConfig.model_fields[f"{name}_column"].default
        text = f"Column of the {name}s in FILE.  [default: {default}]"
        function = click.option(f"--{name}-column", help=text)(function)
    return function


@click.command("recommend")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--user", "users", multiple=True, metavar="ID", help="A user of the data set; repeat for several."
)
@click.option(
    "--users-file", type=Path, metavar="FILE", help="Users: .txt with an id a line, or a column of a table."
)
@click.option(
    "--history", type=Path, metavar="FILE", help="Histories: CSV, TSV, JSON or Parquet, a row an event."
)
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Items of each answer.")
@click.option("--keep-seen", is_flag=True, help="Recommend items of the history too.")
@click.option(
    "--exclude", multiple=True, metavar="ITEM", help="Never recommend this item; repeat for several."
)
@click.option("--include", multiple=True, metavar="ITEM", help="Recommend only these; repeat for several.")
@click.option(
    "--category", "categories", multiple=True, metavar="NAME", help="Only items of one of these categories."
)
@click.option("--at-time", metavar="TIME", help="Moment of the question (ISO date or seconds since 1970).")
@click.option("--all-users", is_flag=True, help="Answer every user of the data set; --out names a folder.")
@click.option("--part-users", type=click.IntRange(min=1), help="Users of a Parquet part.  [default: 10000]")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes for --all-users.",
)
@click.option(
    "--new-items",
    type=Path,
    metavar="FILE",
    help="Items that came after training, as a raw items file; recommended by their text and pictures.",
)
@click.option(
    "--index",
    type=click.Choice(["exact", "auto", "faiss"]),
    default="exact",
    show_default=True,
    help="How items are searched; faiss pays for many requests and more than 200,000 items.",
)
@click.option("--data", type=Path, help="The prepared data set, if it has moved.")
@click.option(
    "--out",
    type=Path,
    metavar="PATH",
    help="Write a .csv, .json or .parquet file instead of printing; with --all-users a folder of them.",
)
@click.option("--force", is_flag=True, help="Replace what --out names.")
@_columns
@click.option(
    "--time-unit",
    type=click.Choice(get_args(TimeUnit)),
    default="auto",
    show_default=True,
    help="Unit of the times in FILE.",
)
def command(
    run: Path,
    users: tuple[str, ...],
    users_file: Path | None,
    history: Path | None,
    k: int,
    keep_seen: bool,
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    categories: tuple[str, ...],
    at_time: str | None,
    all_users: bool,
    part_users: int | None,
    workers: int,
    new_items: Path | None,
    index: Literal["exact", "auto", "faiss"],
    data: Path | None,
    out: Path | None,
    force: bool,
    user_column: str | None,
    item_column: str | None,
    time_column: str | None,
    time_unit: TimeUnit,
) -> None:
    """Recommend items with the trained model in RUN, to known users or after histories that it never saw.

    The history of a known user is all that the prepared data set holds. A file for --history needs a column
    of items; without timestamps its rows are taken in order, oldest first, as evenly apart; with a column of
    users it holds several histories. Ids are those of the raw data. A history without a known item is
    answered by popularity.

    --all-users writes Parquet parts; the same command continues what was interrupted.
    """
    source = {"run": str(run), "data": _text(data), "new_items": _text(new_items), "index": index}
    limits: dict[str, Any] = {
        "k": k,
        "filter_seen": not keep_seen,
        "exclude": exclude,
        "include": include or None,
        "categories": categories or None,
        "at_time": None if at_time is None else _moment(at_time),
    }
    if all_users:
        if users or users_file or history:
            raise UserError("--all-users asks for everybody: leave out --user, --users-file and --history.")
        _recommend_all(source, limits, out, part_users, workers, force)
        return
    if part_users or workers > 1:
        raise UserError("--part-users and --workers belong to --all-users: add it, or leave them out.")
    if bool(users or users_file) == bool(history):
        raise UserError("give either --user (or --users-file) or --history, and not both.")
    from hm4sr.cli.output import check_out, write

    if out:
        check_out(out, force)
    from hm4sr.serving.history_files import Columns, read_histories, read_users

    given = {"user": user_column, "item": item_column, "time": time_column}
    names = {key: name or PrepareConfig.model_fields[f"{key}_column"].default for key, name in given.items()}
    columns = Columns(**names, required=frozenset(name for name in given.values() if name))
    file = read_histories(history, columns, time_unit) if history else None
    if users_file:
        users = (*users, *read_users(users_file, columns.user))
    recommender = _load(source)
    if file:
        answers = recommender.recommend(None, file.histories, **limits)
        answers = replace(answers, requests=file.users) if file.users else answers
    else:
        answers = recommender.recommend(list(users), None, **limits)
    for note in notes(answers):
        click.echo(f"hm4sr: {note}", err=True)
    if out:
        write(answers.table(), out)
        click.echo(f"{len(answers):,} answers written to {out}")
    else:
        show(answers.table())


def _recommend_all(
    source: dict[str, Any],
    limits: dict[str, Any],
    out: Path | None,
    part_users: int | None,
    workers: int,
    force: bool,
) -> None:
    if out is None:
        raise UserError("--all-users needs --out, the folder to write Parquet parts into.")
    from hm4sr.serving.batch import BatchConfig, recommend_all
    from hm4sr.serving.source import Source

    sizes = {} if part_users is None else {"part_users": part_users}
    config = BatchConfig.parse({**limits, **sizes}, "hm4sr recommend")
    done = recommend_all(Source(**source), config, out, workers, force)
    kept = f", {done.kept:,} of them there already" if done.kept else ""
    click.echo(f"{done.users:,} users answered in {done.parts:,} parts in {out}{kept}")


def _moment(text: str) -> int:
    """Seconds since 1970, from an ISO date or a number of seconds."""
    import polars as pl

    from hm4sr.data.timestamps import read_times

    if not text.strip():
        raise UserError("--at-time is empty: give seconds since 1970 or an ISO date.")
    number = re.fullmatch(r"\s*[+-]?[0-9]+(\.[0-9]*)?\s*", text)
    unit: TimeUnit = "s" if number else "iso"
    return int(read_times(pl.Series("the moment", [text]), unit, lambda row: "--at-time").seconds()[0])


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _load(source: dict[str, Any]) -> "Recommender":
    from hm4sr.serving.source import Source

    return Source(**source).load()


def notes(answers: "Recommendations") -> list[str]:
    """What a reader of the answers should know, one sentence each."""
    told = []
    if answers.unknown_excluded:
        told.append(f"--exclude: {_list(answers.unknown_excluded)} not in the catalogue, ignored.")
    if answers.unknown_included:
        told.append(f"--include: {_list(answers.unknown_included)} not in the catalogue, ignored.")
    lines = zip(
        answers.requests, answers.unknown, answers.later, answers.sources, answers.numbers, strict=True
    )
    for request, unknown, later, source, numbers in lines:
        who = f"history {request}" if isinstance(request, int) else f"user {request!r}"
        if unknown:
            told.append(f"{who}: {_list(unknown)} not in the catalogue, ignored.")
        if later:
            told.append(f"{who}: {later:,} events after --at-time are not known yet, left out.")
        if source == "popularity":
            told.append(f"{who}: no known item to go by, answered with the most popular items.")
        if not numbers.any():
            told.append(f"{who}: no item is left to recommend.")
    more = len(told) - _MOST_NOTES
    return told if more <= 0 else [*told[:_MOST_NOTES], f"and {more:,} more notes like these."]


def _list(ids: tuple[str, ...]) -> str:
    shown = ", ".join(repr(item) for item in ids[:3])
    if len(ids) > 3:
        return f"{shown} and {len(ids) - 3:,} more are"
    return f"{shown} {'is' if len(ids) == 1 else 'are'}"


def show(table: "pl.DataFrame") -> None:
    """Print a table; long titles are cut, files hold them whole."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=SIMPLE)
    for name in table.columns:
        right = name in ("rank", "score")
        shown.add_column(name, justify="right" if right else "left", overflow="fold")
    for *request, rank, item, title, score, source in table.iter_rows():
        cells = [str(request[0]), str(rank), item, _cut(title or ""), f"{score:.4f}", source]
        shown.add_row(*(_printable(cell) for cell in cells))
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=160)
    console.print(shown)


def _cut(title: str) -> str:
    return title if len(title) <= _WIDEST_TITLE else title[: _WIDEST_TITLE - 1].rstrip() + "…"


def _printable(text: str) -> str:
    """Without line breaks and terminal codes, which raw data may hold."""
    return "".join(sign if sign.isprintable() else " " for sign in text)
