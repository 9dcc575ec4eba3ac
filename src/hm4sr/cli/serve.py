"""`hm4sr serve`."""

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from hm4sr.errors import UserError


@click.command("serve")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--beside", type=Path, metavar="RUN2", help="A second run to compare with.")
@click.option("--data", type=Path, help="The prepared data set of RUN, if it has moved.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: 8000]")
@click.option("--config", type=Path, metavar="FILE", help="Settings (TOML); limits, token file, index, ...")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set a key, e.g. limits.k=100.")
def command(
    run: Path,
    beside: Path | None,
    data: Path | None,
    host: str | None,
    port: int | None,
    config: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Answer over HTTP from the trained model in RUN, with a page at /.

    The environment variable HM4SR_TOKEN, or the setting token_file, holds the token that clients must send.
    SIGHUP loads the runs anew without dropping a request; SIGTERM stops after the open requests.
    """
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(
                f"{name} is not installed: install what serving needs with pip install 'hm4sr[serve]'."
            ) from error
    from hm4sr.serving.http.runs import RunSource
    from hm4sr.serving.http.server import serve
    from hm4sr.serving.http.settings import ServeConfig

    settings = ServeConfig.load(config, overrides)
    given: dict[str, Any] = {"host": host, "port": port}
    settings = settings.model_copy(update={key: value for key, value in given.items() if value is not None})
    serve([RunSource(run, data), *([RunSource(beside)] if beside else [])], settings)
