"""From raw interactions and a catalogue to a prepared data set: filter, order, split, number.

The steps themselves are in `hm4sr.data.interactions`, the catalogue in `hm4sr.data.catalogue`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hm4sr.data.catalogue import FIELDS, Catalogue, build_items, category_separator, read_catalogue
from hm4sr.data.dataset import FORMAT, IMAGES, TABLES, Dataset, save_dataset
from hm4sr.data.interactions import Interactions, count_pairs, describe
from hm4sr.data.rules import Rules, apply_rules
from hm4sr.data.sources import BadRows, BadRowsRule, Source, TableSource
from hm4sr.data.sources.screening import screen_interactions
from hm4sr.data.split import describe_split, history_ends
from hm4sr.data.tables import Table, vocabulary
from hm4sr.data.timestamps import TimeUnit, read_times
from hm4sr.errors import UserError
from hm4sr.files import sha256
from hm4sr.manifest import read_manifest


class PrepareConfig(Rules):
    """What to read, and the rules of the preparation; the defaults are the paper's (5.1.1)."""

    user_column: str = "user_id"
    """Interactions: column of user ids."""
    item_column: str = "item_id"
    """Interactions and items: column of item ids."""
    items_id_column: str | None = None
    """Items: column of item ids, where it has another name than in the interactions."""
    time_column: str = "timestamp"
    """Interactions: column of timestamps."""
    rating_column: str = "rating"
    """Interactions: column of ratings, read when a minimum is set."""
    title_column: str = "title"
    """Items: column of titles."""
    category_column: str = "category"
    """Items: column of categories."""
    brand_column: str = "brand"
    """Items: column of brands."""
    image_column: str = "image_path"
    """Items: column of the pictures' paths."""
    image_url_column: str = "image_url"
    """Items: column of the pictures' addresses, for `hm4sr download images`."""
    text_columns: tuple[str, ...] = ()
    """Items: columns that make the text, in this order; title, categories and brand if not given."""
    image_root: Path | None = None
    """Folder that the pictures' paths are relative to; the folder of the items file if not given."""
    category_separator: str = "auto"
    """What divides the categories in a cell; auto recognises ' > ', '|' and ';', none takes cells whole."""
    time_unit: TimeUnit = "auto"
    """Unit of the timestamps; auto decides from the whole column."""
    bad_rows: BadRowsRule = "error"
    """What to do with rows that cannot be read: stop at the first one, or skip, count and name them."""
    missing_items: Literal["error", "drop", "keep"] = "error"
    """What to do with interactions whose item is not in the items file: keep makes items without metadata."""


def prepare(
    interactions: str | Path,
    items: str | Path,
    out: str | Path,
    config: PrepareConfig | None = None,
    force: bool = False,
) -> Dataset:
    """Prepare a data set from two tables (CSV, TSV or Parquet), see `prepare_source`."""
    return prepare_source(TableSource(Path(interactions), Path(items)), out, config, force)


def prepare_source(
    source: Source, out: str | Path, config: PrepareConfig | None = None, force: bool = False
) -> Dataset:
    """Prepare a data set; the raw files are only read, and `out` appears whole or not at all.

    Args:
        source: where interactions and items come from.
        out: folder to create.
        config: the rules.
        force: replace a prepared data set that is already at `out`, with its features.

    Raises:
        UserError: a file, a column, a cell or a rule is at fault, or `out` holds something else.
    """
    config = config or PrepareConfig()
    out, bad = Path(out).resolve(), BadRows(config.bad_rows)
    root = (config.image_root or source.image_folder).resolve()
    check_output(out, force, [*source.files, root])
    # The smaller file first: what is wrong with it is said at once.
    catalogue = None if source.items_file is None else _read_catalogue(source, bad, config)
    raw = _read_interactions(source, bad, config)
    if catalogue is None:
        catalogue = _read_catalogue(source, bad, config, raw.item_ids)
    separator, separators_seen = category_separator(catalogue, config.category_separator)

    log, removed = raw.log, dict(raw.removed)
    if config.missing_items != "keep":
        known = _in_catalogue(raw, catalogue, source.log, config)
        removed["missing_items"] = int((~known).sum())
        log = log.take(known)
    kept = apply_rules(log, raw.user_ids, raw.item_ids, raw.per_second, config, removed, source.log)
    log, seconds = kept.log, kept.log.ticks // raw.per_second

    item_table = build_items(catalogue, kept.item_ids, separator, root)
    optional = [name for name in ("image_url",) if name in item_table.columns]
    present = item_table.select(pl.col("title", "brand", "text", "image", *optional).count())
    with_categories = (item_table["categories"].list.len() > 0).sum()
    statistics = {
        **describe(len(kept.user_ids), len(kept.item_ids), count_pairs(log.users, log.items), seconds),
        **describe_split(kept.parts, kept.moments),
        "rows_read": raw.rows_read,
        "rows_removed": kept.removed,
        "items_with": {**present.row(0, named=True), "categories": int(with_categories)},
        "time_unit": raw.time_unit,
        "category_separator": separator,
        "category_separators_seen": separators_seen,
        "source": source.name,
        **_recognised(catalogue, config),
        **bad.summary(),
    }
    # A folder of this machine: without pictures, leave it out and the manifest is the same everywhere.
    image_root = str(root) if "image" in catalogue.fields else None
    rules = config.model_dump(mode="json") | {"image_root": image_root}
    histories = {"user_id": kept.user_ids, **history_ends(log.users, kept.parts)}
    try:
        return save_dataset(
            out,
            pl.DataFrame({"user": log.users, "item": log.items + np.int32(1), "time": seconds}),
            pl.DataFrame(histories),
            item_table,
            rules,
            statistics,
            [_source(file) for file in source.files],
        )
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{out} cannot be written ({reason}): choose another folder with --out.") from error


