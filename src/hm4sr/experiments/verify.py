"""What `hm4sr verify` checks: every hash, the data behind a run, and every rank and metric anew.

A run is ranked again with as many threads as it was trained with. On the machine and with the versions that
trained it, ranks and metrics come out the same to the last bit, and nothing less passes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from hm4sr.data.dataset import FORMAT as DATASET
from hm4sr.data.dataset import TABLES, Dataset, Part
from hm4sr.errors import UserError
from hm4sr.evaluation.metrics import summarise
from hm4sr.evaluation.ranking import RankedTargets, rank_part
from hm4sr.experiments.records import FORMAT as REPORT
from hm4sr.experiments.records import PUBLISHED
from hm4sr.features.store import feature_folder, feature_names, load_features, read_feature_manifest
from hm4sr.files import difference, read_json
from hm4sr.manifest import NAME, listed_files, read_manifest
from hm4sr.runtime import describe_machine
from hm4sr.serving.batch import FORMAT as BATCH
from hm4sr.serving.onnx_recommender import FILES as EXPORTED
from hm4sr.serving.onnx_recommender import FORMAT as EXPORT
from hm4sr.training.events import seen_events
from hm4sr.training.run import FILES, Run
from hm4sr.training.run import FORMAT as RUN

_PARTS: tuple[Part, ...] = ("valid", "test")
_NEAR_TIES, _TOLERANCE = 0.001, 1e-4
"""Scores are sums, whose order may be another in a later version: so many ranks may be one place off (and as
much of a large one), and metrics as little, without anything being wrong."""
_REQUIRED = {RUN: FILES, DATASET: TABLES, EXPORT: EXPORTED, REPORT: PUBLISHED, BATCH: []}


@dataclass(frozen=True)
class Check:
    """One line of a verification.

    Attributes:
        subject: what was looked at.
        result: what was found, in words.
        passed: whether it is as it should be; None where it could not be checked, which is no failure.
    """

    subject: str
    result: str
    passed: bool | None = True


def verify(path: Path, data: Path | None = None) -> list[Check]:
    """Check a folder that hm4sr wrote: a run, a data set, an export, a published report or an `--all-users`.

    Args:
        path: the folder.
        data: the prepared data set of a run, if it has moved.

    Raises:
        UserError: the folder is none of these.
    """
    if not (path / NAME).is_file():
        raise UserError(
            f"{path} has no manifest.json: give the folder of a finished run, a prepared data set, an "
            "export, a published report or the recommendations for all users."
        )
    try:
        manifest = read_manifest(path / NAME)
        kind = str(manifest.get("format"))
        if kind not in _REQUIRED:
            raise UserError(f"{path} is of a format that is not known ({kind}): give a folder of hm4sr.")
        files = listed_files(path, manifest, _REQUIRED[kind])
    except UserError as error:
        if not _ours(path):
            raise
        return [Check(NAME, str(error), False)]
    checks = [Check(NAME, "lists every file and is as it was written"), *_hashes(path, files)]
    if not all(check.passed for check in checks):
        return checks
    if kind == DATASET:
        checks += _dataset(path)
    elif kind == RUN:
        checks += _run(path, data)
    elif kind == REPORT:
        checks += _metrics(pl.read_parquet(path / "ranks.parquet"), read_json(path / "report.json"))
    return checks


def _ours(path: Path) -> bool:
    """Whether a folder with an unreadable manifest looks like one of ours."""
    return any((path / name).is_file() for names in _REQUIRED.values() for name in names)


def _hashes(path: Path, files: dict[str, str], prefix: str = "") -> list[Check]:
    found = {name: difference(path / name, expected) for name, expected in sorted(files.items())}
    return [
        Check(f"{prefix}{name}", problem or f"sha256 {files[name][:16]}...", not problem)
        for name, problem in found.items()
    ]


def _dataset(path: Path) -> list[Check]:
    """The tables' contents, and the features."""
    try:
        dataset = Dataset.open(path)
        log = dataset.events
    except UserError as error:
        return [Check("tables", str(error), False)]
    size = f"{log.num_users:,} users, {dataset.num_items:,} items, {log.num_events:,} events"
    checks = [Check("tables", f"{size}; parts and item numbers fit")]
    for name in feature_names(dataset):
        try:
            manifest = read_feature_manifest(dataset, name)
            folder = feature_folder(dataset, name)
            checks += _hashes(folder, listed_files(folder, manifest, []), f"features/{name}/")
            features = load_features(dataset, name)
        except UserError as error:
            checks.append(Check(f"features/{name}", str(error), False))
            continue
        present = int(features.present.sum())
        shape = f"{present:,} of {dataset.num_items:,} items, {features.vectors.shape[1]} numbers each"
        checks.append(Check(f"features/{name}", shape))
    return checks


