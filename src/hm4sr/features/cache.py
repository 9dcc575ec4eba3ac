"""Vectors by content: what was encoded once is never encoded again.

    CACHE/<start of the encoder's key>/<name>.safetensors    "keys" (n x 32, uint8), "vectors" (n x F),
                                                             "levels" (n x J x F, float16) where kept

A shard is written whole under a name made of its keys and never changed, so that an interrupted run continues
where it stopped and two runs may share a folder. A shard that is damaged is set aside, not believed.
"""

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hm4sr.errors import UserError
from hm4sr.files import atomic_file

logger = logging.getLogger(__name__)

KEY_BYTES = 32
_COLUMNS = ("vectors", "levels")
SHARD_ROWS = 4096
SHARD_SECONDS = 20.0
"""A shard is written after so many vectors or seconds: the most that a kill can cost."""
STALE_SECONDS = 3600.0


class VectorCache:
    """The vectors of one encoder, keyed by the sha256 of what they were made from.

    Use it as a context: leaving it, by an error or Ctrl-C too, writes what was added.

    Args:
        folder: where all encoders keep their vectors; made when the first shard is written.
        encoder: the encoder's key, hexadecimal. Different settings or weights have another key.

    Raises:
        UserError: the folder cannot be read.
    """

    def __init__(self, folder: Path, encoder: str):
        self.folder = folder / encoder[:16]
        self._encoder = encoder
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._new: dict[bytes, tuple[NDArray[np.generic], ...]] = {}
        self._last_write = time.monotonic()
        try:
            self._read_keys()
        except OSError as error:
            raise UserError(
                f"the cache {folder} cannot be read ({error.strerror}): give another folder with --cache."
            ) from error

    def __enter__(self) -> "VectorCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    def __contains__(self, key: bytes) -> bool:
        return key in self._places or key in self._new

    def __len__(self) -> int:
        return len(self._places) + len(self._new)

    def add(
        self,
        keys: Iterable[bytes],
        vectors: NDArray[np.generic],
        levels: NDArray[np.generic] | None = None,
    ) -> None:
        """Remember one vector for each key, and its levels; now and then they are written.

        Raises:
            UserError: the folder cannot be written.
        """
        rows = zip(vectors, strict=True) if levels is None else zip(vectors, levels, strict=True)
        self._new.update(zip(keys, rows, strict=True))
        if len(self._new) >= SHARD_ROWS or time.monotonic() - self._last_write >= SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added as one shard.

        Raises:
            UserError: the folder cannot be written.
        """
        self._last_write = time.monotonic()
        if not self._new:
            return
        keys = np.frombuffer(b"".join(self._new), dtype=np.uint8).reshape(-1, KEY_BYTES)
        columns = [np.stack(column) for column in zip(*self._new.values(), strict=True)]
        tensors = dict(zip(_COLUMNS, columns, strict=False))
        path = self.folder / f"{hashlib.sha256(keys.tobytes()).hexdigest()[:32]}.safetensors"
        about = {"encoder": self._encoder, "sha256": _checksum(keys, *columns)}
        try:
            with atomic_file(path) as temporary:
                save_file({"keys": keys, **tensors}, temporary, metadata=about)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the cache {self.folder} cannot be written ({error}): make room, or give another folder "
                "with --cache."
            ) from error
        self._places.update((key, (path, row)) for row, key in enumerate(self._new))
        self._new.clear()

    def gather(self, keys: Sequence[bytes], column: str = "vectors") -> NDArray[np.generic]:
        """Vectors of the given keys, in their order (n x F), or their "levels" (n x J x F).

        Raises:
            KeyError: a key was never added.
        """
        self.flush()
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for position, key in enumerate(keys):
            path, row = self._places[key]
            wanted.setdefault(path, []).append((position, row))
        result: NDArray[np.generic] | None = None
        for path, places in wanted.items():
            with safe_open(path, framework="np") as file:
                values = file.get_tensor(column)
            if result is None:
                result = np.empty((len(keys), *values.shape[1:]), dtype=values.dtype)
            positions, rows = np.array(places).T
            result[positions] = values[rows]
        if result is None:
            raise KeyError("no keys")
        return result

    def _read_keys(self) -> None:
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name.startswith("."):
                _remove_if_stale(path)
                continue
            keys = self._verified_keys(path)
            self._places.update((key, (path, row)) for row, key in enumerate(keys))

    def _verified_keys(self, path: Path) -> list[bytes]:
        """Keys of a shard; none if its content is not what was written, and then it is removed."""
        try:
            with safe_open(path, framework="np") as file:
                about = file.metadata() or {}
                keys = file.get_tensor("keys")
                columns = [file.get_tensor(name) for name in _COLUMNS if name in file.keys()]  # noqa: SIM118
            whole = about.get("encoder") == self._encoder and about.get("sha256") == _checksum(keys, *columns)
        except (SafetensorError, ValueError, KeyError, TypeError):
            whole = False
        if whole:
            return [row.tobytes() for row in keys]
        logger.warning("%s is damaged: its vectors are dropped and encoded again.", path)
        path.unlink(missing_ok=True)
        return []


def _checksum(keys: NDArray[np.generic], *columns: NDArray[np.generic]) -> str:
    shapes = " ".join(f"{column.shape} {column.dtype}" for column in columns)
    digest = hashlib.sha256(f"{keys.shape} {shapes}".encode())
    for column in (keys, *columns):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def _remove_if_stale(path: Path) -> None:
    """Remove what a run that was killed while it wrote left; a young file may still be written."""
    with contextlib.suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            path.unlink()
