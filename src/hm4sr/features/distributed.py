"""Encoding in several processes, on this machine or on a Ray cluster; the same units, so the same results.

Pictures and the folders of models must lie under the same paths on every machine; a worker that finds other
ones says so. Nothing is written by workers: vectors come back to the process that asked.
"""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hm4sr.cluster import connect, cores_each, require_ray
from hm4sr.errors import UserError
from hm4sr.features.encoder import BUILTIN, Modality
from hm4sr.features.settings import FeatureConfig
from hm4sr.features.work import Finished, Unit, make_work


class Worker:
    """Encodes the units it is given; mistakes of the user come back as sentences.

    Args:
        config: settings, as plain values.
        modality: of the units.
        key: of the encoder that is expected.
    """

    def __init__(self, config: dict[str, Any], modality: Modality, key: str):
        self._error: str | None = None
        try:
            self._work = make_work(FeatureConfig.model_validate(config), modality)
        except UserError as error:
            self._error = str(error)
        else:
            if self._work.card.key != key:
                self._error = (
                    f"the encoder {self._work.card.name} on {socket.gethostname()} is not the one here: copy "
                    "the same files, and the same version of hm4sr, to every machine."
                )

    def run(self, unit: Unit) -> tuple[str | None, list[Finished]]:
        """Encode one unit; a sentence instead where that cannot be done."""
        if self._error is None:
            try:
                for source in unit.values():
                    if isinstance(source, Path) and not source.is_file():
                        raise UserError(
                            f"{source} is not there on {socket.gethostname()}: pictures must lie in a folder "
                            "that all machines share."
                        )
                return None, list(self._work.run([unit]))
            except UserError as error:
                self._error = str(error)
        return self._error, []


def run_distributed(
    config: FeatureConfig, modality: Modality, key: str, units: Sequence[Unit]
) -> Iterator[Finished]:
    """Encode units in `config.workers` processes, in whatever order they finish.

    Raises:
        UserError: Ray is not installed, its cluster cannot be reached or is too small, or a worker fails.
    """
    require_ray("--workers")
    import ray
    from ray.exceptions import RayActorError
    from ray.util import ActorPool

    ours = not ray.is_initialized()
    try:
        if ours:
            connect(config.address, config.workers)
        cores = cores_each(config.workers)
        start = ray.remote(num_cpus=cores)(Worker).remote
        plain = _everywhere(config).model_dump(mode="json")
        pool = ActorPool([start(plain, modality, key) for _ in range(min(config.workers, len(units)))])
        for error, parts in pool.map_unordered(lambda worker, unit: worker.run.remote(unit), units):
            if error is not None:
                raise UserError(error)
            yield from parts
    except RayActorError as error:
        raise UserError(
            "a worker has died, perhaps for want of memory: run the same command again with fewer --workers; "
            "what was finished is kept."
        ) from error
    finally:
        if ours:
            ray.shutdown()


def _everywhere(config: FeatureConfig) -> FeatureConfig:
    """The settings with absolute folders: a worker may start in another one."""
    changes = {
        name: str(Path(value).expanduser().absolute())
        for name in ("text", "image")
        if (value := getattr(config, name)) not in (None, BUILTIN) and Path(value).expanduser().is_dir()
    }
    return config.model_copy(update=changes)
