"""Options that several verbs share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hm4sr.errors import UserError

MOST_SEEDS = 10_000


class Folder(click.Path):
    """A folder to write into, there or not yet; what cannot be one is refused before any work is done."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, if it is a folder or can become one.

        Raises:
            UserError: it is a file, or would lie within one.
        """
        path = Path(str(super().convert(value, param, ctx)))
        nearest = next((place for place in (path, *path.parents) if place.exists()), path)
        if nearest.is_file():
            option = param.opts[0] if param else "folder"
            raise UserError(f"{nearest} is a file, not a folder: choose another {option}.")
        return path


def read_seeds(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[int]:
    """Seeds from a text such as 1,2,5 or 1-3."""
    found: list[int] = []
    for part in (value or "").split(","):
        first, _, last = (piece.strip() for piece in part.partition("-"))
        if value is None:
            break
        if not first.isdecimal() or (last and not last.isdecimal()) or int(last or first) < int(first):
            raise UserError(f"--{parameter.name} {value!r} is not a list of seeds: write 1,2,3 or 1-3.")
        if int(last or first) >= 2**31:
            raise UserError(f"--{parameter.name} {value!r}: a seed is less than 2^31, write a smaller one.")
        if int(last or first) - int(first) >= MOST_SEEDS:
            raise UserError(
                f"--{parameter.name} {value!r} names more than {MOST_SEEDS:,} seeds: write fewer."
            )
        found += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(found))


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What `click.option` gives."""

seeds: Decorator = click.option(
    "--seeds", default="1", show_default=True, callback=read_seeds, help="Seeds, e.g. 1,2,3 or 1-3."
)

runs: Decorator = click.option(
    "--runs",
    type=Folder(),
    default=Path("runs"),
    show_default=True,
    help="Folder where runs are looked for and kept.",
)

export: Decorator = click.option(
    "--export",
    type=Folder(),
    help="Copy what the tables need, without weights, to this folder.",
)


def reports(more: str = "") -> Decorator:
    """Folders to look for runs in, besides --runs; `more` is added to the help."""
    return click.option(
        "--reports",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        multiple=True,
        help=f"A further folder of runs or published copies{more}.",
    )


def workers(what: str) -> Decorator:
    """How many runs or trials are made at the same time."""
    return click.option(
        "--workers", type=click.IntRange(min=1), default=1, show_default=True, help=f"{what} side by side."
    )


def address(doing: str) -> Decorator:
    """Ray cluster to train or try on."""
    return click.option(
        "--address",
        help=f"{doing} on a running Ray cluster "
        "(HOST:PORT; auto finds the one of this machine, local starts one).",
    )


def metric(of: str) -> Decorator:
    """The metric that decides, given to the verb as `primary`."""
    return click.option("--metric", "primary", default="ndcg@10", show_default=True, help=f"Metric of {of}.")


def cutoffs(text: str) -> Decorator:
    """Cut-offs of the metrics shown, given to the verb as `ks`."""
    return click.option("-k", "ks", type=click.IntRange(min=1), multiple=True, help=text)
