"""Encoders that need no download: hashed words and letters, and a classic picture descriptor.

Both look at one item at a time, so that a new item never changes the vectors of the others.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hm4sr.errors import UserError
from hm4sr.features.encoder import BUILTIN, Card, Encoded

if TYPE_CHECKING:
    from PIL.Image import Image

Floats = NDArray[np.float64]

TEXT_VERSION = 1
"""Counts changes of `BuiltinText` that change vectors; part of the cache's keys."""
TEXT_WIDTH = 256
TEXT_CHUNK = 1024

_SIGNS = 8
"""Places of a vector that a word or a group of letters moves, up or down: a sparse random projection."""
_LETTERS = (3, 4, 5)
_LETTERS_WEIGHT = 0.5
_COMMON_WEIGHT = 0.1
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for from has have he her his in into is it its not of on or out "
        "she that the their they this to up was when who will with you your",
    )
)

IMAGE_VERSION = 1
"""Counts changes of `BuiltinImage` that change vectors; part of the cache's keys."""
_SIDE = 64
_THUMBNAIL = 8
_HUES = 12
_GREYS = 4
_TURNS = 9
_CELLS = 4


class BuiltinText:
    """Words and groups of 3 to 5 letters, hashed to random signs (after Weinberger et al., ICML 2009).

    Without a corpus there are no document frequencies; English function words and short words count less
    instead. A repeated word counts 1 + log(repeats). Vectors have length 1.
    """

    def __init__(self) -> None:
        self.batch_size = TEXT_CHUNK
        self.card = Card.of(BUILTIN, {}, modality="text", width=TEXT_WIDTH, version=TEXT_VERSION)

    def encode(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Encoded]]:
        """Yield positions in `texts` and their vectors (n x 256)."""
        for start in range(0, len(texts), TEXT_CHUNK):
            chunk = texts[start : start + TEXT_CHUNK]
            words: dict[str, Floats] = {}
            vectors = np.stack([self._text(text, words) for text in chunk])
            yield list(range(start, start + len(chunk))), Encoded(vectors.astype(np.float32))

    def _text(self, text: str, words: dict[str, Floats]) -> Floats:
        # A text of signs alone has no words; its letters still tell it from another.
        counts = Counter(re.findall(r"\w+", text.lower()) or [text])
        total = np.zeros(TEXT_WIDTH)
        for word, count in counts.items():
            if word not in words:
                words[word] = _word(word)
            total += (1.0 + math.log(count)) * words[word]
        return _unit(total)


class BuiltinImage:
    """Colours, coarse layout, edge directions and fineness of a picture, each pooled over a grid.

    Blocks: an 8 x 8 thumbnail in YCbCr; histograms of hue and grey over the whole and its quarters;
    histograms of gradient directions over 4 x 4 cells (after Dalal & Triggs, CVPR 2005); detail at three
    scales over 4 x 4 cells. Each block has length 1.

    Args:
        batch_size: pictures in a batch.

    Raises:
        UserError: Pillow is not installed.
    """

    def __init__(self, batch_size: int):
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"--image {BUILTIN} needs pillow to open pictures: install it with "
                "`pip install 'hm4sr[features]'`."
            ) from error
        self.batch_size = batch_size
        self.card = Card.of(BUILTIN, {}, modality="image", version=IMAGE_VERSION)

    def prepare(self, picture: "Image") -> Floats:
        """Vector of an RGB picture (F)."""
        from PIL.Image import Resampling

        small = picture.resize((_SIDE, _SIDE), Resampling.BILINEAR, reducing_gap=3.0)
        thumbnail = small.resize((_THUMBNAIL, _THUMBNAIL), Resampling.BOX).convert("YCbCr")
        layout = np.asarray(thumbnail, dtype=np.float64).ravel() / 255.0 - 0.5
        grey = np.asarray(small.convert("L"), dtype=np.float64) / 255.0
        colours = _colour_histograms(np.asarray(small.convert("HSV"), dtype=np.float64) / 255.0)
        return np.concatenate([_unit(block) for block in (layout, colours, _edges(grey), _detail(grey))])

    def encode(self, prepared: Sequence[NDArray[np.generic]]) -> Encoded:
        """Vectors of a batch (n x F)."""
        return Encoded(np.stack(prepared).astype(np.float32))


