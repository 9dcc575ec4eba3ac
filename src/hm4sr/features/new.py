"""Vectors of texts and pictures that came later, by the encoder that made a data set's features."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hm4sr.errors import UserError
from hm4sr.features.builtin import BuiltinImage, BuiltinText
from hm4sr.features.encoder import BUILTIN, Card, ImageEncoder, Pooling, Precision, TextEncoder
from hm4sr.features.image import PretrainedImage
from hm4sr.features.pictures import PictureError, picture_key, prepared
from hm4sr.features.text import PretrainedText
from hm4sr.types import ItemFeatures

_BATCH = 16


def encode_texts(
    manifest: Mapping[str, Any], width: int, texts: Sequence[str | None], encoder: str | None = None
) -> ItemFeatures:
    """Vectors of texts; row 0, as everywhere, is padding.

    Args:
        manifest: of the features that the vectors are to stand beside.
        width: of the vectors (F).
        texts: one for each item; None or blank where there is none.
        encoder: folder or name of the encoder, if not the one noted in the manifest.

    Raises:
        UserError: the encoder is not to be had, or is another one than made the features.
    """
    rows = [row for row, text in enumerate(texts, start=1) if text and text.strip()]
    given = [text for text in texts if text and text.strip()]
    vectors = np.zeros((len(texts) + 1, width), dtype=np.float32)
    if rows:
        with_same = _text_encoder(manifest, encoder)
        for places, found in with_same.encode(given):
            vectors[[rows[place] for place in places]] = found
    return _as_stored(manifest, vectors, rows)


def encode_pictures(
    manifest: Mapping[str, Any], width: int, paths: Sequence[Path | None], encoder: str | None = None
) -> ItemFeatures:
    """Vectors of pictures; row 0, as everywhere, is padding.

    Args:
        manifest: of the features that the vectors are to stand beside.
        width: of the vectors (F).
        paths: one for each item; None where there is none.
        encoder: folder or name of the encoder, if not the one noted in the manifest.

    Raises:
        UserError: a picture cannot be read, the encoder is not to be had, or is another one than made the
            features.
    """
    given = [(row, path) for row, path in enumerate(paths, start=1) if path is not None]
    vectors = np.zeros((len(paths) + 1, width), dtype=np.float32)
    if given:
        with_same = _image_encoder(manifest, encoder)
        for first in range(0, len(given), _BATCH):
            batch = given[first : first + _BATCH]
            vectors[[row for row, _ in batch]] = with_same.encode(
                [_picture(path, with_same) for _, path in batch]
            )
    return _as_stored(manifest, vectors, [row for row, _ in given])


def _picture(path: Path, encoder: ImageEncoder) -> NDArray[Any]:
    try:
        return prepared(path, picture_key(path), encoder.prepare)
    except PictureError as error:
        raise UserError(f"picture {path}: {error}: mend it, or leave the item's picture out.") from error


def _as_stored(manifest: Mapping[str, Any], vectors: NDArray[np.float32], rows: list[int]) -> ItemFeatures:
    """With the precision of the stored vectors, so that an item does not depend on when it came."""
    present = np.zeros(len(vectors), dtype=np.bool_)
    present[rows] = True
    return ItemFeatures(
        torch.from_numpy(vectors.astype(manifest.get("dtype", "float32"))), torch.from_numpy(present)
    )


def _text_encoder(manifest: Mapping[str, Any], name: str | None) -> TextEncoder:
    with _here(manifest, name) as (name, pooling, precision):
        encoder: TextEncoder = (
            BuiltinText() if name == BUILTIN else PretrainedText(name, pooling, precision, _BATCH)
        )
    _expect_same(manifest, encoder.card)
    return encoder


def _image_encoder(manifest: Mapping[str, Any], name: str | None) -> ImageEncoder:
    with _here(manifest, name) as (name, pooling, precision):
        encoder: ImageEncoder = (
            BuiltinImage(_BATCH) if name == BUILTIN else PretrainedImage(name, pooling, precision, _BATCH)
        )
    _expect_same(manifest, encoder.card)
    return encoder


@contextlib.contextmanager
def _here(manifest: Mapping[str, Any], name: str | None) -> Iterator[tuple[str, Pooling, Precision]]:
    """Name and settings of the encoder; whatever keeps it from being used becomes one sentence."""
    noted = name or str(manifest.get("encoder", "unknown"))
    settings = manifest.get("settings", {})
    try:
        yield noted, settings.get("pooling", "cls"), settings.get("precision", "float32")
    except UserError as error:
        raise UserError(
            f"the {manifest.get('name')} features were made by the encoder {noted}, which cannot be used "
            "here: name its place with encoders, or give vectors."
        ) from error


def _expect_same(manifest: Mapping[str, Any], card: Card) -> None:
    if card.key != manifest.get("key"):
        raise UserError(
            f"the encoder {card.name} is not the one that made the {manifest.get('name')} features "
            f"({manifest.get('encoder')}, maybe another version of it): give that one with encoders, "
            "or vectors."
        )
