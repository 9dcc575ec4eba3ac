"""Small pictures of items, found by item id alone and encoded anew."""

import io
from functools import lru_cache
from pathlib import Path

from hm4sr.data.dataset import Dataset
from hm4sr.features.pictures import PictureError, picture_key, read_picture

SIDE = 256
"""Longest side in pixels."""


class Pictures:
    """Pictures of the items of a data set; the newest few thousand stay in memory (about 10 kB each)."""

    def __init__(self, dataset: Dataset):
        noted = dataset.manifest["rules"].get("image_root")
        self._root = Path(noted or dataset.path).resolve()
        self._files: list[str | None] = dataset.items["image"].to_list()
        self.read = lru_cache(maxsize=2048)(self._read)

    def has(self, number: int) -> bool:
        """Whether the data set names a picture of item `number` (1..)."""
        return number <= len(self._files) and bool(self._files[number - 1])

    def _read(self, number: int) -> bytes | None:
        """A small JPEG of item `number` (1..); None without a picture that can be read.

        A file outside the folder of the pictures is never read, whatever the data set says.
        """
        if not self.has(number):
            return None
        try:
            path = (self._root / str(self._files[number - 1])).resolve()
            if not path.is_relative_to(self._root):
                return None
            picture = read_picture(path, picture_key(path))
        except (PictureError, OSError, ValueError, ImportError):
            return None
        picture.thumbnail((SIDE, SIDE))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=82, optimize=True)
        return stream.getvalue()
