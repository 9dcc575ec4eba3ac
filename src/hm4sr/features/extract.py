"""From the items of a data set to their frozen vectors: find, look up, encode what is new, store, report.

Nothing is encoded twice: vectors are kept by the content of the text or picture they were made from.
"""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hm4sr.data.dataset import Dataset
from hm4sr.data.images import Pictures, find_pictures
from hm4sr.errors import UserError
from hm4sr.features.cache import VectorCache
from hm4sr.features.encoder import BUILTIN, Card, Encoded, Modality
from hm4sr.features.pictures import PictureError, picture_key, read_ahead
from hm4sr.features.report import Broken, Coverage
from hm4sr.features.settings import NAME_PATTERN, FeatureConfig
from hm4sr.features.work import UNIT_BATCHES, Finished, Unit, Work, make_work, split
from hm4sr.progress import Progress

_START = hashlib.sha256(b"what enters the first layer").digest()
"""Key of the encoder's own row in the cache: level 0, which is the same for every item."""


@dataclass(frozen=True)
class _Found:
    """Texts or pictures of a data set.

    Attributes:
        keys: content key of each item; None where there is nothing to encode.
        sources: text or path behind each key.
        reasons: why an item's picture could not be read, by row.
        gaps: why the address of an item's picture gave nothing, by row.
        files: pictures as messages should show them.
    """

    keys: list[bytes | None]
    sources: dict[bytes, Any]
    reasons: dict[int, str] = field(default_factory=dict)
    gaps: dict[int, str] = field(default_factory=dict)
    files: list[str | None] = field(default_factory=list)


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
    _check_names(config)
    texts = _texts(dataset) if config.text is not None else []
    pictures = _pictures(dataset, config) if config.image is not None else Pictures([], [])
    text_work = make_work(config, "text") if config.text is not None else None
    image_work = make_work(config, "image") if config.image is not None else None
    reports = []
    if text_work is not None:
        reports.append(_extract_texts(dataset, config, texts, text_work))
    if image_work is not None:
        reports.append(_extract_pictures(dataset, config, pictures, image_work))
    return reports


def _check_names(config: FeatureConfig) -> None:
    for option, encoder, name in (
        ("--text-name", config.text, config.text_name),
        ("--image-name", config.image, config.image_name),
    ):
        if encoder is not None:
            check_name(option, name)


def check_name(option: str, name: str) -> None:
    """Models keep the parts of a modality under its name, which must not be one of torch's, the ID's, or
    "time", which answers can leave out.

    Raises:
        UserError: it is, or it is no name of a folder.
    """
    from torch import nn

    if not re.fullmatch(NAME_PATTERN, name):
        raise UserError(f"{option} {name!r} is no name: take letters, digits, - and _.")
    if name in ("id", "time") or hasattr(nn.ModuleDict, name):
        raise UserError(f"{option} {name} would clash with a part of the models: give another name.")


def _extract_texts(
    dataset: Dataset, config: FeatureConfig, texts: Sequence[str | None], work: Work
) -> Coverage:
    started = time.monotonic()
    keys = [None if text is None else hashlib.sha256(text.encode()).digest() for text in texts]
    sources = {key: text for key, text in zip(keys, texts, strict=True) if key and text}
    # Longest first: little padding, and the time left is never underestimated.
    ordered = dict(sorted(sources.items(), key=lambda source: (-len(source[1]), source[0])))
    return _encode_and_store(dataset, config, "text", _Found(keys, ordered), work, started)


def _extract_pictures(dataset: Dataset, config: FeatureConfig, pictures: Pictures, work: Work) -> Coverage:
    started = time.monotonic()
    given = {row: path for row, path in enumerate(pictures.paths) if path is not None}
    keys, reasons = _picture_keys(given, config)
    sources: dict[bytes, Path] = {}
    for row, key in keys.items():
        sources.setdefault(key, given[row])
    in_order = [keys.get(row) for row in range(len(pictures.paths))]
    found = _Found(in_order, sources, reasons, pictures.gaps, pictures.files)
    return _encode_and_store(dataset, config, "image", found, work, started)


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


