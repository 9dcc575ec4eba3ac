"""The command `hm4sr`: one thin verb a module, imported when it is called."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType

import click

import hm4sr
from hm4sr.errors import StoppedError, UserError

VERBS = {
    "demo": "Simulate a shop, train on it, judge, recommend and write a page.",
    "simulate": "Make data of a small shop whose answer is known.",
    "download": "Fetch published data sets, or the pictures of a catalogue.",
    "prepare": "Turn interactions and a catalogue into a prepared data set.",
    "inspect": "Show what is in a prepared data set, and what to look at twice.",
    "features": "Encode the text and the pictures of a data set's items.",
    "train": "Train a model from a configuration and judge it.",
    "evaluate": "Rank every user's target again and print the metrics of a run.",
    "compare": "Train several models as far as needed and compare them in tables.",
    "experiment": "Rerun a table or figure of the paper on a data set, with a report.",
    "tune": "Search the settings of a model on the validation part.",
    "verify": "Check a run or a data set: every hash, every rank, every metric.",
    "recommend": "Recommend items to known users or for given histories.",
    "serve": "Answer over HTTP from a run, with a page to look at.",
    "export": "Write a run in a form that recommends without torch.",
}


class _LazyGroup(click.Group):
    """Knows its verbs by name and help line; imports `hm4sr.cli.<verb>` when one is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"hm4sr.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_LazyGroup)
@click.version_option(hm4sr.__version__, prog_name="hm4sr")
def cli() -> None:
    """Multi-modal sequential recommendation, from raw logs to recommendations.

    The usual order: prepare, features, train, recommend. Every command explains itself with --help.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake becomes one sentence and exit code 2, a signal 130 or 143."""
    from hm4sr.progress import show_progress

    _open_what_is_closed()
    show_progress(True)
    try:
        with _terminated_like_interrupted():
            code = cli.main(arguments, standalone_mode=False)
    except UserError as error:
        _fail(str(error), 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort) as error:
        # click puts its own Abort in the place of what interrupted it.
        stopped = error.__cause__ if isinstance(error, click.Abort) else error
        if not isinstance(stopped, StoppedError):
            stopped = StoppedError()
        _fail(stopped.where or "interrupted; what was finished is kept.", stopped.exit_code)
    except SystemExit as error:
        # With 1 and no cause click and rich leave where the reader of a pipe has gone; we name a cause.
        sys.exit(141 if error.code == 1 and error.__cause__ is None else error.code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        _fail("there is not enough memory: make the model, its batches or the data smaller.", 2)
    except OSError as error:
        if error.errno not in _CIRCUMSTANCES:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror}: make room there or mend the rights, and call again.", 2)
    sys.exit(code if isinstance(code, int) else 0)


_CIRCUMSTANCES = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EMFILE,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}
"""What a system refuses for reasons that lie outside of this program."""


def _open_what_is_closed() -> None:
    """A caller may have closed a standard stream (`>&-`): what is said there is lost, and nothing else."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open as long as we are
            setattr(sys, name, nowhere)


def _out_of_memory(error: BaseException) -> bool:
    """Torch says it in a RuntimeError: of its own class on a GPU, by its words on a processor."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Within this context SIGTERM and SIGHUP end a verb as Ctrl-C does: nothing half written stays behind."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    mine = threading.current_thread() is threading.main_thread()
    # What a caller ignores (`nohup`) or handles is left to it.
    numbers = [number for number in numbers if mine and signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedError(number)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _fail(message: str, code: int) -> None:
    click.echo(f"hm4sr: {message}", err=True)
    sys.exit(code)
