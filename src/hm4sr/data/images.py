"""Where the pictures of a data set's items are: the user's own files, or those that were downloaded.

Downloaded pictures lie in `images/` of the data set, each named by a hash of its address, so they stay right
when the data set is prepared anew. `images/report.json` says which addresses gave nothing, and why.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from hm4sr.data.dataset import IMAGES, Dataset
from hm4sr.errors import UserError
from hm4sr.files import read_json

REPORT = "report.json"


@dataclass(frozen=True)
class Pictures:
    """The picture of each item row.

    Attributes:
        paths: file, or None where there is none.
        files: the same as messages should show it.
        gaps: item row to the reason why its address gave nothing.
        waiting: items whose address has not been asked yet.
    """

    paths: list[Path | None]
    files: list[str | None]
    gaps: dict[int, str] = field(default_factory=dict)
    waiting: int = 0


def stem(url: str) -> str:
    """Name of a downloaded picture, without its ending."""
    return hashlib.sha256(url.encode()).hexdigest()[:40]


def downloaded(folder: Path) -> dict[str, str]:
    """Stem to name of the downloaded pictures in a folder."""
    if not folder.is_dir():
        return {}
    names = (path.name for path in folder.iterdir() if not path.name.startswith("."))
    return {name.partition(".")[0]: name for name in names if name != REPORT}


def failures(folder: Path) -> dict[str, dict[str, object]]:
    """Addresses that gave nothing, with `reason`, `lasting` and `tries`; none where there is no report."""
    try:
        report = read_json(folder / REPORT)
    except UserError:
        return {}
    failed = report.get("failed") if isinstance(report, dict) else None
    return failed if isinstance(failed, dict) else {}


def find_pictures(dataset: Dataset, root: Path | None = None) -> Pictures:
    """Look up the picture of each item of a data set; a file of the user's goes before a downloaded one.

    Args:
        dataset: the data set.
        root: folder that the user's paths are relative to, instead of the one noted by `hm4sr prepare`.

    Raises:
        UserError: there are paths, but not the folder that they are relative to.
    """
    names = [name or None for name in dataset.items["image"].to_list()]
    noted = dataset.manifest["rules"].get("image_root")
    root = root or (Path(noted) if noted else dataset.path)
    if any(names) and not root.is_dir():
        raise UserError(
            f"the folder of the pictures, {root}, does not exist: give its place with --image-root."
        )
    found = Pictures([None if name is None else root / name for name in names], list(names))
    if "image_url" not in dataset.items.columns:
        return found
    folder = dataset.path / IMAGES
    here, failed = downloaded(folder), failures(folder)
    waiting = 0
    for row, url in enumerate(dataset.items["image_url"].to_list()):
        if found.paths[row] is not None or not url:
            continue
        if name := here.get(stem(url)):
            found.paths[row], found.files[row] = folder / name, f"{IMAGES}/{name}"
        elif url in failed:
            found.files[row], found.gaps[row] = url, f"not downloaded: {failed[url].get('reason')}"
        else:
            waiting += 1
    return Pictures(found.paths, found.files, found.gaps, waiting)
