"""`hm4sr verify`."""

from pathlib import Path

import click


@click.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="A run's prepared data set, if it has moved.")
def command(path: Path, data: Path | None) -> int:
    """Check PATH, the folder of a run or of a prepared data set, against what was recorded about it.

    Every file is hashed again. Of a run, the data set is looked at if it is there, validation and test are
    ranked again with the stored weights, and all ranks and metrics must be the recorded ones, to the last
    bit. Exports, published reports and the recommendations for all users are hashed too.

    Exit code 0: all is as recorded; 1: something differs, and the table says what; 2: bad input.
    """
    from hm4sr.cli.output import print_table
    from hm4sr.experiments.verify import verify

    checks = verify(path, data)
    words = {True: "ok", False: "DIFFERS", None: "not checked"}
    print_table(["checked", "", "found"], [[c.subject, words[c.passed], c.result] for c in checks])
    wrong = [check for check in checks if check.passed is False]
    for check in wrong:
        click.echo(f"differs: {check.subject}: {check.result}", err=True)
    if not wrong:
        click.echo(f"{path} is what was recorded: {len(checks)} checks")
    return 1 if wrong else 0