def _word(word: str) -> Floats:
    padded = f"<{word}>"
    groups = [padded[at : at + n] for n in _LETTERS for at in range(len(padded) - n + 1) if n < len(padded)]
    vector = _random_signs(f"word {word}")
    if groups:
        letters = sum((_random_signs(group) for group in groups), np.zeros(TEXT_WIDTH))
        vector = vector + _LETTERS_WEIGHT * letters / math.sqrt(len(groups))
    weight = _COMMON_WEIGHT if word in _COMMON else 1.0
    return weight * math.sqrt(min(1.0, len(word) / 6.0)) * vector


def _random_signs(feature: str) -> Floats:
    """A vector of expected length 1 that depends on nothing but the feature."""
    digest = hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=4 * _SIGNS).digest()
    draws = np.frombuffer(digest, dtype="<u4")
    signs = np.where(draws >> 31, 1.0, -1.0) / math.sqrt(_SIGNS)
    return np.bincount(draws % TEXT_WIDTH, weights=signs, minlength=TEXT_WIDTH).astype(np.float64)


def _colour_histograms(hsv: Floats) -> Floats:
    """Hues weighted by how colourful a pixel is, greys by how little; the whole picture and its quarters."""
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    colourful = saturation * value
    bins = np.minimum((hue * _HUES).astype(np.int64), _HUES - 1)
    greys = np.minimum((value * _GREYS).astype(np.int64), _GREYS - 1)
    half = _SIDE // 2
    whole = (slice(None), slice(None))
    quarters = [(slice(y, y + half), slice(x, x + half)) for y in (0, half) for x in (0, half)]
    parts = []
    for place in (whole, *quarters):
        hues = np.bincount(bins[place].ravel(), weights=colourful[place].ravel(), minlength=_HUES)
        light = np.bincount(greys[place].ravel(), weights=1.0 - colourful[place].ravel(), minlength=_GREYS)
        # The root keeps one large ground from hiding the rest (Hellinger distance).
        parts.append(_unit(np.sqrt(np.concatenate([hues, light]))))
    return np.concatenate(parts)


def _edges(grey: Floats) -> Floats:
    """Histograms of gradient directions, 9 over half a turn, in each of 4 x 4 cells."""
    vertical, horizontal = np.gradient(grey)
    strength = np.hypot(vertical, horizontal)
    turn = (np.arctan2(vertical, horizontal) / np.pi) % 1.0 * _TURNS
    low = np.floor(turn)
    share = turn - low
    cells = _cell_numbers() * _TURNS
    histogram = np.zeros(_CELLS * _CELLS * _TURNS)
    for step, weight in ((0, 1.0 - share), (1, share)):
        places = cells + (low.astype(np.int64) + step) % _TURNS
        histogram += np.bincount(places.ravel(), (strength * weight).ravel(), len(histogram))
    return np.sqrt(histogram)


def _detail(grey: Floats) -> Floats:
    """What smoothing over 2, 4 and 8 pixels takes from each cell: fine, medium and coarse patterns."""
    cells = _cell_numbers().ravel()
    parts = []
    finer = grey
    for step in (2, 4, 8):
        pooled = grey.reshape(_SIDE // step, step, _SIDE // step, step).mean((1, 3))
        smooth = pooled.repeat(step, 0).repeat(step, 1)
        parts.append(np.bincount(cells, ((finer - smooth) ** 2).ravel(), _CELLS * _CELLS))
        finer = smooth
    return np.sqrt(np.concatenate(parts))


def _cell_numbers() -> NDArray[np.int64]:
    line = np.arange(_SIDE) * _CELLS // _SIDE
    return line[:, None] * _CELLS + line[None, :]


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-12 else vector
