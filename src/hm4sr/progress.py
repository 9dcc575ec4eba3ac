"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere.

Library code calls `track` or `Progress`; only the command line switches it on.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 10.0
_enabled = False


def show_progress(enabled: bool) -> None:
    """Switch progress on or off for this process; it is off until the command line asks for it."""
    global _enabled
    _enabled = enabled


class Progress:
    """Counts finished units of one piece of work and shows them on standard error."""

    def __init__(self, label: str, total: int, unit: str = "it"):
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._started = self._last_line = time.monotonic()
        self._bar = _rich_bar(label, total, unit) if _enabled and sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif _enabled and kind is None and self._last_line > self._started:
            self._line()  # only what took long enough to have been announced

    def advance(self, count: int = 1) -> None:
        """Report `count` more finished units."""
        self.done += count
        if self._bar:
            self._bar.update(self._bar.task_ids[0], advance=count)
        elif _enabled and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._line()

    def _line(self) -> None:
        self._last_line = now = time.monotonic()
        rate = self.done / max(now - self._started, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        done = f"{self.done:,}/{self.total:,} {self.unit}, {rate:,.1f} {self.unit}/s"
        print(f"{self.label}: {done}, {left:,.0f} s left", file=sys.stderr, flush=True)


def track(values: Iterable[T], label: str, total: int, unit: str = "it") -> Iterator[T]:
    """Iterate over `values` and show how far it has come."""
    with Progress(label, total, unit) as progress:
        for value in values:
            yield value
            progress.advance()


def _rich_bar(label: str, total: int, unit: str):  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.progress import Task as RichTask
    from rich.text import Text

    class Rate(ProgressColumn):
        """Finished units a second."""

        def render(self, task: RichTask) -> Text:
            return Text(f"{task.speed or 0:,.1f} {unit}/s")

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    ]
    bar = RichProgress(*columns, console=Console(stderr=True))
    bar.add_task(label, total=total)
    return bar