def _run(path: Path, data: Path | None) -> list[Check]:
    run = Run.open(path)
    report, ranks = run.report, run.ranks()
    checks = _metrics(ranks, report)
    recorded = read_json(path / "environment.json")
    checks.append(_conditions(recorded))
    place = Path(data or read_json(path / "data.json")["path"])
    if data is None and not place.exists():
        return [*checks, Check("data set", f"{place} is not there: name it with --data to rank anew", None)]
    try:
        dataset = run.dataset(place)
        with _threads(int(recorded.get("threads", 0))):
            model, seen = run.load_model(dataset), seen_events(dataset, run.experiment.data)
            anew = {part: rank_part(model, seen, part, torch.device("cpu")) for part in _PARTS}
    except UserError as error:
        return [*checks, Check("data set and ranking", str(error), False)]
    checks.append(Check("data set", f"{place} is what the run was trained on, features included"))
    parameters = model.num_parameters()
    fits = parameters == report["parameters"]
    checks.append(Check("model", f"{parameters:,} parameters, {report['parameters']:,} in report.json", fits))
    for part in _PARTS:
        checks += _ranked_anew(part, anew[part], ranks, report)
    return checks


def _metrics(ranks: pl.DataFrame, report: dict[str, Any]) -> list[Check]:
    """report.json against ranks.parquet; needs neither data nor weights."""
    checks = []
    for part in _PARTS:
        kept = ranks.filter(pl.col("part") == part)["rank"].to_numpy().astype(np.int64)
        subject = f"{part} metrics from ranks.parquet"
        checks.append(_compare(subject, report.get(part), summarise(kept, _cuts(report.get(part)))))
    return checks


def _ranked_anew(
    part: Part, anew: RankedTargets, ranks: pl.DataFrame, report: dict[str, Any]
) -> Iterator[Check]:
    kept, table = ranks.filter(pl.col("part") == part), anew.table(part)
    subject = f"{part} ranks by the stored weights"
    if not kept.select("user", "item").equals(table.select("user", "item")):
        yield Check(subject, "other users or targets than in ranks.parquet", False)
        return
    before, after = kept["rank"].to_numpy().astype(np.int64), table["rank"].to_numpy()
    moved = np.abs(before - after)
    different = int((moved > 0).sum())
    rounding = different <= _NEAR_TIES * len(kept) and bool((moved <= 1 + _NEAR_TIES * before).all())
    found = f"{different:,} of {len(kept):,} differ" + (", as near ties do" if different and rounding else "")
    yield Check(subject, found, rounding)
    given, tolerance = report.get(part), _TOLERANCE if different and rounding else 0.0
    anew_metrics = summarise(anew.ranks, _cuts(given))
    yield _compare(f"{part} metrics by the stored weights", given, anew_metrics, tolerance)


def _compare(subject: str, recorded: Any, found: dict[str, float], tolerance: float = 0.0) -> Check:
    if not isinstance(recorded, dict):
        return Check(subject, "report.json has none", False)
    wrong = [
        f"{name} {recorded[name]!r}, found {found.get(name)!r}"
        for name in recorded
        if not abs(recorded[name] - found.get(name, np.inf)) <= tolerance
    ]
    if wrong:
        return Check(subject, f"{len(wrong)} of {len(recorded)} differ: {'; '.join(wrong)}", False)
    exact = all(recorded[name] == found[name] for name in recorded)
    how = "equal to the last bit" if exact else f"within {tolerance:g}"
    return Check(subject, f"all {len(recorded)} {how}")


def _cuts(recorded: Any) -> list[int]:
    """The cut-offs of recorded metrics such as "ndcg@10"."""
    cuts = {str(name).partition("@")[2] for name in (recorded if isinstance(recorded, dict) else {})}
    return sorted(int(cut) for cut in cuts if cut.isdecimal() and int(cut))


def _conditions(recorded: dict[str, Any]) -> Check:
    """Whether ranks can be expected to be the same: a comparison that does not pass may have this reason."""
    here = describe_machine(torch.device("cpu"))
    names = ("hm4sr", "torch", "numpy", "device", "processor", "instructions")
    other = [
        f"{name} {recorded[name]}, here {here[name]}"
        for name in names
        if name in recorded and recorded[name] != here[name]
    ]
    if other:
        return Check("versions and processor", f"{'; '.join(other)}: ranks may differ by rounding", None)
    return Check("versions and processor", "the same as in training")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Within this context torch uses that many threads, as training did: sums depend on their split."""
    before = torch.get_num_threads()
    if count > 0:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
