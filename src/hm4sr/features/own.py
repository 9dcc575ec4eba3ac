"""Vectors made elsewhere, by item id.

FILE.parquet                        item_id, and one column of lists or several of numbers
FILE.npy, FILE.safetensors          one row an item, of the ids in FILE.txt, one a line
"""

from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.features.extract import check_name
from hm4sr.features.report import Coverage
from hm4sr.features.store import save_features
from hm4sr.files import sha256
from hm4sr.types import ItemFeatures

ENDINGS = (".parquet", ".npy", ".safetensors")


def store_own(dataset: Dataset, name: str, file: Path) -> Coverage:
    """Store the vectors of a file beside a data set; items that it lacks are known to be without one.

    Args:
        dataset: whose items they describe.
        name: of the modality.
        file: see the head of this module; ids that the data set lacks are passed over.

    Raises:
        UserError: the file cannot be read, an id occurs twice, a value is not finite, or no item is in it.
    """
    check_name("--vectors", name)
    try:
        ids, vectors = _read(file)
    except (OSError, ValueError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{file} cannot be read ({error}): mend it or name another file.") from error
    again = ~ids.is_first_distinct()
    if again.any():
        raise UserError(f"{file} has item {ids[int(again.arg_max() or 0)]!r} twice: keep one of them.")
    items = pl.DataFrame({"id": dataset.items["item_id"]})
    rows = pl.DataFrame({"id": ids, "row": np.arange(len(ids))})
    found = items.join(rows, on="id", how="left", maintain_order="left")["row"]
    there = found.is_not_null().to_numpy()
    if not there.any():
        known = f"the data set has for example {items['id'][0]!r}"
        known += f", the file {ids[0]!r}" if len(ids) else ", the file no row"
        raise UserError(f"{file} has none of the items of {dataset.path} ({known}): check the ids.")
    whole = np.zeros((len(items) + 1, vectors.shape[1]), dtype=vectors.dtype)
    whole[1:][there] = vectors[found.drop_nulls().to_numpy()]
    present = torch.from_numpy(np.concatenate([[False], there]))
    about = {"encoder": file.name, "sha256": sha256(file), "present": int(there.sum())}
    save_features(dataset, name, ItemFeatures(torch.from_numpy(whole), present), about)
    missing = int((~there).sum())
    return Coverage(
        name, "vectors", file.name, len(items), missing, 0, 0, 0.0, [], vectors.shape[1], len(items) - missing
    )


def _read(file: Path) -> tuple[pl.Series, NDArray[np.floating]]:
    """Ids as text, and their vectors."""
    match file.suffix.lower():
        case ".parquet":
            return _from_table(file)
        case ".npy":
            vectors = np.lib.format.open_memmap(file, mode="r")  # which refuses pickled objects
        case ".safetensors":
            tensors = load_file(file)
            if len(tensors) != 1:
                raise ValueError(f"it holds {len(tensors)} tensors, not one")
            vectors = next(iter(tensors.values()))
        case _:
            raise UserError(f"{file} ends in none of {', '.join(ENDINGS)}: give a file of one of these.")
    return _with_ids(file, vectors)


def _from_table(file: Path) -> tuple[pl.Series, NDArray[np.floating]]:
    table = pl.read_parquet(file)
    if "item_id" not in table.columns:
        raise ValueError("it has no column 'item_id'")
    rest = table.drop("item_id")
    if rest.width == 1 and isinstance(rest.dtypes[0], pl.List | pl.Array):
        cells = rest.to_series().cast(pl.List(pl.Float32))
        table, cells = table.filter(cells.is_not_null()), cells.drop_nulls()
        widths = cells.list.len().unique().to_list()
        if len(widths) != 1 or not widths[0]:
            raise ValueError(f"the lists of column {cells.name!r} are of the lengths {sorted(widths)[:3]}")
        vectors = cells.explode().cast(pl.Float32).fill_null(float("nan")).to_numpy().reshape(-1, widths[0])
    elif rest.width and all(kind.is_numeric() for kind in rest.dtypes):
        vectors = rest.cast(pl.Float32).fill_null(float("nan")).to_numpy()
    else:
        raise ValueError("beside item_id it should have one column of lists, or columns of numbers alone")
    return table["item_id"].cast(pl.String), np.ascontiguousarray(vectors, dtype=np.float32)


def _with_ids(file: Path, vectors: NDArray[np.generic]) -> tuple[pl.Series, NDArray[np.floating]]:
    listed = file.with_suffix(".txt")
    if not listed.is_file():
        raise ValueError(f"{listed.name}, which should hold the item id of each row, one a line, is missing")
    ids = listed.read_text(encoding="utf-8-sig").split("\n")
    ids = [line.removesuffix("\r") for line in (ids[:-1] if ids[-1] == "" else ids)]
    if vectors.ndim != 2 or len(vectors) != len(ids) or not vectors.shape[1]:
        raise ValueError(f"its shape is {vectors.shape}, but {listed.name} has {len(ids)} ids")
    if not np.issubdtype(vectors.dtype, np.number) or np.issubdtype(vectors.dtype, np.complexfloating):
        raise ValueError(f"its numbers are of type {vectors.dtype}")
    kept = np.float16 if vectors.dtype == np.float16 else np.float32
    return pl.Series(ids, dtype=pl.String), np.ascontiguousarray(vectors, dtype=kept)