def check_output(out: Path, force: bool, needed: Sequence[Path] = ()) -> None:
    """Refuse a folder that cannot be written or must not be replaced.

    Args:
        out: absolute path of the folder to write.
        force: whether a prepared data set may be replaced.
        needed: files and folders that must survive.

    Raises:
        UserError: `out` is a file, lies where nothing can be written, holds something that `hm4sr` did not
            write, or a data set without `force`.
    """
    if not out.exists():
        parent = next(folder for folder in out.parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(f"{out} cannot be made, since {parent} takes no folders: choose another --out.")
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file: give the name of a folder with --out.")
    names = {entry.name for entry in out.iterdir()}
    if not names:
        return
    prepared = "manifest.json" in names and _format(out / "manifest.json") == FORMAT
    strange = sorted(names - {*TABLES, "manifest.json", "features", IMAGES}) if prepared else sorted(names)
    if strange:
        what = f"{out} holds something else than a prepared data set ({strange[0]})"
        raise UserError(f"{what}: choose another --out.")
    if not force:
        raise UserError(
            f"{out} holds a prepared data set: add --force to replace it, or choose another --out."
        )
    for path in needed:
        if path.resolve().is_relative_to(out):
            raise UserError(f"{path} lies inside {out}, which --force would replace: choose another --out.")


def _source(file: Path) -> dict[str, Any]:
    return {"name": file.name, "sha256": sha256(file), "bytes": file.stat().st_size}


def _read_catalogue(
    source: Source, bad: BadRows, config: PrepareConfig, known: pl.Series | None = None
) -> Catalogue:
    fields = {name: getattr(config, f"{name}_column") for name in FIELDS}
    explicit = [name for name in FIELDS if f"{name}_column" in config.model_fields_set]
    if source.items_file is None and config.items_id_column:
        raise UserError("--items-id-column has no effect without a file of items: leave it out.")
    id_column = config.items_id_column or config.item_column
    return read_catalogue(source, bad, id_column, fields, explicit, config.text_columns, known)


def _recognised(catalogue: Catalogue, config: PrepareConfig) -> dict[str, Any]:
    """The columns that were taken for a field under another name than the usual one."""
    fields = catalogue.fields.items()
    other = {name: column for name, column in fields if column != getattr(config, f"{name}_column")}
    return {"recognised_columns": other} if other else {}


@dataclass(frozen=True)
class _Raw:
    log: Interactions
    user_ids: pl.Series
    item_ids: pl.Series
    per_second: int
    time_unit: str
    rows_read: int
    removed: Mapping[str, int]


def _read_interactions(source: Source, bad: BadRows, config: PrepareConfig) -> _Raw:
    roles = ["user", "item", "time"]
    if config.min_rating is not None:
        roles.append("rating")
    elif "rating_column" in config.model_fields_set:
        raise UserError("--rating-column has no effect alone: set --min-rating too, or leave it out.")
    columns = [(f"--{role}-column", getattr(config, f"{role}_column")) for role in roles]
    for index, (option, column) in enumerate(columns):
        for other, same in columns[:index]:
            if column == same:
                raise UserError(f"{other} and {option} both name {column!r}: name two different columns.")
    table = source.interactions(columns, [config.user_column, config.item_column], bad)
    if bad.skip:
        rating = config.rating_column if config.min_rating is not None else None
        names = (config.user_column, config.item_column, config.time_column, rating)
        table = screen_interactions(table, *names, config.time_unit, bad)
    users, user_ids = vocabulary(table, config.user_column)
    items, item_ids = vocabulary(table, config.item_column)
    times = read_times(table.frame[config.time_column], config.time_unit, table.place)
    log = Interactions(users, items, times.ticks)
    skipped = bad.counts.get(source.log, 0)
    removed = {"bad_rows": skipped} if bad.skip else {}
    if config.min_rating is not None:
        rated = _ratings(table, config.rating_column) >= config.min_rating
        removed["rating"] = int((~rated).sum())
        log = log.take(rated)
    return _Raw(log, user_ids, item_ids, times.per_second, times.unit, len(users) + skipped, removed)


def _ratings(table: Table, column: str) -> NDArray[np.float64]:
    cells = table.frame[column]
    if not (cells.dtype.is_numeric() or cells.dtype == pl.String):
        raise UserError(f"{table.path}: {column} is of type {cells.dtype}: write ratings as numbers.")
    ratings = cells.cast(pl.Float64, strict=False)
    wrong = (ratings.is_null() | ~ratings.is_finite()).fill_null(True)
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        what = "is empty" if cells[row] is None else f"{cells[row]!r} is not a number"
        raise UserError(f"{table.place(row)}: {column} {what}: mend it or leave out --min-rating.")
    return ratings.to_numpy()


def _in_catalogue(raw: _Raw, catalogue: Catalogue, path: Path, config: PrepareConfig) -> NDArray[np.bool_]:
    """Mask of the interactions whose item the catalogue has."""
    known: NDArray[np.bool_] = raw.item_ids.is_in(catalogue.ids.implode()).to_numpy()[raw.log.items]
    if config.missing_items == "error" and not known.all():
        missing = np.unique(raw.log.items[~known])
        first = raw.item_ids[int(missing[0])]
        what = f"lacks {len(missing):,} of the items in {path}, the first is {first!r}"
        advice = "add them, or set --missing-items to drop or keep"
        raise UserError(f"{catalogue.table.path} {what}: {advice}.")
    return known


def _format(path: Path) -> Any:
    try:
        manifest = read_manifest(path)
    except UserError:
        return None
    return manifest.get("format")
