"""Training runs in processes of their own: one, several side by side, or on a Ray cluster.

Every run is the ordinary command `hm4sr train FILE --out FOLDER`. A process of its own gives each run its own
peak memory and its own threads, and a run that fails takes nothing else with it.
"""

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from hm4sr.cluster import cores_here as _cores
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

    @property
    def device(self) -> str:
        """Where it is trained, as its settings say."""
        return self.experiment.train.device


class Task(Protocol):
    """A process to run somewhere; it must survive being sent to another machine."""

    @property
    def device(self) -> str:
        """Device that it needs, as `train.device` says."""

    def run(self, threads: int | None, stop: threading.Event) -> str | None:
        """Run it to its end; returns what went wrong, or None.

        Args:
            threads: of the processor; None where it has this terminal and all threads to itself.
            stop: set when it is to stop early.
        """


T = TypeVar("T", bound=Task)
Outcomes = Generator[tuple[T, str | None], None, None]
"""Each task as it ends, with what went wrong, or None."""


class UnfinishedError(Exception):
    """The work was interrupted before this task was done."""


def run_jobs(
    jobs: Sequence[Job], workers: int, on_finished: Callable[[Path], None], address: str | None = None
) -> None:
    """Train all jobs, at most `workers` at a time; a failing one does not stop the others.

    A single worker shows its progress; several write to FOLDER.log beside the run folder. A run that another
    process is training already is waited for.

    Args:
        jobs: what to train.
        workers: processes side by side, each with cores / workers threads unless its settings say otherwise.
        on_finished: called with each finished run folder, in this thread.
        address: of a Ray cluster that trains them; None trains them here.

    Raises:
        UserError: some failed; the message names them. Or Ray is missing, or its cluster does not answer.
        KeyboardInterrupt: interrupted; the processes have been told to stop and have stopped.
    """
    if not jobs:
        return
    failed = []
    for job in jobs:
        _locks(job).mkdir(parents=True, exist_ok=True)
    with closing(side_by_side([Training(job) for job in jobs], workers, address)) as done:
        for number, (task, problem) in enumerate(done, start=1):
            job = task.job
            if problem is None:
                on_finished(job.path)
            else:
                failed.append(f"{job.path.name} ({problem})")
            told = "finished" if problem is None else "failed"
            logger.info("%s %s, %d of %d", job.path.name, told, number, len(jobs))
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}: "
            "mend that and call again, what is finished is kept."
        )


def side_by_side(tasks: Iterable[T], workers: int, address: str | None) -> Outcomes[T]:
    """Run tasks in processes, at most `workers` at a time; gives each, as it ends, with what went wrong.

    The next task is asked for when a worker is free, so that it may depend on those that ended. Closing the
    iterator, or an interruption, ends what is running.

    Raises:
        UserError: Ray is missing, or its cluster does not answer.
    """
    if address is not None:
        from hm4sr.experiments.distributed import run_on_cluster

        return run_on_cluster(tasks, workers, address)
    return _run_here(tasks, workers)


def _run_here(tasks: Iterable[T], workers: int) -> Outcomes[T]:
    threads = None if workers == 1 else max(1, _cores() // workers)
    stop, source = threading.Event(), iter(tasks)
    running: dict[Future[str | None], T] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(running) < workers and (task := next(source, None)) is not None:
                    running[pool.submit(task.run, threads, stop)] = task
                if not running:
                    return
                # Wakes up now and then: a sleeping main thread may not notice Ctrl-C.
                done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        except BaseException:
            stop.set()
            raise


@dataclass(frozen=True)
class Training:
    """A job as a task: `hm4sr train` in a process of its own, under the lock of its run folder."""

    job: Job

    @property
    def device(self) -> str:
        """Where it is trained, as its settings say."""
        return self.job.device

    def run(self, threads: int | None, stop: threading.Event) -> str | None:
        """Train it; returns what went wrong, or None."""
        job = self.job
        if not _locks(job).is_dir():
            return f"{job.path.parent} is not there on {socket.gethostname()}: all machines must share it"
        with only_one(_locks(job) / job.path.name, stop) as lock:
            if (job.path / "manifest.json").is_file():
                return None
            with tempfile.TemporaryDirectory() as folder:
                config = Path(folder) / f"{job.path.name}.toml"
                config.write_text(to_toml(job.experiment.resolved()), encoding="utf-8")
                command = [sys.executable, "-m", "hm4sr.cli", "train", str(config), "--out", str(job.path)]
                # What another process began meanwhile is continued like one's own.
                if job.resume or saved_states(job.path / "resume"):
                    command.append("--resume")
                log = job.path.with_name(f"{job.path.name}.log")
                return run_process(command, lock, log, threads, stop)


def _locks(job: Job) -> Path:
    return job.path.parent / ".locks"


def run_process(
    command: list[str], lock: int, log: Path, threads: int | None, stop: threading.Event
) -> str | None:
    """Run a command to its end; returns what went wrong, or None.

    Args:
        command: program and arguments.
        lock: file descriptor that the process holds as long as it lives.
        log: file for what it says, unless it has the terminal.
        threads: of the processor; None where it has this terminal and all threads to itself.
        stop: ends it when set.
    """
    if threads is None:
        code = _wait(command, None, lock, None, stop)
        return None if code == 0 else f"{_ending(code)}, see above"
    code = _wait(command, log, lock, threads, stop)
    told = _last_line(log) if code > 0 else ""  # what is killed has not said why
    return None if code == 0 else f"{told or _ending(code)}, see {log}"


def _ending(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"exit code {code}"
    why = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
    return f"killed by signal {-code}{why}"


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
        try:
            while process.poll() is None:
                if stop.wait(_POLL_SECONDS):
                    raise UnfinishedError
        finally:  # on a cluster the interruption comes as KeyboardInterrupt
            if process.poll() is None:
                _end(process)
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C would; whole epochs are on disk, so that nothing is lost if it has to be harsher."""
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # as under Ray; it is inherited
    process.send_signal(signal.SIGTERM if blocked else signal.SIGINT)
    try:
        process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:  # a process started in the background may ignore Ctrl-C
        process.terminate()
        process.wait()


@contextmanager
def only_one(path: Path, stop: threading.Event, what: str | None = None) -> Iterator[int]:
    """Hold a lock, waiting for whoever has it now; yields its file descriptor.

    A file system without locks keeps nobody out.

    Args:
        path: the file to lock, made if it is not there.
        stop: ends the waiting when set.
        what: what is being trained, for people; the name of the file for None.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    waiting = False
    try:
        while True:
            if stop.is_set():
                raise UnfinishedError
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    logger.info("%s is being trained by another process: waiting for it", what or path.name)
                waiting = True
                stop.wait(_POLL_SECONDS)
            except OSError:  # no locks here
                break
        yield descriptor
    finally:
        os.close(descriptor)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("hm4sr: ").removesuffix(".") if lines else ""
