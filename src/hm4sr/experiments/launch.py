"""Training runs in processes of their own, one or several side by side.

Every run is the ordinary command `hm4sr train FILE --out FOLDER`. A process of its own gives each run its own
peak memory and its own threads, and a run that fails takes nothing else with it.
"""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hm4sr.config import to_toml
from hm4sr.errors import UserError
from hm4sr.training.checkpoint import saved_states
from hm4sr.training.settings import Experiment

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 10


@dataclass(frozen=True)
class Job:
    """One run to be trained.

    Attributes:
        experiment: its settings.
        path: its run folder.
        resume: continue what is there.
    """

    experiment: Experiment
    path: Path
    resume: bool = False


class _StoppedError(Exception):
    """The list was interrupted before this job was done."""


def run_jobs(jobs: Sequence[Job], workers: int, on_finished: Callable[[Path], None]) -> None:
    """Train all jobs, at most `workers` at a time; a failing one does not stop the others.

    A single worker shows its progress; several write to FOLDER.log beside the run folder. A run that another
    process is training already is waited for.

    Args:
        jobs: what to train.
        workers: processes side by side, each with cores / workers threads unless its settings say otherwise.
        on_finished: called with each finished run folder, in this thread.

    Raises:
        UserError: some failed; the message names them.
        KeyboardInterrupt: interrupted; the processes have been told to stop and have stopped.
    """
    if not jobs:
        return
    stop = threading.Event()
    failed = []
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(_train, job, workers, stop): job for job in jobs}
        try:
            for number, future in enumerate(_as_completed(running), start=1):
                job, problem = running[future], future.result()
                if problem is None:
                    on_finished(job.path)
                else:
                    failed.append(f"{job.path.name} ({problem})")
                done = "finished" if problem is None else "failed"
                logger.info("%s %s, %d of %d", job.path.name, done, number, len(jobs))
        except BaseException:
            stop.set()
            raise
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}: "
            "mend that and call again, what is finished is kept."
        )


def _as_completed(futures: Iterable[Future[str | None]]) -> Iterator[Future[str | None]]:
    """Futures as they are done. Wakes up now and then: a sleeping main thread may not notice Ctrl-C."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        yield from done


def _train(job: Job, workers: int, stop: threading.Event) -> str | None:
    """Train one job; returns what went wrong, or None."""
    locks = job.path.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with _only_one(locks / job.path.name, stop) as lock:
        if (job.path / "manifest.json").is_file():
            return None
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / f"{job.path.name}.toml"
            config.write_text(to_toml(job.experiment.resolved()), encoding="utf-8")
            command = [sys.executable, "-m", "hm4sr.cli", "train", str(config), "--out", str(job.path)]
            # What another process began meanwhile is continued like one's own.
            if job.resume or saved_states(job.path / "resume"):
                command.append("--resume")
            if workers == 1:
                code = _wait(command, None, lock, None, stop)
                return None if code == 0 else f"exit code {code}, see above"
            log = job.path.with_name(f"{job.path.name}.log")
            code = _wait(command, log, lock, max(1, _cores() // workers), stop)
            return None if code == 0 else f"{_last_line(log) or f'exit code {code}'}, see {log}"


def _wait(command: list[str], log: Path | None, lock: int, threads: int | None, stop: threading.Event) -> int:
    environment = dict(os.environ)
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "POLARS_MAX_THREADS": str(threads)}
    with log.open("ab") if log else nullcontext() as output:
        # In a group of its own, so that Ctrl-C reaches it once and from here. It holds the lock as long as it
        # lives, even if this process is killed.
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=(lock,),
            process_group=0,
        )
        while process.poll() is None:
            if stop.wait(_POLL_SECONDS):
                _end(process)
                raise _StoppedError
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C would; whole epochs are on disk, so that nothing is lost if it has to be harsher."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:  # a process started in the background may ignore Ctrl-C
        process.terminate()
        process.wait()


@contextmanager
def _only_one(path: Path, stop: threading.Event) -> Iterator[int]:
    """Hold the lock of a run folder, waiting for whoever trains it now; yields the lock's file descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    waiting = False
    try:
        while True:
            if stop.is_set():
                raise _StoppedError
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    logger.info("%s is being trained by another process: waiting for it", path.name)
                waiting = True
                stop.wait(_POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("hm4sr: ") if lines else ""
