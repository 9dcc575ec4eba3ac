"""The command `hm4sr`: one thin verb a module, imported when it is called."""

import sys
from collections.abc import Sequence
from importlib import import_module

import click

import hm4sr
from hm4sr.errors import UserError

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
    """Run the command line; a user's mistake becomes one sentence and exit code 2."""
    from hm4sr.progress import show_progress

    show_progress(True)
    try:
        code = cli.main(arguments, standalone_mode=False)
    except UserError as error:
        _fail(str(error), 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; what was finished is kept.", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    click.echo(f"hm4sr: {message}", err=True)
    sys.exit(code)
