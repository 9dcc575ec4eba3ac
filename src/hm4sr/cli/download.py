"""`hm4sr download`: published data sets, and the pictures of a catalogue."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from hm4sr.data.dataset import Dataset
from hm4sr.data.remote.fetch import Fetched, download
from hm4sr.data.remote.official import RemoteSet, find, official
from hm4sr.data.remote.pictures import ImageConfig, ImageReport, download_images
from hm4sr.errors import UserError

_SHOWN = 10
"""Failed addresses printed; the report has them all."""


class _Names(click.Group):
    """A verb for each data set, made when it is asked for."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        return _download_command(find(cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([("images", "Fetch the pictures of a prepared data set's items.")])
        families: dict[str, list[str]] = {}
        for name in official():
            family = "-".join(name.split("-")[: 2 if name.startswith("amazon") else 1])
            families.setdefault(family, []).append(name.removeprefix(f"{family}-"))
        with formatter.section("Data sets (family, and what to add to it with a hyphen)"):
            formatter.write_dl([(family, ", ".join(names)) for family, names in families.items()])


@click.group(cls=_Names)
def command() -> None:
    """Fetch a published data set, or the pictures of a catalogue.

    \b
    hm4sr download movielens-1m --out raw
    hm4sr download amazon-2014-beauty --out raw/beauty --mirror /media/copies
    hm4sr download images data/beauty

    Mind the terms of use of each data set; its page is named when the download ends.
    """


def _download_command(wanted: RemoteSet) -> click.Command:
    files = ", ".join(file.url for file in wanted.files)

    @click.command(wanted.name, help=f"Fetch {files}. What is there stays, what was begun is continued.")
    @click.option("--out", type=Path, required=True, help="Folder to write to.")
    @click.option(
        "--mirror", help="Folder or address that holds the same files, for machines without network."
    )
    def run(out: Path, mirror: str | None) -> None:
        click.echo(_fetched(wanted, out, download(wanted, out, mirror)))

    return run


def _fetched(wanted: RemoteSet, out: Path, files: list[Fetched]) -> str:
    lines = []
    for file in files:
        how = "fetched" if file.new else "was there"
        proof = (
            "sha256 as recorded"
            if file.verified
            else f"not verified (no recorded sha256), sha256 {file.sha256}"
        )
        lines.append(f"{file.path}  {how}, {file.size:,} bytes, {proof}")
        if file.unpacked is not None:
            lines.append(f"{file.unpacked}  unpacked")
    if wanted.source.startswith("amazon"):
        given = f"--interactions {files[0].path} --items {files[1].path}"
    else:
        given = f"--folder {out if len(files) > 1 else files[0].unpacked}"
    lines.append(f"terms of use: {wanted.home}")
    lines.append(f"next: hm4sr prepare --source {wanted.source} {given} --out data/{wanted.name}")
    return "\n".join(lines)


def _image_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each setting; its text and default are those of `ImageConfig`."""
    for name, setting in reversed(ImageConfig.model_fields.items()):
        kinds = [kind for kind in get_args(setting.annotation) if kind is not type(None)]
        kind: Any = kinds[0] if kinds else setting.annotation
        if get_origin(setting.annotation) is Literal:
            kind = click.Choice(get_args(setting.annotation))
        text = (setting.description or "").rstrip(".")
        if setting.default is not None:
            text += f"  [default: {setting.default}]"
        function = click.option(f"--{name.replace('_', '-')}", type=kind, default=None, help=text)(function)
    return function


@command.command("images")
@click.argument("dataset", type=Path)
@_image_options
def images(dataset: Path, **settings: Any) -> None:
    """Fetch the pictures of a prepared data set's items into DATASET/images.

    Only https at public hosts; http addresses are asked for over https. Addresses that give nothing are
    reported here and by `hm4sr features`; an interrupted run continues.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    config = ImageConfig.parse(given, "hm4sr download images")
    opened = Dataset.open(dataset)
    report = download_images(opened, config)
    click.echo(summary(opened, report))
    if report.addresses and not report.there + report.fetched:
        raise UserError("no picture could be fetched: the reasons are listed above.")


def summary(dataset: Dataset, report: ImageReport) -> str:
    """A report as an aligned table."""
    lines = {
        "items": f"{report.num_items:,}",
        "with a file of their own": f"{report.own:,}",
        "addresses": f"{report.addresses:,}",
        "fetched": f"{report.fetched:,} ({report.bytes / 1e6:,.1f} MB)",
        "were there": f"{report.there:,}",
        "failed": f"{len(report.failed):,}",
        "left for another run": f"{report.skipped:,}",
    }
    width = max(map(len, lines))
    rows = [str(dataset.path / "images"), *(f"  {name:<{width}}  {value}" for name, value in lines.items())]
    rows += [f"    {url}: {reason}" for url, reason in list(report.failed.items())[:_SHOWN]]
    if len(report.failed) > _SHOWN:
        rows.append(f"    and {len(report.failed) - _SHOWN:,} more, see images/report.json")
    return "\n".join(rows)
