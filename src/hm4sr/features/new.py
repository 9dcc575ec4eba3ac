"""Vectors of texts and pictures that came later, by the encoder that made a data set's features."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hm4sr.errors import UserError
from hm4sr.features.encoder import Card, Modality
from hm4sr.features.pictures import PictureError, picture_key
from hm4sr.features.settings import FeatureConfig
from hm4sr.features.work import Work, make_work
from hm4sr.types import ItemFeatures


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
    given = {str(row).encode(): text for row, text in enumerate(texts, start=1) if text and text.strip()}
    vectors = np.zeros((len(texts) + 1, width), dtype=np.float32)
    rows = [int(key) for key in given]
    if given:
        for part in _work(manifest, "text", encoder).run([given]):
            if part.encoded is not None:
                vectors[[int(key) for key in part.keys]] = part.encoded.vectors
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
    rows = [row for row, path in enumerate(paths, start=1) if path is not None]
    files = {row: path for row, path in enumerate(paths, start=1) if path is not None}
    keys = {row: _key(path) for row, path in files.items()}
    vectors = np.zeros((len(paths) + 1, width), dtype=np.float32)
    if rows:
        found: dict[bytes, NDArray[np.float32]] = {}
        for part in _work(manifest, "image", encoder).run([{keys[row]: files[row] for row in rows}]):
            if part.failed:
                key, reason = next(iter(part.failed.items()))
                raise _unreadable(next(files[row] for row in rows if keys[row] == key), reason)
            if part.encoded is not None:
                found |= dict(zip(part.keys, part.encoded.vectors, strict=True))
        vectors[rows] = np.stack([found[keys[row]] for row in rows])
    return _as_stored(manifest, vectors, rows)


def _key(path: Path) -> bytes:
    try:
        return picture_key(path)
    except PictureError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, reason: object) -> UserError:
    return UserError(f"picture {path}: {reason}: mend it, or leave the item's picture out.")


def _as_stored(manifest: Mapping[str, Any], vectors: NDArray[np.float32], rows: list[int]) -> ItemFeatures:
    """With the precision of the stored vectors, so that an item does not depend on when it came."""
    present = np.zeros(len(vectors), dtype=np.bool_)
    present[rows] = True
    return ItemFeatures(
        torch.from_numpy(vectors.astype(manifest.get("dtype", "float32"))), torch.from_numpy(present)
    )


def _work(manifest: Mapping[str, Any], modality: Modality, name: str | None) -> Work:
    """The encoder that made the features, with the settings of that time."""
    noted = name or str(manifest.get("encoder", "unknown"))
    settings = manifest.get("settings", {})
    chosen = {key: settings[key] for key in ("pooling", "layer", "levels", "precision") if key in settings}
    if "steps" in settings:  # its folder says how
        chosen["pooling"] = "auto"
    config = FeatureConfig.parse({modality: noted, **chosen}, "the features' manifest")
    try:
        work = make_work(config, modality)
    except UserError as error:
        raise UserError(
            f"the {manifest.get('name')} features were made by the encoder {noted}, which cannot be used "
            "here: name its place with encoders, or give vectors."
        ) from error
    _expect_same(manifest, work.card)
    return work


def _expect_same(manifest: Mapping[str, Any], card: Card) -> None:
    if card.key != manifest.get("key"):
        raise UserError(
            f"the encoder {card.name} is not the one that made the {manifest.get('name')} features "
            f"({manifest.get('encoder')}, maybe another version of it): give that one with encoders, "
            "or vectors."
        )
