"""Recommendations for all users of a run, as Parquet parts that survive interruptions.

OUT/part-00000.parquet ...    columns user_id, rank, item_id, title, score, source; users in their order
OUT/manifest.json             the question, sha256 of every finished part, and whether all are there
"""

import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from hm4sr.config import Config
from hm4sr.data.tables import read_own
from hm4sr.errors import UserError
from hm4sr.files import atomic_file, sha256, writing
from hm4sr.manifest import NAME, check_format, listed_files, read_manifest, verify_listed, write_manifest
from hm4sr.progress import Progress
from hm4sr.serving.recommender import Recommender
from hm4sr.serving.source import Source

logger = logging.getLogger(__name__)

FORMAT = "hm4sr-recommendations"
VERSION = 1
_ADVICE = "make room there or mend the rights and call again; what was finished is kept"


class BatchConfig(Config):
    """What all users are recommended; see `Recommender.recommend`."""

    k: int = Field(10, ge=1)
    """Items of each answer."""
    filter_seen: bool = True
    """Leave out the items of the history."""
    exclude: tuple[str, ...] = ()
    """Items that no answer may hold."""
    include: tuple[str, ...] | None = None
    """The only items that an answer may hold."""
    categories: tuple[str, ...] | None = None
    """Categories of which an answer's items must have one."""
    at_time: int | None = None
    """Moment of the question, in seconds since 1970."""
    part_users: int = Field(10_000, ge=1)
    """Users of one Parquet part, the most that an interruption can cost for each worker."""

    def options(self) -> dict[str, Any]:
        """Arguments of `Recommender.recommend`."""
        return self.model_dump(exclude={"part_users"})


@dataclass(frozen=True)
class Finished:
    """What a batch has done.

    Attributes:
        users: users answered, those of an earlier start included.
        parts: Parquet parts there are.
        kept: how many of them were there already.
    """

    users: int
    parts: int
    kept: int


class Answerer:
    """Answers parts of the users with a recommender of its own."""

    def __init__(self, source: Source, config: BatchConfig, recommender: Recommender | None = None):
        self._recommender = recommender or source.load()
        self._options, self._size = config.options(), config.part_users
        self._users: list[str] = self._recommender.dataset.users["user_id"].to_list()

    def part(self, number: int) -> tuple[int, bytes]:
        """The number of a part and its Parquet file."""
        first = number * self._size
        users = self._users[first : first + self._size]
        stream = io.BytesIO()
        answers = self._recommender.recommend(users, **self._options)
        answers.table().write_parquet(stream, compression="zstd")
        return number, stream.getvalue()


def recommend_all(
    source: Source, config: BatchConfig, out: Path, workers: int = 1, force: bool = False
) -> Finished:
    """Answer all users of a run's data set, continuing what an interrupted call with the same question left.

    Args:
        source: the run.
        config: the question.
        out: folder to write, made if need be.
        workers: processes that answer; more than one are run by Ray, on this machine or, where RAY_ADDRESS
            names a cluster, on its machines, which must see the run and its data under the same paths.
        force: start anew where the folder holds answers to another question.

    Raises:
        UserError: the question is malformed, the folder holds something else, Ray is missing, or a worker
            died.
    """
    recommender = source.load()
    recommender.prepare([], **config.options())  # mistakes are told before anything is written
    manifest = _start(out, _question(source, config, recommender), force)
    num_users = len(recommender.dataset.users)
    numbers = range(-(-num_users // config.part_users))
    done = [number for number in numbers if _is_whole(out, number, manifest)]
    todo = [number for number in numbers if number not in set(done)]
    manifest["files"] = {_name(number): manifest["files"][_name(number)] for number in done}
    _keep(out, manifest)
    sizes = {number: min(config.part_users, num_users - number * config.part_users) for number in numbers}
    with Progress("recommend", num_users, "users") as progress:
        progress.advance(sum(sizes[number] for number in done))
        for number, content in _answers(source, config, recommender, todo, workers):
            with writing(out, _ADVICE), atomic_file(out / _name(number)) as temporary:
                temporary.write_bytes(content)
            manifest["files"][_name(number)] = sha256(out / _name(number))
            _keep(out, manifest)
            progress.advance(sizes[number])
    manifest["files"] = dict(sorted(manifest["files"].items()))
    _keep(out, {**manifest, "finished": True})
    return Finished(num_users, len(numbers), len(done))


def read_recommendations(path: str | Path) -> pl.DataFrame:
    """All parts that `recommend_all` wrote, as one table; see the head of this module for its columns.

    Raises:
        UserError: no finished recommendations are there, or a part is missing or has changed.
    """
    path = Path(path)
    advice = "give a folder written by `hm4sr recommend --all-users`"
    if not (path / NAME).is_file():
        raise UserError(f"{path} holds no recommendations (no manifest.json): {advice}.")
    manifest = read_manifest(path / NAME)
    check_format(path, manifest, (FORMAT, VERSION), "a folder of recommendations", advice)
    if manifest.get("finished") is not True:
        raise UserError(f"{path} is not finished: call the same `hm4sr recommend --all-users` again.")
    files = verify_listed(path, manifest, [])
    if not files:
        raise UserError(f"{path} holds no parts: {advice}.")
    return pl.concat([read_own(path / name) for name in sorted(files)])


def _answers(
    source: Source, config: BatchConfig, recommender: Recommender, todo: list[int], workers: int
) -> Iterator[tuple[int, bytes]]:
    if workers <= 1 or len(todo) <= 1:
        return map(Answerer(source, config, recommender).part, todo)
    from hm4sr.serving.distributed import answer_with_ray

    return answer_with_ray(source, config, todo, min(workers, len(todo)))


def _question(source: Source, config: BatchConfig, recommender: Recommender) -> dict[str, Any]:
    """All that decides the answers."""
    return {**source.identity(recommender), **config.model_dump(mode="json")}


def _start(out: Path, question: dict[str, Any], force: bool) -> dict[str, Any]:
    """The manifest to go on with."""
    fresh = {"format": FORMAT, "version": VERSION, "finished": False, "question": question, "files": {}}
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder with --out.")
    there = sorted(out.iterdir()) if out.exists() else []
    if not there:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out} cannot be made ({error.strerror}): name another --out.") from error
        return fresh
    manifest = read_manifest(out / NAME) if (out / NAME).is_file() else {}
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("question"), dict):
        raise UserError(f"{out} is not empty and holds no recommendations: name another folder with --out.")
    for stale in out.glob(".part-*"):  # of a process that was killed while it wrote
        stale.unlink()
    listed_files(out, manifest, [])
    different = [key for key, value in question.items() if manifest["question"].get(key) != value]
    if not different:
        return {**manifest, "finished": False}
    if not force:
        raise UserError(
            f"{out} holds answers to another question ({', '.join(different)} differ): add --force to "
            "replace them, or name another folder with --out."
        )
    _remove_parts(out, manifest["files"])
    return fresh


def _remove_parts(out: Path, names: Iterable[str]) -> None:
    (out / NAME).unlink()
    for name in names:
        (out / name).unlink(missing_ok=True)


def _is_whole(out: Path, number: int, manifest: dict[str, Any]) -> bool:
    file, expected = out / _name(number), manifest["files"].get(_name(number))
    if expected is None:
        return False
    if file.is_file() and sha256(file) == expected:
        return True
    logger.warning("%s is missing or damaged: its users are answered again.", file)
    return False


def _keep(out: Path, manifest: dict[str, Any]) -> None:
    with writing(out, _ADVICE):
        write_manifest(out / NAME, manifest)


def _name(number: int) -> str:
    return f"part-{number:05d}.parquet"
