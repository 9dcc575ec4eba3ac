"""The lock of a folder or a file."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from hm4sr.errors import UserError
from hm4sr.files import locked

HOLD = """
import sys
from pathlib import Path
from hm4sr.files import locked
with locked(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["folder", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path if request.param == "folder" else tmp_path / ".lock"


def test_a_second_process_is_refused_until_the_first_is_killed(place: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=r"^busy here$"), locked(place, "busy here"):
            pass
        holder.kill()
        holder.wait()
        with locked(place, "busy"):
            assert place.exists()


def test_the_lock_is_free_after_an_error_within(place: Path) -> None:
    with pytest.raises(OSError, match="within"), locked(place, "busy"):
        raise OSError("within")
    with locked(place, "busy"):
        pass


def test_what_stands_in_the_locked_file_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("text")
    with locked(tmp_path / "kept", "busy"):
        pass
    assert (tmp_path / "kept").read_text() == "text"


def test_a_file_system_without_locks_keeps_nobody_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*arguments: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with locked(place, "busy"), locked(place, "busy"):
        pass
