"""`hm4sr features`: frozen vectors of the items' texts and pictures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.features.extract import extract
from hm4sr.features.report import Coverage
from hm4sr.features.settings import FeatureConfig

_KINDS = {"text": "text", "image": "picture"}
_SHOWN = 10
"""Broken pictures printed; the manifest has them all."""


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each setting; its text and default are those of `FeatureConfig`."""
    for name, field in reversed(FeatureConfig.model_fields.items()):
        kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
        kind: Any = kinds[0] if kinds else field.annotation
        if get_origin(field.annotation) is Literal:
            kind = click.Choice(get_args(field.annotation))
        text = " ".join((field.description or "").split()).rstrip(".")
        if field.default is not None:
            text += f"  [default: {field.default}]"
        option = f"--{name.replace('_', '-')}"
        metavar = "ENCODER" if name in ("text", "image") else None
        flag = kind is bool
        function = click.option(
            option, type=None if flag else kind, is_flag=flag, default=None, help=text, metavar=metavar
        )(function)
    return function


@click.command()
@click.argument("dataset", type=Path)
@_options
@click.option(
    "--vectors",
    "own",
    multiple=True,
    metavar="NAME=FILE",
    help="Vectors made elsewhere, by item id: Parquet, or .npy or .safetensors beside a .txt of ids.",
)
def command(dataset: Path, own: tuple[str, ...], **settings: Any) -> None:
    """Encode the texts and the pictures of a prepared data set's items.

    ENCODER is the folder of a model that transformers can load (BERT type, sentence-transformers or CLIP for
    texts, ViT type or CLIP for pictures), its name on the model hub, or `builtin`, which needs no download.
    What was encoded before comes from a cache; an interrupted run continues. Pictures are only read; broken
    ones are reported and left out.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    config = FeatureConfig.parse(given, "features")
    opened = Dataset.open(dataset)
    files = _own_files(own, config)
    if files:
        from hm4sr.features.own import store_own
    for name, file in files.items():
        click.echo(summary(store_own(opened, name, file)))
    if config.text or config.image or not own:
        for report in extract(opened, config):
            click.echo(summary(report))


def _own_files(pairs: Sequence[str], config: FeatureConfig) -> dict[str, Path]:
    """The files of `--vectors` by name; none may be given two sources, since the later would replace it."""
    taken = {}
    if config.text is not None:
        taken[config.text_name] = "--text-name"
    if config.image is not None:
        taken[config.image_name] = "--image-name"
    files: dict[str, Path] = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not equals or not file:
            raise UserError(f"--vectors {pair!r} is not NAME=FILE: write for example audio=audio.parquet.")
        if name in files:
            raise UserError(f"--vectors names {name!r} twice: give two different names.")
        if name in taken:
            raise UserError(f"--vectors and {taken[name]} are both {name!r}: give two different names.")
        files[name] = Path(file)
    return files


def summary(report: Coverage) -> str:
    """A report as an aligned table."""
    unit = "texts" if report.modality == "text" else "pictures"
    rate = f" in {report.seconds:,.1f} s, {report.rate:,.1f} {unit}/s" if report.encoded else ""
    lines = {
        "encoder": report.encoder,
        "width": f"{report.width:,}",
        "items": f"{report.num_items:,}",
        "with a vector": f"{report.present:,} ({report.present / max(report.num_items, 1):.1%})",
        f"without {_KINDS.get(report.modality, 'vector')}": f"{report.missing:,}",
    }
    if report.modality == "image":
        lines["broken pictures"] = f"{len(report.broken):,}"
    if report.modality in _KINDS:
        lines["encoded"] = f"{report.encoded:,} {unit}{rate}"
        lines["from the cache"] = f"{report.cached:,} {unit}"
    width = max(map(len, lines))
    rows = [f"{report.name}", *(f"  {name:<{width}}  {value}" for name, value in lines.items())]
    rows += [f"    {broken.file}: {broken.reason}" for broken in report.broken[:_SHOWN]]
    if len(report.broken) > _SHOWN:
        rows.append(f"    and {len(report.broken) - _SHOWN:,} more, see the manifest of the features")
    return "\n".join(rows)
