"""Feature vectors of a prepared data set, keyed by item number, with a mask of what is missing.

DATASET/features/NAME/vectors.safetensors    "vectors" (V x F, float16 or float32), "present" (V, bool)
DATASET/features/NAME/levels.safetensors     "levels" (V x J x F, float16), "start" (F, float32); where kept
DATASET/features/NAME/manifest.json          encoder, pooling, coverage, sha256, hash of items.parquet
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.files import atomic_directory, hash_files, writing
from hm4sr.manifest import NAME, read_manifest, verify_listed, write_manifest
from hm4sr.types import ItemFeatures

_VECTORS, _LEVELS = "vectors.safetensors", "levels.safetensors"
_CHUNK_ROWS = 65_536


def save_features(dataset: Dataset, name: str, features: ItemFeatures, about: dict[str, Any]) -> Path:
    """Write the vectors of one modality, whole or not at all; `about` goes into their manifest.

    Raises:
        UserError: a vector is not finite, or the folder cannot be written.
        ValueError: rows and mask do not fit the items of the data set, or the padding row is present.
    """
    if features.vectors.shape[0] != dataset.num_items + 1:
        raise ValueError(f"expected {dataset.num_items + 1} rows, got {features.vectors.shape[0]}")
    if features.present.shape != (dataset.num_items + 1,) or bool(features.present[0]):
        raise ValueError("present must have a place for each item, and a false one for row 0, the padding")
    _expect_finite(dataset, name, features)
    path = feature_folder(dataset, name)
    with writing(path, "make room there or mend the rights and call again"), atomic_directory(path) as folder:
        tensors = {"vectors": features.vectors.contiguous(), "present": features.present.contiguous()}
        save_file(tensors, folder / _VECTORS)
        if features.levels is not None and features.start is not None:
            tensors = {"levels": features.levels.contiguous(), "start": features.start.contiguous()}
            save_file(tensors, folder / _LEVELS)
        manifest = {
            **about,
            "items": dataset.hashes["items.parquet"],
            "files": hash_files(folder, [file.name for file in folder.glob("*.safetensors")]),
        }
        write_manifest(folder / NAME, manifest)
    return path


def _expect_finite(dataset: Dataset, name: str, features: ItemFeatures) -> None:
    """Refuse what would make every loss of a training not a number."""
    for tensor in (features.vectors, features.levels):
        if tensor is None:
            continue
        for start in range(0, len(tensor), _CHUNK_ROWS):
            sound = tensor[start : start + _CHUNK_ROWS].isfinite().flatten(1).all(1)
            if not bool(sound.all()):
                row = start + int((~sound).nonzero()[0])
                item = dataset.items["item_id"][row - 1] if row else "none (the padding row)"
                raise UserError(
                    f"the {name} vector of item {item!r} holds a value that is not finite: mend it, or mark "
                    "the item as being without one."
                )


def load_features(dataset: Dataset, name: str) -> ItemFeatures:
    """Read the vectors of one modality, and its levels where there are any; both stay memory-mapped.

    Raises:
        UserError: they were never extracted, belong to other items, or are damaged.
    """
    folder = feature_folder(dataset, name)
    manifest = read_feature_manifest(dataset, name)
    if manifest.get("items") != dataset.hashes["items.parquet"]:
        raise UserError(
            f"{folder} was made for other items than {dataset.path} has: run `hm4sr features` again."
        )
    files = verify_listed(folder, manifest, [_VECTORS])
    try:
        with safe_open(folder / _VECTORS, framework="pt") as file:
            vectors, present = file.get_tensor("vectors"), file.get_tensor("present").to(torch.bool)
        levels = start = None
        if _LEVELS in files:
            with safe_open(folder / _LEVELS, framework="pt") as file:
                levels, start = file.get_tensor("levels"), file.get_tensor("start")
    except SafetensorError as error:
        raise UserError(f"{folder} is damaged ({error}): run `hm4sr features` again.") from error
    if not _fit(dataset.num_items + 1, vectors, present, levels, start):
        raise UserError(
            f"{folder} is damaged (its tensors do not fit {dataset.num_items:,} items): run `hm4sr features` "
            "again."
        )
    return ItemFeatures(vectors, present, levels, start)


def _fit(rows: int, vectors: Tensor, present: Tensor, levels: Tensor | None, start: Tensor | None) -> bool:
    """Whether shapes and number formats are those of features of so many rows, row 0 being padding."""
    if vectors.ndim != 2 or len(vectors) != rows or present.shape != (rows,):
        return False
    if levels is None or start is None:
        return vectors.is_floating_point()
    shaped = levels.ndim == 3 and len(levels) == rows and levels.shape[2:] == start.shape == vectors.shape[1:]
    return shaped and all(tensor.is_floating_point() for tensor in (vectors, levels, start))


def read_feature_manifest(dataset: Dataset, name: str) -> dict[str, Any]:
    """What is recorded about the vectors of one modality.

    Raises:
        UserError: there are none of that name.
    """
    folder = feature_folder(dataset, name)
    if not (folder / NAME).is_file():
        known = feature_names(dataset)
        have = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(
            f"{dataset.path} has no features named {name!r} ({have}): run `hm4sr features` first."
        )
    return read_manifest(folder / NAME)


def feature_names(dataset: Dataset) -> list[str]:
    """Names of the modalities that have been extracted, sorted."""
    return sorted(file.parent.name for file in dataset.path.glob("features/[!.]*/manifest.json"))


def feature_folder(dataset: Dataset, name: str) -> Path:
    """Folder that holds, or will hold, the vectors of one modality."""
    return dataset.path / "features" / name
