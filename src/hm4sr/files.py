"""Files that are either whole or absent: temporary name, sync, rename; and sha256 manifests."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hm4sr.errors import UserError


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

    An existing folder at `path` is moved aside first and deleted after the swap, so that there is a whole
    folder under that name, the old or the new, at nearly every moment.

    Args:
        path: folder to create or replace.
        keep: names in the old folder that move into the new one, where that has none of the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            _sync(file)
        old = None
        if path.exists():
            old = path.with_name(f".{path.name}.old-{os.getpid()}")
            path.rename(old)
        temporary.rename(path)
        _sync(path.parent)
        if old is not None:
            for name in keep:
                if (old / name).exists() and not (path / name).exists():
                    (old / name).rename(path / name)
            shutil.rmtree(old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check the folder's name.") from error
    except ValueError as error:
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
        file = folder / name
        if not file.is_file():
            raise UserError(
                f"{file} is missing although the manifest lists it: the folder is damaged, make it anew."
            )
        if sha256(file) != expected:
            raise UserError(f"{file} has changed since it was written: the folder is damaged, make it anew.")


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
