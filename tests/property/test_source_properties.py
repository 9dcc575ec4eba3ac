"""Lines of any content: what is read is what was written, and what cannot be read is counted."""

import json
import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hm4sr.data.sources.bad_rows import BadRows
from hm4sr.data.sources.delimited import DelimitedParser
from hm4sr.data.sources.lines import read_lines
from hm4sr.data.sources.records import RecordParser, parse_literal
from hm4sr.errors import UserError

QUICK = settings(max_examples=40, deadline=None)
SCHEMA = {"asin": pl.String, "time": pl.Int64, "paths": pl.List(pl.List(pl.String)), "price": pl.Float64}

# Not the characters whose UTF-8 bytes Python 2 wrote one by one: reading mends those on purpose.
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0", max_codepoint=0x7F), max_size=12
)
WIDE = st.text(st.characters(min_codepoint=0x100, exclude_categories=["Cs"]), max_size=4)
RECORDS = st.fixed_dictionaries(
    {
        "asin": st.text(min_size=1, alphabet="AB019"),
        "title": st.one_of(TEXT, WIDE),
        "paths": st.lists(st.lists(TEXT)),
    },
    optional={
        "time": st.integers(-(2**62), 2**62),
        "price": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False, width=32)),
        "related": st.dictionaries(TEXT, st.lists(st.one_of(TEXT, st.booleans(), st.none()))),
    },
)


def read(tmp_path_factory, lines, parser, rule="error"):
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_bytes(b"\n".join(lines))
    bad = BadRows(rule)
    return read_lines(path, parser, bad), bad.counts.get(path, 0)


@QUICK
@given(st.lists(RECORDS, min_size=1, max_size=6), st.sampled_from(["json", "literal", "mixed"]))
def test_records_come_back_as_they_were_written(tmp_path_factory, records, form):
    lines = []
    for number, record in enumerate(records):
        literal = form == "literal" or (form == "mixed" and number % 2)
        lines.append((ascii(record) if literal else json.dumps(record)).encode())
    schema = {"asin": pl.String, "title": pl.String, "paths": pl.List(pl.List(pl.String)), "time": pl.Int64}
    schema["price"] = pl.Float64
    table, _ = read(tmp_path_factory, lines, RecordParser(schema, literals=True))
    for row, record in zip(table.frame.iter_rows(named=True), records, strict=True):
        for name in ("asin", "title", "paths", "time"):
            assert row[name] == record.get(name)
        assert row["price"] == record.get("price") or math.isclose(
            row["price"], record["price"], rel_tol=1e-9
        )


@QUICK
@given(st.lists(st.one_of(st.binary(max_size=30), RECORDS.map(lambda r: json.dumps(r).encode())), max_size=8))
def test_every_line_gives_a_row_or_is_counted(tmp_path_factory, lines):
    lines = [line.replace(b"\n", b"") for line in lines]
    filled = [number for number, line in enumerate(lines, start=1) if line.strip(b" \r")]
    for parser in (
        RecordParser(SCHEMA, literals=True),
        DelimitedParser(["asin", "b"], {"asin": pl.String}, ","),
    ):
        try:
            table, skipped = read(tmp_path_factory, lines, parser, "skip")
        except UserError:  # not one row, or it began like a gzip file
            continue
        assert len(table.frame) + skipped == len(filled)
        places = [int(place.rsplit(" ", 1)[1]) for place in table.places(range(len(table.frame)))]
        assert places == sorted(set(places))
        assert set(places) <= set(filled)


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=",:\ufeff"), max_size=8)


@QUICK
@given(
    st.lists(st.tuples(CELLS, CELLS, st.integers(0, 2**40)), min_size=1, max_size=8),
    st.sampled_from([",", "::"]),
)
def test_cells_come_back_as_they_were_written(tmp_path_factory, rows, separator):
    lines = [separator.join([a, b, str(n)]).encode() for a, b, n in rows]
    schema = {"a": pl.String, "b": pl.String, "n": pl.Int64}
    table, _ = read(tmp_path_factory, lines, DelimitedParser(["a", "b", "n"], schema, separator))
    kept = [(a, b, n) for a, b, n in rows]
    got = [(a or "", b or "", n) for a, b, n in table.frame.iter_rows()]
    assert [(a.strip(" \r"), b, n) for a, b, n in got] == [(a.strip(" \r"), b, n) for a, b, n in kept]


@pytest.mark.parametrize(
    "text", ["open('x','w')", "[x for x in 'a']", "f'{1}'", "lambda: 0", "1 if 1 else 2", "a.b"]
)
def test_no_literal_runs(text):
    from hm4sr.data.sources.lines import BadLineError

    with pytest.raises(BadLineError):
        parse_literal(text)
