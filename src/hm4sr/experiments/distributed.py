"""The same training processes as tasks of a Ray cluster; Ray decides which machine takes which.

Data sets, run folders and hm4sr itself must be found under the same paths on every machine; a machine where
they are not says so. A task starts the ordinary process there, under the same locks.
"""

import os
import socket
import threading
from collections.abc import Iterable
from typing import Any, TypeVar

import hm4sr
from hm4sr.cluster import connect, cores_each, require_ray
from hm4sr.errors import UserError
from hm4sr.experiments.launch import Outcomes, Task, UnfinishedError

T = TypeVar("T", bound=Task)

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 30
_RETRIES = 1
"""A task whose machine is lost starts once more elsewhere and goes on after its last whole epoch."""


def run_on_cluster(tasks: Iterable[T], workers: int, address: str) -> Outcomes[T]:
    """Run tasks on a cluster, at most `workers` at a time; gives each, as it ends, with what went wrong.

    Raises:
        UserError: Ray is not installed, its cluster cannot be reached or is too small.
        KeyboardInterrupt: interrupted; the tasks have been told to stop, and have stopped unless their
            machine no longer answers.
    """
    require_ray("--address")
    import ray
    from ray.exceptions import RayError

    ours = not ray.is_initialized()
    running: dict[Any, T] = {}
    try:
        if ours:
            connect(address, workers)
        cores = cores_each(workers)
        start = ray.remote(max_retries=_RETRIES)(run_there)
        source = iter(tasks)
        while True:
            while len(running) < workers and (task := next(source, None)) is not None:
                needs = start.options(num_cpus=cores, num_gpus=int(task.device.startswith("cuda")))
                running[needs.remote(task, cores, os.getcwd(), hm4sr.__version__)] = task  # noqa: PTH109
            if not running:
                return
            done, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
            for reference in done:
                task = running.pop(reference)
                try:
                    problem = ray.get(reference)
                except RayError as error:
                    problem = f"its worker failed: {str(error).strip().splitlines()[-1]}"
                yield task, problem
    finally:
        if running:
            for reference in running:
                ray.cancel(reference)
            ray.wait(list(running), num_returns=len(running), timeout=_PATIENCE_SECONDS)
        if ours and ray.is_initialized():
            ray.shutdown()


def run_there(task: Task, threads: int, folder: str, version: str) -> str | None:
    """Run a task on the machine that Ray chose; returns what went wrong, or None.

    Args:
        task: what to run.
        threads: processor cores that Ray keeps for it.
        folder: current folder of the process that asked, which relative paths begin at.
        version: of hm4sr there.
    """
    host = socket.gethostname()
    if hm4sr.__version__ != version:
        return f"{host} has hm4sr {hm4sr.__version__} instead of {version}: install the same everywhere"
    try:
        os.chdir(folder)
    except OSError:
        return f"{folder} is not there on {host}: start from a folder that all machines share"
    try:
        return task.run(threads, threading.Event())
    except UserError as error:
        return str(error).rstrip(".")
    except UnfinishedError:
        return "it was stopped"
