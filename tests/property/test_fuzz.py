"""Parsers and loaders given anything: they read it, or refuse it in one sentence."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from hm4sr.config import override, read_toml
from hm4sr.data.prepare import prepare_source
from hm4sr.data.sources import open_source
from hm4sr.data.timestamps import read_times
from hm4sr.errors import UserError
from hm4sr.manifest import read_manifest
from hm4sr.serving.http.schemas import Question
from hm4sr.training.settings import Experiment
from hostile_kit import SAFETENSORS, safetensors, tensor

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def refused_or_read(work: Callable[[], object]) -> None:
    """Nothing but a sentence may come of it."""
    said = "."
    try:
        work()
    except UserError as error:
        said = str(error).rstrip()
    assert said.endswith((".", "?"))


@QUICK
@given(
    st.lists(
        st.one_of(st.none(), st.text(max_size=24), st.integers().map(str), st.floats().map(str)),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["auto", "s", "ms", "iso"]),
)
@example(["2014-05-13T16:53:20Z", "1400000000"], "auto")
@example(["-0001-01-01"], "iso")
def test_timestamps(values: list[str | None], unit: str) -> None:
    column = pl.Series("time", values, dtype=pl.String)
    refused_or_read(lambda: read_times(column, unit, lambda row: f"row {row}"))


ROWS = st.lists(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.integers().map(str), max_size=5
    ).map(",".join),
    max_size=5,
).map(lambda rows: "\n".join(rows).encode())


@QUICK
@given(st.booleans(), st.one_of(ROWS, st.binary(max_size=120)))
def test_tables(tmp_path: Path, header: bool, body: bytes) -> None:
    file = tmp_path / "events.csv"
    file.write_bytes((b"user_id,item_id,timestamp\n" if header else b"") + body)
    refused_or_read(lambda: prepare_source(open_source("table", file), tmp_path / "out"))


LINE = st.one_of(
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("reviewerID", "asin", "unixReviewTime", "user_id", "timestamp"), JSON)
    ).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({}, optional={"asin": JSON}).map(
        lambda value: repr(value).encode("utf-8", "replace")
    ),
    st.lists(st.text(max_size=6) | st.integers().map(str), max_size=5).map(
        lambda cells: "\t".join(cells).encode("utf-8", "replace")
    ),
    st.binary(max_size=60),
)
SOURCES = ["amazon-2014", "amazon-2018", "amazon-2023", "recbole", "movielens-1m", "movielens-100k"]


@pytest.mark.parametrize("source", SOURCES)
@QUICK
@given(lines=st.lists(LINE, max_size=4), packed=st.booleans())
def test_sources(tmp_path: Path, source: str, lines: list[bytes], packed: bool) -> None:
    file, out = tmp_path / "raw", tmp_path / "out"
    content = b"\n".join(lines)
    file.write_bytes(gzip.compress(content) if packed else content)
    refused_or_read(lambda: prepare_source(open_source(source, file), out))


@QUICK
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda t: t.encode("utf-8", "replace"))))
def test_configurations(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    refused_or_read(lambda: read_toml(file))


@QUICK
@given(
    st.sampled_from(
        ["seed", "model", "model.name", "model.dim", "train.epochs", "data.path", "data", "", "."]
    ),
    st.one_of(JSON.map(json.dumps), st.text(max_size=20)),
)
def test_settings_of_the_command_line(key: str, value: str) -> None:
    def build() -> None:
        values = {"data": {"path": "x"}, "model": {"name": "hm4sr"}}
        experiment = Experiment.build(override(values, [f"{key}={value}"]), "test")
        experiment.model_settings()

    refused_or_read(build)


@QUICK
@given(
    JSON,
    st.sampled_from(["users", "histories", "k", "at_time", "exclude", "without"]),
    st.binary(max_size=40),
)
def test_requests(value: object, key: str, raw: bytes) -> None:
    for content in (json.dumps(value).encode(), json.dumps({key: value}).encode(), raw):
        try:
            Question.model_validate_json(content).arguments()
        except ValidationError:  # answered with 422
            continue


@QUICK
@given(
    st.one_of(
        st.binary(max_size=80),
        st.builds(safetensors, JSON, st.binary(max_size=32)),
        st.builds(
            lambda shape, start, end, data: safetensors({"a": tensor(shape, start, end)}, data),
            st.lists(st.integers(-2, 2**65), max_size=3),
            st.integers(-8, 2**65),
            st.integers(-8, 2**65),
            st.binary(max_size=32),
        ),
        st.sampled_from(list(SAFETENSORS.values())),
    )
)
def test_weights(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    try:
        for found in load_file(file).values():
            assert found.numel() * found.element_size() <= len(content)
    except (SafetensorError, RuntimeError, ValueError):  # what every loader here turns into a sentence
        pass


@QUICK
@given(st.one_of(JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=80)))
def test_manifests(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "manifest.json"
    file.write_bytes(content)
    refused_or_read(lambda: read_manifest(file))
