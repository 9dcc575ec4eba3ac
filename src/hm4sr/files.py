"""Files that are either whole or absent: temporary name, sync, rename; and their content hashes."""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hm4sr.errors import UserError, WritingError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success sync it and rename it over `path`, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path, keep: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary sibling folder; on success it takes the place of `path`, else it is removed.

    An existing folder changes places with the new one and is deleted afterwards. On Linux that is one step:
    there is a whole folder under that name, the old or the new, at every moment. Elsewhere the old one is
    moved aside first.

    Args:
        path: folder to create or replace.
        keep: names in the old folder that move into the new one, where that has none of the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in [*temporary.rglob("*"), temporary]:
            _sync(file)
        old = None
        if path.exists():
            old = _exchange(temporary, path)
        else:
            temporary.rename(path)
        _sync(path.parent)
        if old is not None:
            for name in keep:
                if (old / name).exists() and not (path / name).exists():
                    (old / name).rename(path / name)
            shutil.rmtree(old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, path: Path) -> Path:
    """Put the folder `new` in the place of `path`; returns where the old one is now."""
    if sys.platform == "linux":
        try:
            renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        except (OSError, AttributeError):  # a C library that lacks it
            renameat2 = None
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if renameat2 and renameat2(here, os.fsencode(new), here, os.fsencode(path), exchange) == 0:
            return new
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(old)
    new.rename(path)
    return old


@contextlib.contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Keep a second process out; ends with this process, however that ends.

    A file system without locks keeps nobody out.

    Args:
        path: an existing folder, or a file, which is made if it is not there and stays.
        refusal: what a second process is told.

    Raises:
        UserError: another process is within this context.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(refusal) from error
        except OSError:  # no locks here
            pass
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
    """Within this context a full disk, missing rights and the like become one sentence.

    Args:
        path: what is being written, for the message.
        advice: what to do about it, without the full stop.

    Raises:
        WritingError: in the place of an OSError, or of a SafetensorError, which has the system's words in it.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise WritingError(f"{path} cannot be written ({reason(error)}): {advice}.") from error


def reason(error: BaseException) -> str:
    """Why the system refused, in its own words."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
    lines = said.splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files and folders that a killed process left beside the named ones.

    Call it only where no other process can be writing.
    """
    for name in names:
        for left in folder.glob(f".{name}.*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def finish_file(temporary: Path, path: Path) -> None:
    """Sync a finished file and rename it over `path`, in the same folder."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, cannot be read or is not JSON.
    """
    return parse_json(read_bytes(path), path)


def read_object(path: Path, required: Iterable[str] = ()) -> dict[str, Any]:
    """Read a JSON object that has these keys.

    Raises:
        UserError: the file is missing or is no such object.
    """
    value = read_json(path)
    missing = [] if isinstance(value, dict) else ["a pair of braces"]
    missing = missing or sorted(repr(key) for key in set(required) - value.keys())
    if missing:
        raise UserError(f"{path} lacks {missing[0]}: it is damaged, make it anew.")
    found: dict[str, Any] = value
    return found


def read_bytes(path: Path) -> bytes:
    """The content of a small file.

    Raises:
        UserError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the folder's name.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): check the path and the rights.") from error


def parse_json(content: bytes, path: Path) -> Any:
    """The value that UTF-8 bytes hold.

    Raises:
        UserError: they are not JSON; the message names the file `path`.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): it is damaged, make it anew.") from error


def sha256(path: Path) -> str:
    """Content hash of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(folder: Path, names: list[str]) -> dict[str, str]:
    """Content hashes of the named files of a folder, sorted by name."""
    return {name: sha256(folder / name) for name in sorted(names)}


def verify_files(folder: Path, hashes: dict[str, str]) -> None:
    """Compare the files of a folder with recorded hashes.

    Raises:
        UserError: a file is missing or its content differs; the message names it.
    """
    for name, expected in hashes.items():
        problem = difference(folder / name, expected)
        if problem:
            raise UserError(f"{folder / name} {problem}: the folder is damaged, make it anew.")


def difference(file: Path, expected: str) -> str:
    """What is wrong with a file that should have this sha256; an empty text if nothing is."""
    if not file.is_file():
        return "is missing although the manifest lists it"
    try:
        return "" if sha256(file) == expected else "has changed since it was written"
    except OSError as error:
        return f"cannot be read ({reason(error)})"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
