import hashlib
import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest

from hm4sr.errors import UserError
from hm4sr.features.cache import STALE_SECONDS, VectorCache

ENCODER = "ab" * 32


def keys(*names: str) -> list[bytes]:
    return [hashlib.sha256(name.encode()).digest() for name in names]


def filled(folder: Path, *names: str, value: float = 1.0) -> None:
    with VectorCache(folder, ENCODER) as cache:
        cache.add(keys(*names), np.full((len(names), 3), value, dtype=np.float32))


def test_vectors_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    with VectorCache(tmp_path, ENCODER) as cache:
        cache.add(keys("a", "b"), vectors[:2])
        cache.flush()
        cache.add(keys("c", "d"), vectors[2:])
    cache = VectorCache(tmp_path, ENCODER)
    assert len(cache) == 4
    assert keys("c")[0] in cache
    assert keys("e")[0] not in cache
    np.testing.assert_array_equal(cache.gather(keys("d", "a", "a")), vectors[[3, 0, 0]])


def test_what_was_added_before_an_error_is_kept(tmp_path: Path) -> None:
    def interrupted() -> None:
        with VectorCache(tmp_path, ENCODER) as cache:
            cache.add(keys("a"), np.ones((1, 3), dtype=np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert keys("a")[0] in VectorCache(tmp_path, ENCODER)


def test_another_encoder_sees_nothing(tmp_path: Path) -> None:
    filled(tmp_path, "a")
    assert len(VectorCache(tmp_path, "cd" * 32)) == 0


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "text"])
def test_a_damaged_shard_is_dropped_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, "a")
    filled(tmp_path, "b")
    shard = sorted(tmp_path.rglob("*.safetensors"))[0]
    content = shard.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    shard.write_bytes({"flipped": flipped, "cut": content[:-7], "empty": b"", "text": b"no tensors"}[damage])
    with caplog.at_level(logging.WARNING):
        cache = VectorCache(tmp_path, ENCODER)
    assert len(cache) == 1
    assert shard.name in caplog.text
    assert not shard.exists()


def test_only_old_temporary_files_are_removed(tmp_path: Path) -> None:
    filled(tmp_path, "a")
    folder = next(tmp_path.iterdir())
    old, young = folder / ".old.safetensors", folder / ".young.safetensors"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    long_ago = time.time() - STALE_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    assert len(VectorCache(tmp_path, ENCODER)) == 1
    assert not old.exists()
    assert young.exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be (written|read).*--cache"):
        filled(tmp_path / "file", "a")
