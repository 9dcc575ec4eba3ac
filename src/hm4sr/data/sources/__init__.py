"""Raw data as it is published or exported: each source turns its files into interactions and items."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hm4sr.data.sources import amazon, microlens, movielens, recbole
from hm4sr.data.sources.bad_rows import BadRows, BadRowsRule
from hm4sr.data.sources.base import Source
from hm4sr.data.sources.table import TableSource
from hm4sr.errors import UserError

__all__ = ["SOURCES", "BadRows", "BadRowsRule", "Source", "TableSource", "open_source"]


@dataclass(frozen=True)
class _Paths:
    interactions: Path | None
    items: Path | None
    folder: Path | None
    pictures: Path | None


def open_source(
    name: str,
    interactions: Path | None = None,
    items: Path | None = None,
    folder: Path | None = None,
    pictures: Path | None = None,
) -> Source:
    """The source of a name.

    Args:
        name: a key of `SOURCES`.
        interactions: file of interactions.
        items: file of items.
        folder: folder that holds the files under their usual names, instead of the two.
        pictures: folder that pictures' paths are relative to.

    Raises:
        UserError: the name is unknown, or a file or folder is missing.
    """
    if name not in SOURCES:
        raise UserError(f"there is no source {name!r}: choose one of {', '.join(SOURCES)}.")
    if folder is not None:
        if interactions is not None or items is not None:
            raise UserError("give --folder, or --interactions and --items, not both.")
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: give the folder of the raw files with --folder.")
    return SOURCES[name](_Paths(interactions, items, folder, pictures))


def _table(paths: _Paths) -> Source:
    if paths.folder is not None:
        raise UserError("--source table reads files: give --interactions and --items instead of --folder.")
    return TableSource(_needed(paths), paths.items, paths.pictures)


def _amazon(cls: type[amazon.AmazonSource]) -> Callable[[_Paths], Source]:
    def build(paths: _Paths) -> Source:
        files = amazon.find_files(paths.folder) if paths.folder else (_needed(paths), paths.items)
        return cls(*files, pictures=paths.pictures)

    return build


def _recbole(paths: _Paths) -> Source:
    if paths.folder is not None:
        log, items = recbole.find_files(_with_file(paths.folder, "*.inter"))
    else:
        log = _needed(paths)
        beside = log.with_suffix(".item")
        items = paths.items or (beside if beside != log and beside.exists() else None)
    return recbole.RecBoleSource(log, items, paths.pictures)


def _movielens(
    cls: type[movielens.MovieLens100K] | type[movielens.MovieLens1M] | type[movielens.MovieLensLatest],
) -> Callable[[_Paths], Source]:
    def build(paths: _Paths) -> Source:
        if paths.folder is None:
            return cls(_needed(paths), paths.items, paths.pictures)
        folder = _with_file(paths.folder, cls.log_name)
        for name in (cls.log_name, cls.items_name):
            if not (folder / name).is_file():
                raise UserError(f"{folder} has no {name}: check --folder and --source {cls.name}.")
        return cls(folder / cls.log_name, folder / cls.items_name, paths.pictures)

    return build


def _microlens(paths: _Paths) -> Source:
    if paths.folder is None:
        return microlens.MicroLensSource(_needed(paths), paths.items, paths.pictures)
    log, items, covers = microlens.find_files(paths.folder)
    return microlens.MicroLensSource(log, items, paths.pictures or covers)


def _needed(paths: _Paths) -> Path:
    if paths.interactions is None:
        raise UserError("there is nothing to read: give --interactions (and --items), or --folder.")
    return paths.interactions


def _with_file(folder: Path, pattern: str) -> Path:
    """The folder, or its only subfolder that holds what an archive unpacks there."""
    if any(folder.glob(pattern)):
        return folder
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and any(path.glob(pattern))]
    return inside[0] if len(inside) == 1 else folder


SOURCES: dict[str, Callable[[_Paths], Source]] = {
    "table": _table,
    "amazon-2014": _amazon(amazon.Amazon2014),
    "amazon-2018": _amazon(amazon.Amazon2018),
    "amazon-2023": _amazon(amazon.Amazon2023),
    "movielens-100k": _movielens(movielens.MovieLens100K),
    "movielens-1m": _movielens(movielens.MovieLens1M),
    "movielens-latest": _movielens(movielens.MovieLensLatest),
    "recbole": _recbole,
    "microlens": _microlens,
}
