"""From the items of a data set to their frozen vectors: find, look up, encode what is new, store, report.

Nothing is encoded twice: vectors are kept by the content of the text or picture they were made from.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hm4sr.config import Config
from hm4sr.data.dataset import Dataset
from hm4sr.data.images import Pictures, find_pictures
from hm4sr.errors import UserError
from hm4sr.features.cache import VectorCache
from hm4sr.features.encoder import BUILTIN, Card, ImageEncoder, Pooling, Precision, TextEncoder
from hm4sr.features.pictures import PictureError, picture_key, prepared, read_ahead
from hm4sr.features.report import Broken, Coverage
from hm4sr.progress import Progress

_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"


class FeatureConfig(Config):
    """What to encode, with what, and how."""

    text: str | None = None
    """Encoder of the texts: folder of a BERT-type model, its name on the hub, or builtin."""
    image: str | None = None
    """Encoder of the pictures: folder of a ViT-type model, its name on the hub, or builtin."""
    text_name: str = Field(default="text", pattern=f"^{_NAME}$")
    """Name of the text vectors in the data set."""
    image_name: str = Field(default="image", pattern=f"^{_NAME}$")
    """Name of the image vectors in the data set."""
    pooling: Pooling = "cls"
    """From the last layer to one vector: the class token, or the mean over real tokens or patches."""
    precision: Precision = "float32"
    """Arithmetic of pretrained encoders; bfloat16 is faster on CPUs that have it, and a little coarser."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the stored vectors."""
    text_batch: int = Field(default=64, ge=1)
    """Texts encoded at once."""
    image_batch: int = Field(default=16, ge=1)
    """Pictures encoded at once."""
    readers: int = Field(default=2, ge=1)
    """Threads that read and decode pictures."""
    image_root: Path | None = None
    """Folder that the pictures' paths are relative to; the one noted by `hm4sr prepare` if not given."""
    cache: Path | None = None
    """Folder of vectors by content, which data sets may share; DATASET/features/.cache if not given."""


def extract(dataset: Dataset, config: FeatureConfig) -> list[Coverage]:
    """Encode the texts and pictures of a data set's items and store their vectors.

    Returns:
        one report for each modality, text first.

    Raises:
        UserError: an encoder cannot be used, or the data set has nothing to encode for it. All encoders are
            checked before the first one starts.
    """
    if config.text is None and config.image is None:
        raise UserError(
            f"nothing to encode: give --text ENCODER, --image ENCODER or both ({BUILTIN} needs no download)."
        )
    if config.text is not None and config.image is not None and config.text_name == config.image_name:
        raise UserError(
            f"--text-name and --image-name are both {config.text_name!r}: give two different names."
        )
    texts = _texts(dataset) if config.text is not None else []
    pictures = _pictures(dataset, config) if config.image is not None else Pictures([], [])
    text_encoder = _text_encoder(config) if config.text is not None else None
    image_encoder = _image_encoder(config) if config.image is not None else None
    reports = []
    if text_encoder is not None:
        reports.append(_extract_texts(dataset, config, texts, text_encoder))
    if image_encoder is not None:
        reports.append(_extract_pictures(dataset, config, pictures, image_encoder))
    return reports


def _extract_texts(
    dataset: Dataset, config: FeatureConfig, texts: Sequence[str | None], encoder: TextEncoder
) -> Coverage:
    started = time.monotonic()
    keys = [None if text is None else hashlib.sha256(text.encode()).digest() for text in texts]
    sources = {key: text for key, text in zip(keys, texts, strict=True) if key and text}
    with _open_cache(dataset, config, encoder.card) as cache:
        # Longest first: little padding, and the time left is never underestimated.
        new = sorted((key for key in sources if key not in cache), key=lambda key: (-len(sources[key]), key))
        if new:
            with Progress(config.text_name, len(new), "texts") as progress:
                for rows, vectors in encoder.encode([sources[key] for key in new]):
                    cache.add((new[row] for row in rows), _stored(vectors, config, encoder.card))
                    progress.advance(len(rows))
    report = Coverage(
        name=config.text_name,
        modality="text",
        encoder=encoder.card.name,
        num_items=len(texts),
        missing=keys.count(None),
        encoded=len(new),
        cached=len(sources) - len(new),
        seconds=time.monotonic() - started,
    )
    return _store(dataset, config, report, encoder.card, cache, keys)


def _extract_pictures(
    dataset: Dataset, config: FeatureConfig, pictures: Pictures, encoder: ImageEncoder
) -> Coverage:
    started = time.monotonic()
    paths = pictures.paths
    given = {row: path for row, path in enumerate(paths) if path is not None}
    keys, reasons = _picture_keys(given, config)
    sources: dict[bytes, Path] = {}
    for row, key in keys.items():
        sources.setdefault(key, given[row])
    failed: dict[bytes, str] = {}
    with _open_cache(dataset, config, encoder.card) as cache:
        new = [key for key in sources if key not in cache]
        if new:
            with Progress(config.image_name, len(new), "pictures") as progress:
                for batch in _batches(new, sources, config, encoder, failed):
                    vectors = encoder.encode([values for _, values in batch])
                    cache.add((key for key, _ in batch), _stored(vectors, config, encoder.card))
                    progress.advance(len(batch))
                progress.advance(len(failed))
    reasons |= {row: failed[key] for row, key in keys.items() if key in failed}
    if len(reasons) == len(given):
        raise UserError(
            f"none of the {len(given):,} pictures of {dataset.path} could be read (first: "
            f"{given[min(given)]}, {reasons[min(reasons)]}): check the files, or give their place "
            "with --image-root."
        )
    reasons |= pictures.gaps
    ids = dataset.items["item_id"].to_list()
    broken = [Broken(ids[row], str(pictures.files[row]), reasons[row]) for row in sorted(reasons)]
    report = Coverage(
        name=config.image_name,
        modality="image",
        encoder=encoder.card.name,
        num_items=len(paths),
        missing=len(paths) - len(given) - len(pictures.gaps),
        encoded=len(new) - len(failed),
        cached=len(sources) - len(new),
        seconds=time.monotonic() - started,
        broken=broken,
    )
    return _store(dataset, config, report, encoder.card, cache, [keys.get(row) for row in range(len(paths))])


