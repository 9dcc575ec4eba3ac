"""Vectors made elsewhere, by item id.

FILE.parquet                        item_id, and one column of lists or several of numbers
FILE.npy, FILE.safetensors          one row an item, of the ids in FILE.txt, one a line
"""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

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
from hm4sr.files import reason, sha256
from hm4sr.types import ItemFeatures

ENDINGS = (".parquet", ".npy", ".safetensors")
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises for damaged files; a panic of its Rust code is no `Exception`."""


def store_own(dataset: Dataset, name: str, file: Path) -> Coverage:
    """Store the vectors of a file beside a data set; items that it lacks are known to be without one.

    Args:
        dataset: whose items they describe.
        name: of the modality.
        file: see the head of this module; ids that the data set lacks are passed over.

    Raises:
        UserError: the file cannot be read, an id occurs twice, a value is not finite or too large for
            float32, or no item is in it.
    """
    check_name("--vectors", name)
    try:
        ids, vectors = _read(file)
    except (OSError, ValueError, TypeError, SafetensorError, *_UNREADABLE) as error:
        raise UserError(f"{file} cannot be read ({reason(error)}): mend it or name another file.") from error
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
    taken = found.drop_nulls().to_numpy()
    rows_taken = _narrowed(file, ids.gather(taken), vectors[taken])
    whole = np.zeros((len(items) + 1, vectors.shape[1]), dtype=rows_taken.dtype)
    whole[1:][there] = rows_taken
    present = torch.from_numpy(np.concatenate([[False], there]))
    about = {"encoder": file.name, "sha256": sha256(file), "present": int(there.sum())}
    save_features(dataset, name, ItemFeatures(torch.from_numpy(whole), present), about)
    missing = int((~there).sum())
    return Coverage(
        name, "vectors", file.name, len(items), missing, 0, 0, 0.0, [], vectors.shape[1], len(items) - missing
    )


def _narrowed(file: Path, ids: pl.Series, vectors: NDArray[np.number]) -> NDArray[np.floating]:
    """Vectors in the type in which they are stored: float16 stays, everything else becomes float32."""
    if vectors.dtype == np.float16:
        return vectors.astype(np.float16)
    with np.errstate(over="ignore"):  # said below, with the item
        narrow = vectors.astype(np.float32)
    lost = np.argwhere(np.isinf(narrow) & np.isfinite(vectors))
    if len(lost):
        row, place = lost[0]
        raise UserError(
            f"{file}: item {ids[int(row)]!r} holds {vectors[row, place]:g}, which is too large for float32: "
            "scale the vectors down."
        )
    return narrow


def _read(file: Path) -> tuple[pl.Series, NDArray[np.number]]:
    """Ids as text, and their vectors as the file has them."""
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


def _from_table(file: Path) -> tuple[pl.Series, NDArray[np.number]]:
    table = pl.read_parquet(file)
    if "item_id" not in table.columns:
        raise ValueError("it has no column 'item_id'")
    rest = table.drop("item_id")
    if rest.width == 1 and isinstance(rest.dtypes[0], pl.List | pl.Array):
        inner = rest.dtypes[0].inner
        kind = _wide([inner])
        if not (inner.is_numeric() or inner == pl.Null):
            raise ValueError(f"the lists of column {rest.columns[0]!r} are of type {inner}, not of numbers")
        cells = rest.to_series().cast(pl.List(kind))
        table, cells = table.filter(cells.is_not_null()), cells.drop_nulls()
        widths = cells.list.len().unique().to_list()
        if len(widths) != 1 or not widths[0]:
            raise ValueError(f"the lists of column {cells.name!r} are of the lengths {sorted(widths)[:3]}")
        vectors = cells.explode().cast(kind).fill_null(float("nan")).to_numpy().reshape(-1, widths[0])
    elif rest.width and all(kind.is_numeric() for kind in rest.dtypes):
        vectors = rest.cast(_wide(rest.dtypes)).fill_null(float("nan")).to_numpy()
    else:
        raise ValueError("beside item_id it should have one column of lists, or columns of numbers alone")
    return table["item_id"].cast(pl.String), vectors


def _wide(kinds: Iterable[object]) -> type[pl.DataType]:
    """A type of floats that numbers of all these types fit into."""
    return pl.Float64 if pl.Float64 in kinds else pl.Float32


def _with_ids(file: Path, vectors: NDArray[np.generic]) -> tuple[pl.Series, NDArray[np.number]]:
    listed = file.with_suffix(".txt")
    if not listed.is_file():
        raise ValueError(f"{listed.name}, which should hold the item id of each row, one a line, is missing")
    ids = listed.read_text(encoding="utf-8-sig").split("\n")
    ids = [line.removesuffix("\r") for line in (ids[:-1] if ids[-1] == "" else ids)]
    if vectors.ndim != 2 or len(vectors) != len(ids) or not vectors.shape[1]:
        raise ValueError(f"its shape is {vectors.shape}, but {listed.name} has {len(ids)} ids")
    if not np.issubdtype(vectors.dtype, np.number) or np.issubdtype(vectors.dtype, np.complexfloating):
        raise ValueError(f"its numbers are of type {vectors.dtype}")
    return pl.Series(ids, dtype=pl.String), cast("NDArray[np.number]", vectors)
