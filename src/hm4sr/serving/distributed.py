"""Answering parts of a batch in several processes, on one machine or many, with Ray."""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hm4sr.errors import UserError

if TYPE_CHECKING:
    from hm4sr.serving.batch import BatchConfig
    from hm4sr.serving.source import Source


def answer_with_ray(
    source: "Source", config: "BatchConfig", parts: Sequence[int], workers: int
) -> Iterator[tuple[int, bytes]]:
    """Give each part's number and Parquet file as soon as it is ready; each worker loads the run once.

    Raises:
        UserError: Ray is not installed or cannot be started, or a worker died.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.exceptions import RayError
        from ray.util import ActorPool
    except ImportError as error:
        raise UserError(
            "--workers needs ray: install it with `pip install 'hm4sr[distributed]'`, or leave --workers out."
        ) from error
    from hm4sr.serving.batch import Answerer

    _start(ray, workers)
    try:
        worker = ray.remote(num_cpus=1)(Answerer)
        pool = ActorPool([worker.remote(source, config) for _ in range(workers)])
        yield from pool.map_unordered(lambda actor, part: actor.part.remote(part), list(parts))
    except UserError:
        raise
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"a worker failed ({reason}): start again with fewer --workers; what was finished is kept."
        ) from error
    finally:
        ray.shutdown()


def _start(ray: "object", workers: int) -> None:
    """Join the cluster that RAY_ADDRESS names, or start `workers` processes here."""
    local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **local)  # type: ignore[attr-defined]
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"ray cannot be started ({reason}): leave --workers out, or mend RAY_ADDRESS."
        ) from error
