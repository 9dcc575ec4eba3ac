"""What an encoder of item features is, whether it is pretrained or built in."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

BUILTIN = "builtin"
"""Name of the encoders that need no download."""

Modality = Literal["text", "image"]
Pooling = Literal["auto", "cls", "mean", "max", "last", "pooler", "projection"]
Precision = Literal["auto", "float32", "bfloat16"]
Vectors = NDArray[np.float32]
Levels = NDArray[np.float16]


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of a batch.

    Attributes:
        vectors: one for each text or picture (n x F).
        levels: [CLS] after each block (n x J x F), where they were asked for.
        start: [CLS] before the first block (F), the same for every text or picture.
    """

    vectors: Vectors
    levels: Levels | None = None
    start: Vectors | None = None


@dataclass(frozen=True)
class Card:
    """Who made a vector.

    Attributes:
        name: as the user wrote it: a folder, the name of a model on the hub, or "builtin".
        key: sha256, hexadecimal, of all that decides a vector: weights, settings, version of our code.
        about: settings for the manifest of the features.
    """

    name: str
    key: str
    about: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, content: Mapping[str, str], **settings: Any) -> "Card":
        """Card of an encoder made of the files `content` (name to sha256) with the given settings."""
        identity = json.dumps({"files": dict(content), **settings}, sort_keys=True)
        return cls(name, hashlib.sha256(identity.encode()).hexdigest(), settings)


class TextEncoder(Protocol):
    """Texts in, one vector each out. Nothing heavy is loaded before the first `encode`."""

    card: Card
    batch_size: int

    def encode(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Encoded]]:
        """Yield positions in `texts` and what was made of them, in whatever order is fast."""
        ...


class ImageEncoder(Protocol):
    """Pictures in, one vector each out. Nothing heavy is loaded before the first `prepare`."""

    card: Card
    batch_size: int

    def prepare(self, picture: "Image") -> NDArray[Any]:
        """What `encode` needs of an RGB picture; called from several threads."""
        ...

    def encode(self, prepared: Sequence[NDArray[Any]]) -> Encoded:
        """What is made of a batch."""
        ...
