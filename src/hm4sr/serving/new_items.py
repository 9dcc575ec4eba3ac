"""Items that came after training: their table, and the vectors of their text, pictures and so on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from hm4sr.data.catalogue import FIELDS, build_items, category_separator, cleaned, read_catalogue
from hm4sr.data.dataset import Dataset
from hm4sr.data.prepare import PrepareConfig
from hm4sr.data.sources import BadRows, TableSource
from hm4sr.errors import UserError
from hm4sr.features.new import encode_pictures, encode_texts
from hm4sr.features.store import read_feature_manifest
from hm4sr.serving.shelf import Shelf
from hm4sr.types import ItemFeatures

_TEXTS = ("item_id", "title", "brand", "text", "image")
_COLUMNS = (*_TEXTS, "categories")

Vectors = np.ndarray[Any, Any] | Sequence[Sequence[float] | np.ndarray[Any, Any] | None]
"""A row for each item (n x F); None for an item without this modality."""


@dataclass(frozen=True)
class FeatureSources:
    """Where the vectors of new items come from.

    Attributes:
        vectors: given ones, by modality.
        encoders: folder or name of the encoder of a modality, if not the one noted in its manifest.
        image_root: folder that the pictures' paths are relative to; the data set's if left out.
    """

    vectors: Mapping[str, Vectors]
    encoders: Mapping[str, str]
    image_root: Path | None = None


def read_new_items(items: pl.DataFrame | Sequence[Mapping[str, Any]], shelf: Shelf) -> pl.DataFrame:
    """Check the table of new items.

    Returns:
        columns item_id, title, brand, text, image, categories (list).

    Raises:
        UserError: a column is unknown or of the wrong type, or an id is missing, given twice or taken.
    """
    if not isinstance(items, pl.DataFrame) and not all(isinstance(row, Mapping) for row in items):
        raise UserError("new items are no table: give each item a row of keys and values, or a data frame.")
    try:
        table = pl.DataFrame(items, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"new items are no table ({reason}): give one type in each column.") from error
    for name in table.columns:
        if name not in _COLUMNS:
            raise UserError(f"new items: unknown column {name!r}; known ones are {', '.join(_COLUMNS)}.")
    if "item_id" not in table.columns or table["item_id"].dtype != pl.String:
        raise UserError("new items need a column item_id of texts: raw ids are texts.")
    kinds: dict[str, Any] = {**dict.fromkeys(_TEXTS, pl.String), "categories": pl.List(pl.String)}
    absent = {name: pl.lit(None, dtype=kind) for name, kind in kinds.items() if name not in table.columns}
    table = table.with_columns(**absent)
    for name, kind in kinds.items():
        if table[name].dtype not in (kind, pl.Null, pl.List(pl.Null)):
            raise UserError(f"new items: {name} is of type {table[name].dtype}: {kind} is wanted.")
    table = table.select(pl.col(name).cast(kind) for name, kind in kinds.items())
    _check_ids(table["item_id"], shelf)
    return table.with_columns(pl.col("categories").fill_null([]), text=_texts(table))


def read_new_items_file(path: Path, dataset: Dataset) -> tuple[pl.DataFrame, Path]:
    """Read a raw items file by the rules that the data set was prepared with.

    Returns:
        the table, and the folder that the pictures' paths are relative to: that of the file.

    Raises:
        UserError: the file is missing or damaged, or an id is empty or occurs twice.
    """
    rules = {**PrepareConfig().model_dump(mode="json"), **dataset.manifest["rules"]}
    fields = {name: rules[f"{name}_column"] for name in FIELDS}
    source = TableSource(path, path)  # of which only the items are read
    id_column = rules["items_id_column"] or rules["item_column"]
    catalogue = read_catalogue(source, BadRows("error"), id_column, fields, (), rules["text_columns"])
    setting = rules["category_separator"]
    if setting == "auto":  # what was recognised then, whatever occurs in the new file
        setting = dataset.manifest["statistics"].get("category_separator") or "none"
    separator, _ = category_separator(catalogue, setting)
    root = path.parent.resolve()
    return build_items(catalogue, catalogue.ids, separator, root), root


def _check_ids(ids: pl.Series, shelf: Shelf) -> None:
    for row, item in enumerate(ids.to_list(), start=1):
        if not item or not item.strip():
            raise UserError(f"new items, row {row}: item_id is empty: fill it in.")
        if item in shelf.numbers:
            raise UserError(f"new items, row {row}: {item!r} is in the catalogue already: leave it out.")
    again = ids.filter(ids.is_duplicated())
    if len(again):
        raise UserError(f"new items: {again[0]!r} occurs twice: keep one of them.")


def _texts(table: pl.DataFrame) -> pl.Series:
    """The given text, or else `title. categories brand.` as `hm4sr prepare` writes it."""
    names = pl.col("categories").list.join(" ", ignore_nulls=True)
    rest = pl.concat_str(cleaned(names), cleaned(pl.col("brand")), separator=" ", ignore_nulls=True)
    sentences = [cleaned(pl.col("title")) + ".", cleaned(rest) + "."]
    made = pl.concat_str(sentences, separator=" ", ignore_nulls=True)
    return table.select(text=pl.coalesce(cleaned(pl.col("text")), cleaned(made)))["text"]


def new_features(
    table: pl.DataFrame, dataset: Dataset, widths: Mapping[str, int], sources: FeatureSources
) -> dict[str, ItemFeatures]:
    """Vectors of every modality of the model; row 0 is padding.

    Args:
        table: what `read_new_items` gives.
        dataset: whose features name the encoders.
        widths: width of the vectors of each modality.
        sources: where vectors come from.

    Raises:
        UserError: a name is no modality, vectors have the wrong shape, an encoder or a picture cannot be
            used, or an item has no modality at all.
    """
    for argument, names in (("vectors", sources.vectors), ("encoders", sources.encoders)):
        for name in names:
            if name not in widths:
                known = ", ".join(repr(known) for known in widths)
                raise UserError(f"{argument} of {name!r}, which the model does not read: it reads {known}.")
    features = {name: _features(table, dataset, name, width, sources) for name, width in widths.items()}
    present = torch.stack([feature.present[1:] for feature in features.values()]).any(0)
    if not bool(present.all()):
        item = table["item_id"][int(present.int().argmin())]
        raise UserError(
            f"new item {item!r} has none of {', '.join(widths)}, so nothing is known of it: give one of them."
        )
    return features


def _features(
    table: pl.DataFrame, dataset: Dataset, name: str, width: int, sources: FeatureSources
) -> ItemFeatures:
    if name in sources.vectors:
        return _given(sources.vectors[name], name, len(table), width)
    manifest = read_feature_manifest(dataset, name)
    kind, encoder = manifest.get("modality"), sources.encoders.get(name)
    if kind == "text":
        return encode_texts(manifest, width, table["text"].to_list(), encoder)
    if kind == "image":
        noted = dataset.manifest["rules"].get("image_root")
        root = sources.image_root or Path(noted or dataset.path)
        paths = [root / path if path else None for path in table["image"].to_list()]
        return encode_pictures(manifest, width, paths, encoder)
    return _given([None] * len(table), name, len(table), width)


def _given(rows: Vectors, name: str, count: int, width: int) -> ItemFeatures:
    if len(rows) != count:
        raise UserError(f"vectors of {name!r}: {len(rows)} rows for {count} items: give one for each item.")
    vectors = np.zeros((count + 1, width), dtype=np.float32)
    present = np.zeros(count + 1, dtype=np.bool_)
    for place, row in enumerate(rows, start=1):
        if row is None:
            continue
        try:
            vector = np.asarray(row, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"vectors of {name!r}, row {place}: not numbers: give {width} numbers."
            ) from error
        if vector.shape != (width,) or not np.isfinite(vector).all():
            raise UserError(
                f"vectors of {name!r}, row {place}: of shape {vector.shape} or not finite: "
                f"give {width} finite numbers."
            )
        vectors[place], present[place] = vector, True
    return ItemFeatures(torch.from_numpy(vectors), torch.from_numpy(present))
