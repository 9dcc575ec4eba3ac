"""What a fuzz target is, and what it may let pass."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""Where the worlds are made: syncing thousands of files to a disk would be most of the time."""


@contextlib.contextmanager
def instrumented() -> Iterator[None]:
    """What is imported within tells atheris which of its branches are taken."""
    import atheris

    with atheris.instrument_imports(include=["hm4sr", "tomllib", "PIL"]):
        yield


@dataclass(frozen=True)
class Target:
    """A function of bytes.

    Attributes:
        run: called with each input.
        seeds: inputs to begin with.
        words: what inputs may be pieced together from.
    """

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()


def refused_or_read(work: Callable[[], object]) -> None:
    """Call; only a sentence may come of it."""
    from hm4sr.errors import UserError

    try:
        work()
    except UserError as error:
        said = str(error)
        assert said.rstrip().endswith((".", "?")), f"no sentence: {said!r}"


def logging_off() -> None:
    """Keep warnings about bad rows and the like from being most of the work."""
    logging.disable(logging.CRITICAL)