def _picture_keys(
    given: Mapping[int, Path], config: FeatureConfig
) -> tuple[dict[int, bytes], dict[int, str]]:
    """Content keys of the pictures by item, and the reasons of those that have none."""
    keys: dict[int, bytes] = {}
    reasons: dict[int, str] = {}
    with Progress(f"{config.image_name}: reading", len(given), "files") as progress:
        for row, key in read_ahead(lambda row: picture_key(given[row]), given, config.readers, 64):
            if isinstance(key, PictureError):
                reasons[row] = str(key)
            else:
                keys[row] = key
            progress.advance()
    return keys, reasons


def _batches(
    new: Sequence[bytes],
    sources: Mapping[bytes, Path],
    config: FeatureConfig,
    encoder: ImageEncoder,
    failed: dict[bytes, str],
) -> Iterator[list[tuple[bytes, NDArray[Any]]]]:
    """Pictures ready for the encoder, in batches; the reasons of broken ones go into `failed`."""
    batch: list[tuple[bytes, NDArray[Any]]] = []
    ready = read_ahead(
        lambda key: prepared(sources[key], key, encoder.prepare), new, config.readers, 2 * config.image_batch
    )
    for key, values in ready:
        if isinstance(values, PictureError):
            failed[key] = str(values)
            continue
        batch.append((key, values))
        if len(batch) == config.image_batch:
            yield batch
            batch = []
    if batch:
        yield batch


def _texts(dataset: Dataset) -> list[str | None]:
    texts = [text if text and text.strip() else None for text in dataset.items["text"].to_list()]
    if not any(texts):
        raise UserError(
            f"{dataset.path} has no texts: leave out --text, or prepare it from an items file with titles."
        )
    return texts


def _pictures(dataset: Dataset, config: FeatureConfig) -> Pictures:
    found = find_pictures(dataset, config.image_root)
    if not any(found.paths):
        if found.waiting or found.gaps:
            advice = "only their addresses: run `hm4sr download images` first, or leave out --image"
            raise UserError(f"{dataset.path} has no pictures yet, {advice}.")
        raise UserError(
            f"{dataset.path} has no pictures: leave out --image, or prepare it from an items file with the "
            "paths of pictures."
        )
    return found


def _text_encoder(config: FeatureConfig) -> TextEncoder:
    assert config.text is not None
    if config.text == BUILTIN:
        from hm4sr.features.builtin import BuiltinText

        return BuiltinText()
    from hm4sr.features.text import PretrainedText

    return PretrainedText(config.text, config.pooling, config.precision, config.text_batch)


def _image_encoder(config: FeatureConfig) -> ImageEncoder:
    assert config.image is not None
    if config.image == BUILTIN:
        from hm4sr.features.builtin import BuiltinImage

        return BuiltinImage(config.image_batch)
    from hm4sr.features.image import PretrainedImage

    return PretrainedImage(config.image, config.pooling, config.precision, config.image_batch)


def _open_cache(dataset: Dataset, config: FeatureConfig, card: Card) -> VectorCache:
    folder = config.cache or dataset.path / "features" / ".cache"
    return VectorCache(folder, hashlib.sha256(f"{card.key} {config.dtype}".encode()).hexdigest())


def _stored(vectors: NDArray[np.float32], config: FeatureConfig, card: Card) -> NDArray[np.generic]:
    stored = vectors.astype(config.dtype)
    if not np.isfinite(stored).all():
        raise UserError(
            f"encoder {card.name} gives numbers that are not finite in {config.dtype}: try --dtype float32, "
            "or download it again if its weights are damaged."
        )
    return stored


def _store(
    dataset: Dataset,
    config: FeatureConfig,
    report: Coverage,
    card: Card,
    cache: VectorCache,
    keys: Sequence[bytes | None],
) -> Coverage:
    """Write the vectors of all items with a key that is in the cache, and complete the report."""
    import torch

    from hm4sr.features.store import save_features
    from hm4sr.types import ItemFeatures

    rows = [row for row, key in enumerate(keys, start=1) if key is not None and key in cache]
    found = cache.gather([key for key in keys if key is not None and key in cache])
    vectors = np.zeros((len(keys) + 1, found.shape[1]), dtype=found.dtype)
    vectors[rows] = found
    present = np.zeros(len(keys) + 1, dtype=np.bool_)
    present[rows] = True
    report = replace(report, width=found.shape[1], present=len(rows))
    about = asdict(report) | {
        "rate": report.rate,
        "dtype": config.dtype,
        "key": card.key,
        "settings": dict(card.about),
    }
    features = ItemFeatures(torch.from_numpy(vectors), torch.from_numpy(present))
    try:
        save_features(dataset, report.name, features, about)
    except OSError as error:
        raise UserError(
            f"{dataset.path}/features cannot be written ({error.strerror}): make room, or check who may "
            "write there."
        ) from error
    return report
