"""Rows that cannot be used: an error at the first one, or left out, counted and named."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hm4sr.errors import UserError

BadRowsRule = Literal["error", "skip"]
SHOWN = 10
"""Bad rows that are named, for each file; the others are only counted."""


@dataclass
class BadRows:
    """What to do with bad rows, and what was found.

    Attributes:
        rule: "error" raises at the first one, "skip" leaves them out.
        counts: rows left out, by file.
        examples: place and reason of the first ones of each file.
        repeated: items named more than once, whose later rows were left out, by file.
    """

    rule: BadRowsRule = "error"
    counts: dict[Path, int] = field(default_factory=dict)
    examples: dict[Path, list[str]] = field(default_factory=dict)
    repeated: dict[Path, int] = field(default_factory=dict)

    @property
    def skip(self) -> bool:
        """Whether bad rows are left out."""
        return self.rule == "skip"

    def report(self, file: Path, place: str, reason: str) -> None:
        """Note one bad row.

        Raises:
            UserError: bad rows are errors.
        """
        self.report_many(file, 1, [(place, reason)])

    def report_many(self, file: Path, count: int, first: Iterable[tuple[str, str]]) -> None:
        """Note bad rows, of which the first few come with their place and the reason."""
        if not count:
            return
        examples = self.examples.setdefault(file, [])
        for place, reason in first:
            if not self.skip:
                raise UserError(f"{place} {reason}: mend it, or leave such rows out with --bad-rows skip.")
            if len(examples) >= SHOWN:
                break
            examples.append(f"{place} {reason}")
        self.counts[file] = self.counts.get(file, 0) + count

    def room(self, file: Path) -> int:
        """How many more bad rows of a file will be named."""
        return SHOWN - len(self.examples.get(file, []))

    def summary(self) -> dict[str, Any]:
        """What was found, for the manifest; empty where nothing was."""
        found: dict[str, Any] = {}
        if self.counts:
            found["bad_rows"] = {
                file.name: {"skipped": count, "first": [place.removeprefix(f"{file}, ") for place in places]}
                for file, count in self.counts.items()
                for places in [self.examples[file]]
            }
        if self.repeated:
            found["repeated_items"] = {file.name: count for file, count in self.repeated.items()}
        return found
