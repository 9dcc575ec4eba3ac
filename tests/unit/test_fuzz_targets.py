"""The targets of `make fuzz` without the fuzzer: their seeds, damaged a little, and what they found."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fuzz.targets import TARGETS

from hm4sr.data.prepare import PrepareConfig, prepare_source
from hm4sr.data.sources import open_source
from hm4sr.data.sources.lines import BadLineError
from hm4sr.data.sources.records import RecordParser
from hm4sr.errors import UserError
from hm4sr.serving.history_files import Columns, read_histories
from training_kit import one_byte_otherwise

NEEDS = {
    "pictures": ["PIL"],
    "export": ["onnx", "onnxruntime"],
    "requests": ["fastapi", "prometheus_client", "PIL"],
}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Targets switch logging and warnings off, for the processes they usually have for themselves."""
    with warnings.catch_warnings():
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_damaged_seeds_are_read_or_refused(tmp_path: Path, name: str) -> None:
    for module in NEEDS.get(name, []):
        pytest.importorskip(module)
    target, rng = TARGETS[name](tmp_path), np.random.default_rng(0)
    assert target.seeds
    for seed in target.seeds[:12]:
        target.run(seed)
        target.run(one_byte_otherwise(seed, rng)[0])
    target.run(b"")


def test_a_target_tells_what_is_no_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS["histories"](tmp_path)

    def failing(*_: object) -> None:
        raise KeyError("item_id")

    monkeypatch.setattr("hm4sr.serving.history_files._read", failing)
    with pytest.raises(KeyError):
        target.run(b"[]")

    def stammering(*_: object) -> None:
        raise UserError("no")

    monkeypatch.setattr("hm4sr.serving.history_files._read", stammering)
    with pytest.raises(AssertionError, match="no sentence"):
        target.run(b"[]")


RECORDS = RecordParser({"asin": pl.String, "unixReviewTime": pl.Int64, "overall": pl.Float64}, literals=True)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'asin': 0x" + b"f" * 5_000 + b"}", "thousands of digits as asin"),
        (b"{'unixReviewTime': 0x" + b"f" * 5_000 + b"}", "thousands of digits as unixReviewTime"),
        (b"{'overall': 0x" + b"f" * 5_000 + b"}", "thousands of digits as overall"),
        (b'{"asin": "\\ud800"}', "half of a character as asin"),
        (b"{'asin': '\\ud800'}", "half of a character as asin"),
        (b'{"unixReviewTime": "\\ud800"}', "half of a character as unixReviewTime"),
    ],
)
def test_cells_that_no_table_holds_are_bad_lines(line: bytes, reason: str) -> None:
    with pytest.raises(BadLineError, match=reason):
        RECORDS.line(line)


@pytest.mark.parametrize("row", ["u1,i1,yesterday", ",i1,1400000000", "u1,,1400000000"])
def test_a_log_of_bad_rows_alone_is_one_sentence(tmp_path: Path, row: str) -> None:
    (tmp_path / "log.csv").write_text(f"user_id,item_id,timestamp\n{row}\n")
    (tmp_path / "items.csv").write_text("item_id,title\ni1,Tea\n")
    source = open_source("table", tmp_path / "log.csv", tmp_path / "items.csv")
    with pytest.raises(UserError, match=r"log\.csv has no usable rows \(first: .*line 2 has"):
        prepare_source(source, tmp_path / "out", PrepareConfig(bad_rows="skip"))
    assert not (tmp_path / "out").exists()


def test_half_a_character_in_a_history_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "histories.json").write_text('[{"item_id": "\\ud800"}]')
    with pytest.raises(UserError, match=r"row 1: item_id = .* holds half of a character"):
        read_histories(tmp_path / "histories.json", Columns("user_id", "item_id", "timestamp"))
