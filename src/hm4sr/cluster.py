"""A Ray cluster to hand independent work to: joined, or started on this machine."""

import importlib.util
import os
import socket
from typing import Any

from hm4sr.errors import UserError

_RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 starves its workers wherever something else runs
}
_SECONDS_TO_ANSWER = 10
HERE = "local"
"""Address that starts Ray on this machine instead of joining a cluster."""


def require_ray(option: str) -> None:
    """Expect that Ray is installed.

    Args:
        option: what asked for it, for the message.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            f"{option} needs ray: install it with `pip install 'hm4sr[distributed]'`, or leave it out."
        )


def connect(address: str | None, workers: int) -> None:
    """Join the cluster at an address, or start one here with room for so many workers.

    Raises:
        UserError: no cluster answers there.
    """
    for setting, value in _RAY_SETTINGS.items():
        os.environ.setdefault(setting, value)
    import ray

    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address in (None, HERE):
        ray.init(address=HERE, num_cpus=max(workers, cores_here()), include_dashboard=False, **quiet)
        return
    try:
        _expect_answer(str(address))
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster answers at {address}, or it asks for another token: check --address and "
            "RAY_AUTH_TOKEN, or leave --address out to use this machine."
        ) from error


def _expect_answer(address: str) -> None:
    """Knock before Ray does, which waits for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()


def cores_each(workers: int) -> int:
    """Processor cores of a worker, so that all workers find a place; Ray gives torch as many threads.

    Raises:
        UserError: the cluster has fewer cores than workers.
    """
    import ray

    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if sum(nodes) < workers:
        raise UserError(f"the Ray cluster has {sum(nodes)} cores: give at most as many --workers.")
    cores = max(nodes)
    while cores > 1 and sum(count // cores for count in nodes) < workers:
        cores -= 1
    return cores


def cores_here() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
