"""Readers of options that several verbs share."""

import click

from hm4sr.errors import UserError


def read_seeds(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[int]:
    """Seeds from a text such as 1,2,5 or 1-3."""
    found: list[int] = []
    for part in (value or "").split(","):
        first, _, last = (piece.strip() for piece in part.partition("-"))
        if value is None:
            break
        if not first.isdecimal() or (last and not last.isdecimal()) or int(last or first) < int(first):
            raise UserError(f"--{parameter.name} {value!r} is not a list of seeds: write 1,2,3 or 1-3.")
        found += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(found))