def _encode_and_store(
    dataset: Dataset, config: FeatureConfig, modality: Modality, found: _Found, work: Work, started: float
) -> Coverage:
    name = config.text_name if modality == "text" else config.image_name
    failed: dict[bytes, str] = {}
    with _open_cache(dataset, config, work.card) as cache:
        new = {key: source for key, source in found.sources.items() if key not in cache}
        units = split(new, UNIT_BATCHES * work.batch_size)
        with Progress(name, len(new), "texts" if modality == "text" else "pictures") as progress:
            for part in _run(config, modality, work, units):
                failed |= part.failed
                if part.encoded is not None:
                    _remember(cache, part.keys, part.encoded, config, work.card)
                progress.advance(len(part.keys) + len(part.failed))
    reasons = found.reasons | {
        row: failed[key] for row, key in enumerate(found.keys) if key is not None and key in failed
    }
    given = sum(key is not None for key in found.keys) + len(found.reasons)
    report = Coverage(
        name=name,
        modality=modality,
        encoder=work.card.name,
        num_items=len(found.keys),
        missing=len(found.keys) - given - len(found.gaps),
        encoded=len(new) - len(failed),
        cached=len(found.sources) - len(new),
        seconds=time.monotonic() - started,
        broken=_broken(dataset, found, reasons, given),
    )
    return _store(dataset, config, report, work.card, cache, found.keys)


def _run(config: FeatureConfig, modality: Modality, work: Work, units: Sequence[Unit]) -> Iterator[Finished]:
    if not units or (config.workers == 1 and config.address is None):
        return work.run(units)
    from hm4sr.features.distributed import run_distributed

    return run_distributed(config, modality, work.card.key, units)


def _remember(
    cache: VectorCache, keys: Sequence[bytes], encoded: Encoded, config: FeatureConfig, card: Card
) -> None:
    vectors = encoded.vectors.astype(config.dtype)
    finite = np.isfinite(vectors).all() and (encoded.levels is None or np.isfinite(encoded.levels).all())
    if not finite:
        raise UserError(
            f"encoder {card.name} gives numbers that are not finite in {config.dtype} (levels: float16): try "
            "--dtype float32 without --levels, or download it again if its weights are damaged."
        )
    cache.add(keys, vectors, encoded.levels)
    if encoded.start is not None and encoded.levels is not None and _START not in cache:
        cache.add([_START], encoded.start[None].astype(config.dtype), np.zeros_like(encoded.levels[:1]))


def _broken(dataset: Dataset, found: _Found, reasons: Mapping[int, str], given: int) -> list[Broken]:
    """The items without a vector for want of a whole picture.

    Raises:
        UserError: that is all of those that have one.
    """
    if reasons and len(reasons) == given:
        first = min(reasons)
        raise UserError(
            f"none of the {given:,} pictures of {dataset.path} could be read (first: {found.files[first]}, "
            f"{reasons[first]}): check the files, or give their place with --image-root."
        )
    all_reasons = {**reasons, **found.gaps}
    ids = dataset.items["item_id"].to_list() if all_reasons else []
    return [Broken(ids[row], str(found.files[row]), all_reasons[row]) for row in sorted(all_reasons)]


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


def _open_cache(dataset: Dataset, config: FeatureConfig, card: Card) -> VectorCache:
    folder = config.cache or dataset.path / "features" / ".cache"
    return VectorCache(folder, hashlib.sha256(f"{card.key} {config.dtype}".encode()).hexdigest())


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

    known = {row: key for row, key in enumerate(keys, start=1) if key is not None and key in cache}
    present = np.zeros(len(keys) + 1, dtype=np.bool_)
    present[list(known)] = True

    def table(column: str) -> torch.Tensor:
        found = cache.gather(list(known.values()), column)
        values = np.zeros((len(present), *found.shape[1:]), dtype=found.dtype)
        values[present] = found
        return torch.from_numpy(values)

    vectors = table("vectors")
    levels = start = None
    if _START in cache:
        levels, start = table("levels"), torch.from_numpy(cache.gather([_START])[0]).float()
    report = replace(report, width=vectors.shape[1], present=len(known))
    about = asdict(report) | {
        "rate": report.rate,
        "dtype": config.dtype,
        "key": card.key,
        "settings": dict(card.about),
    }
    features = ItemFeatures(vectors, torch.from_numpy(present), levels, start)
    try:
        save_features(dataset, report.name, features, about)
    except OSError as error:
        raise UserError(
            f"{dataset.path}/features cannot be written ({error.strerror}): make room, or check who may "
            "write there."
        ) from error
    return report
