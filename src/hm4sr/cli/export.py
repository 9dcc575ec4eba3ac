"""`hm4sr export`."""

from pathlib import Path

import click


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx"]),
    default="onnx",
    show_default=True,
    help="Form of the export.",
)
@click.option("--out", type=Path, required=True, metavar="DIR", help="Folder to write.")
@click.option("--data", type=Path, help="The prepared data set, if it has moved.")
@click.option("--force", is_flag=True, help="Replace the export that --out names.")
def command(run: Path, kind: str, out: Path, data: Path | None, force: bool) -> None:
    """Write the encoder, the item vectors and the catalogue of the run in RUN.

    `hm4sr.OnnxRecommender.load(DIR)` recommends from it with onnxruntime and without torch. The export is
    compared with the model before it is kept.
    """
    from hm4sr.serving.export import export_onnx

    agreement = export_onnx(run, out, data, force)
    click.echo(f"{out} written; {agreement.lists:,} lists compared, {agreement.same:.2%} of them the same")
