"""Picture files, read with suspicion and never written: out comes a picture or the reason why not."""

import hashlib
import io
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hm4sr.errors import UserError
from hm4sr.files import reason

if TYPE_CHECKING:
    from PIL.Image import Image

S = TypeVar("S")
R = TypeVar("R")

MAX_BYTES = 256 * 1024 * 1024
MAX_PIXELS = 64_000_000
"""A larger picture is taken for a decompression bomb: decoded it would need a gigabyte in some modes."""
MAX_RATIO = 16
"""Longest side over shortest; more is cut off around the centre, or scaling up would fill the memory."""
MIN_SIDE = 8
"""Smaller pictures are enlarged: image processors take 1 or 3 rows of pixels for colour channels."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""What is opened. Others are left out on purpose: Pillow hands EPS to an outside program, and decodes an ICO
while it opens it, before its size is known."""


class PictureError(Exception):
    """Why a picture has no vector."""


def picture_key(path: Path) -> bytes:
    """sha256 of a picture's bytes.

    Raises:
        PictureError: there is no such file, it is empty, too large, or cannot be read.
    """
    try:
        if not path.is_file():
            raise PictureError("there is no such file")
        size = path.stat().st_size
        if size == 0:
            raise PictureError("the file is empty")
        if size > MAX_BYTES:
            raise PictureError(f"{size:,} bytes exceed the limit of {MAX_BYTES:,}")
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except (OSError, ValueError) as error:
        raise PictureError(f"cannot be read ({reason(error)})") from error


def read_picture(path: Path, key: bytes) -> "Image":
    """First frame of a picture in RGB, upright, on white where it is transparent; at least 8 x 8 pixels.

    Args:
        path: the file.
        key: sha256 of the content that is expected.

    Raises:
        PictureError: it is damaged, not a picture, too large, or has changed.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        data = path.read_bytes()
        if hashlib.sha256(data).digest() != key:
            raise PictureError("the file has changed while it was read")
        with Image.open(io.BytesIO(data), formats=_known_formats()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PictureError(f"{width:,} x {height:,} pixels exceed the limit of {MAX_PIXELS:,}")
            image.load()
            upright = _upright(image, ImageOps.exif_transpose)
            return _bounded(_rgb(upright))
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"its pixels exceed the limit of {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        raise PictureError("not a picture of a known format") from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise PictureError(f"damaged ({reason(error)})") from error


def read_ahead(
    function: Callable[[S], R], values: Iterable[S], threads: int, depth: int
) -> Iterator[tuple[S, R | PictureError]]:
    """Apply a function in threads, in order, at most `depth` values ahead of the consumer.

    Yields:
        each value with its result, or with the PictureError that it raised.
    """
    waiting: deque[tuple[S, Future[R]]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(threads, "pictures") as pool:
        warnings.simplefilter(
            "ignore"
        )  # Pillow's own about large or odd files; filters are global to threads
        try:
            for value in values:
                waiting.append((value, pool.submit(function, value)))
                if len(waiting) >= depth:
                    value, future = waiting.popleft()
                    yield value, _result(future)
            while waiting:
                value, future = waiting.popleft()
                yield value, _result(future)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def prepared(path: Path, key: bytes, prepare: Callable[["Image"], R]) -> R:
    """Read a picture and prepare it for an encoder.

    Raises:
        PictureError: the picture cannot be read, or the encoder's image processor rejects it.
    """
    picture = read_picture(path, key)
    try:
        return prepare(picture)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise PictureError(f"rejected by the image processor ({reason(error)})") from error


def _result(future: "Future[Any]") -> Any:
    try:
        return future.result()
    except PictureError as error:
        return error


def _known_formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _upright(image: "Image", transpose: Callable[..., Any]) -> "Image":
    try:
        turned: Image = transpose(image)
        return turned
    except Exception:  # a damaged EXIF block is no reason to lose the picture
        return image


def _rgb(image: "Image") -> "Image":
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: "Image") -> "Image":
    """16-bit and floating point greys, whose range Pillow's own conversion would cut off at 255."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) * 255.0 if high > low else np.zeros_like(values)
    return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8), "L")


def _bounded(image: "Image") -> "Image":
    from PIL import Image

    width, height = image.size
    long, short = max(width, height), min(width, height)
    if long > MAX_RATIO * short:
        cut = MAX_RATIO * short
        left, top = max(0, (width - cut) // 2), max(0, (height - cut) // 2)
        image = image.crop((left, top, left + min(width, cut), top + min(height, cut)))
        width, height = image.size
    if short < MIN_SIDE:
        factor = -(-MIN_SIDE // short)
        image = image.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    return image
