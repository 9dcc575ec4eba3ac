"""Progress: a bar on terminals, lines elsewhere, and nothing unless it is asked for."""

import errno
import io
import logging
import sys
from collections.abc import Iterator

import pytest

from hm4sr import progress
from hm4sr.cli import cli, main
from hm4sr.cli.output import log_to_stdout
from hm4sr.errors import UserError
from hm4sr.progress import Progress, show_progress, track


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Other tests call commands in this process, which switch progress on."""
    show_progress(False)
    yield
    show_progress(False)


@pytest.fixture
def shown(quiet: None) -> None:
    show_progress(True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, as the tests say."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_library_code_says_nothing(capsys, clock):
    for _ in track(range(3), "work", 3):
        clock[0] += 60
    assert capsys.readouterr() == ("", "")


def test_lines_come_now_and_then_and_once_at_the_end(shown, clock, capsys):
    with Progress("rank", 1_000, "users") as bar:
        for _ in range(4):
            clock[0] += 6
            bar.advance(250)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "rank: 500/1,000 users, 41.7 users/s, 12 s left",
        "rank: 1,000/1,000 users, 41.7 users/s, 0 s left",
        "rank: 1,000/1,000 users, 41.7 users/s, 0 s left",
    ]


def test_short_work_and_work_that_fails_end_without_a_line(shown, clock, capsys):
    with Progress("short", 2) as bar:
        clock[0] += 5
        bar.advance(2)
    with pytest.raises(OSError, match="full"), Progress("fails", 2) as bar:
        raise OSError("full")
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_with_rate(shown, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("encode", 4, "texts") as bar:
        bar.advance(4)
    said = capsys.readouterr().err
    assert "encode" in said
    assert "4/4" in said
    assert "texts/s" in said


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("mend it."), 2, "hm4sr: mend it.\n"),
        (KeyboardInterrupt(), 130, "hm4sr: interrupted; what was finished is kept.\n"),
    ],
)
def test_what_ends_a_command_decides_on_its_exit_code(error, code, said, monkeypatch, capsys):
    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(cli, "main", fails)
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == code
    assert capsys.readouterr().err == said


def test_a_closed_pipe_ends_without_a_word():
    import subprocess

    command = "from hm4sr.cli import main, cli\ndef broken(*a, **k): raise BrokenPipeError\n"
    command += "cli.main = broken\nmain(['--help'])"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("verb", ["--help", "inspect"])
def test_a_reader_that_leaves_ends_a_command_as_a_broken_pipe(verb, tmp_path):
    import subprocess

    command = "from rich.console import Console\nfrom hm4sr.cli import main, cli\nimport sys\n"
    command += "def talks(*a, **k):\n    while True: Console(file=sys.stdout).print('x' * 9999)\n"
    command += "if sys.argv[1] == 'inspect': cli.main = talks\nmain(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", command, verb], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.close()
        assert writer.stderr.read() == b""
    assert writer.returncode == 141


def test_a_closed_standard_output_costs_nothing_but_the_words():
    import subprocess

    command = "import sys\nfrom hm4sr.cli import main\nfrom hm4sr.cli.output import print_metrics\n"
    command += "from hm4sr.cli import cli\n"
    command += "cli.main = lambda *a, **k: print_metrics({'test': {'ndcg@10': 0.5}})\nmain([])"
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -c "$1" >&-', sys.executable, command], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_log_lines_that_cannot_be_written_do_not_stop_the_work(capsys, monkeypatch):
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    log_to_stdout()
    logging.getLogger("hm4sr").info("epoch 1")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 8 EB"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."),
    ],
)
def test_too_little_memory_is_a_sentence(error, monkeypatch, capsys):
    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(cli, "main", fails)
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("hm4sr: there is not enough memory: ")


def test_other_errors_of_torch_are_not_taken_for_it(monkeypatch):
    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(cli, "main", fails)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["train"])


def test_an_unknown_command_is_a_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
