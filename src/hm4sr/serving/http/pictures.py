"""Small pictures of items, found by item id alone and encoded anew."""

import io
from functools import lru_cache
from pathlib import Path

from hm4sr.data.dataset import IMAGES, Dataset
from hm4sr.data.images import find_pictures
from hm4sr.errors import UserError
from hm4sr.features.pictures import PictureError, picture_key, read_picture

SIDE = 256
"""Longest side in pixels."""


class Pictures:
    """Pictures of the items of a data set; the newest few thousand stay in memory (about 10 kB each)."""

    def __init__(self, dataset: Dataset):
        noted = dataset.manifest["rules"].get("image_root")
        self._folders = [Path(noted or dataset.path).resolve(), (dataset.path / IMAGES).resolve()]
        try:
            self._files = find_pictures(dataset).paths
        except UserError:  # their folder is not here: the service answers without pictures
            self._files = []
        self.read = lru_cache(maxsize=2048)(self._read)

    def has(self, number: int) -> bool:
        """Whether the data set names a picture of item `number` (1..)."""
        return self._file(number) is not None

    def _file(self, number: int) -> Path | None:
        return self._files[number - 1] if number <= len(self._files) else None

    def _read(self, number: int) -> bytes | None:
        """A small JPEG of item `number` (1..); None without a picture that can be read.

        A file outside the folders of the pictures, the user's and that of the downloaded ones, is never read,
        whatever the data set says.
        """
        file = self._file(number)
        if file is None:
            return None
        try:
            path = file.resolve()
            if not any(path.is_relative_to(folder) for folder in self._folders):
                return None
            picture = read_picture(path, picture_key(path))
        except (PictureError, OSError, ValueError, ImportError):
            return None
        picture.thumbnail((SIDE, SIDE))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=82, optimize=True)
        return stream.getvalue()
