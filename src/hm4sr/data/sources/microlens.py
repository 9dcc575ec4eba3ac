"""Tables in the manner of MicroLens: pairs of user and item with a time, titles, pictures named by item."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import polars as pl

from hm4sr.data.sources.bad_rows import BadRows
from hm4sr.data.sources.base import Columns, Source
from hm4sr.data.sources.movielens import read_renamed
from hm4sr.data.sources.table import read_csv
from hm4sr.data.tables import Table, choose_columns, column_names
from hm4sr.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")
_NAMES = {
    "user_id": ("user", "userID", "user_id", "userid"),
    "item_id": ("item", "videoID", "item_id", "video_id", "itemID", "itemid", "videoid"),
    "timestamp": ("timestamp", "time"),
    "title": ("title", "title_en", "caption"),
}


class MicroLensSource(Source):
    """NAME_pairs.csv, NAME_titles.csv (or NAME_title_en.csv, without a header) and a folder of covers."""

    name: ClassVar[str] = "microlens"

    def interactions(self, required: Columns, ids: Sequence[str], bad: BadRows) -> Table:
        """See `Source`."""
        columns = _columns(self.log, ["user_id", "item_id", "timestamp"])
        return read_renamed(self.log, columns, required, (), ids, bad)

    def items(self, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows) -> Table:
        """See `Source`; the pictures are those files of the folder that are named after an item."""
        return self._with_pictures(super().items(required, optional, ids, bad), required)

    def bare_items(self, ids: pl.Series, required: Columns) -> Table:
        """See `Source` and `items`."""
        return self._with_pictures(super().bare_items(ids, required), required)

    def _with_pictures(self, table: Table, required: Columns) -> Table:
        if not self.image_folder.is_dir():
            return table
        files = pl.DataFrame(sorted(_pictures(self.image_folder).items()), schema=_PICTURES, orient="row")
        column = required[0][1]
        key = table.frame[column].cast(pl.String).alias("stem").to_frame()
        paths = key.join(files, on="stem", how="left", maintain_order="left")["image_path"]
        return replace(table, frame=table.frame.with_columns(paths))

    def read_items(
        self, file: Path, required: Columns, optional: Sequence[str], ids: Sequence[str], bad: BadRows
    ) -> Table:
        """See `Source`."""
        wanted = choose_columns(file, ["item_id", "title"], required, optional)
        names = column_names(file)
        if any(name in _NAMES["item_id"] for name in names):
            return read_renamed(file, _columns(file, ["item_id", "title"]), required, optional, ids, bad)
        if len(names) != 2:
            raise UserError(f"{file} has {len(names)} columns instead of item and title: check --items.")
        return read_csv(file, ["item_id", "title"], wanted, ids, bad, header=False)


_PICTURES = {"stem": pl.String, "image_path": pl.String}


def find_files(folder: Path) -> tuple[Path, Path | None, Path | None]:
    """Pairs, titles and the folder of covers.

    Raises:
        UserError: there is no file of pairs, or several.
    """
    pairs = sorted(folder.glob("*_pairs.csv"))
    if len(pairs) != 1:
        names = ", ".join(path.name for path in pairs) or "none"
        raise UserError(
            f"{folder} should hold one file _pairs.csv ({names} found): name it with --interactions."
        )
    titles = sorted([*folder.glob("*_titles.csv"), *folder.glob("*_title_en.csv")])
    covers = sorted(path for path in folder.glob("*covers") if path.is_dir())
    return pairs[0], titles[0] if titles else None, covers[0] if covers else None


def _columns(path: Path, wanted: Sequence[str]) -> dict[str, str]:
    """Name to column, by the names under which these tables have been published."""
    names = column_names(path)
    columns = {}
    for name in wanted:
        found = [alias for alias in _NAMES[name] if alias in names]
        if not found:
            shown = ", ".join(names[:8])
            raise UserError(f"{path} has no column {_NAMES[name][0]!r} (it has: {shown}): check --source.")
        columns[name] = found[0]
    return columns


def _pictures(folder: Path) -> dict[str, str]:
    """Stem to name of the pictures in a folder; of several with one stem the first by name."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file())
    found: dict[str, str] = {}
    for name in names:
        if Path(name).suffix.lower() in ENDINGS:
            found.setdefault(Path(name).stem, name)
    return found
