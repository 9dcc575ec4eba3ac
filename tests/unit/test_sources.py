"""Each source on a fixture in its true format, and what becomes of bad rows."""

import gzip
import json

import polars as pl
import pytest
import source_kit as kit

from hm4sr.data.prepare import PrepareConfig, prepare_source
from hm4sr.data.sources import SOURCES, open_source
from hm4sr.errors import UserError

RULES = {"min_user_events": 1, "min_item_events": 1}
EXPECTED = [(user, item, second) for user, item, _, second in sorted(kit.events())]


def prepared(tmp_path, name, *, interactions=None, items=None, folder=None, **rules):
    config = PrepareConfig.parse(RULES | rules, "test")
    source = open_source(name, interactions, items, folder, config.image_root)
    return prepare_source(source, tmp_path / "out", config, force=True)


def rows(data):
    users, items = data.users["user_id"].to_list(), data.items["item_id"].to_list()
    log = data.events
    numbers = zip(log.users.tolist(), log.items.tolist(), log.times.tolist(), strict=True)
    return [(users[user], items[item - 1], second) for user, item, second in numbers]


def items(data, *columns):
    return {row["item_id"]: tuple(row[name] for name in columns) for row in data.items.to_dicts()}


def test_amazon_2014(tmp_path):
    reviews, meta = kit.amazon(tmp_path, "2014")
    data = prepared(tmp_path, "amazon-2014", interactions=reviews, items=meta)
    assert rows(data) == EXPECTED
    assert items(data, "title", "brand", "categories", "image_url") == {
        "0205616461": (
            "Bio-Active Crème",
            "L'Oréal",
            ["Beauty", "Skin Care", "Face", "Night"],
            "http://ecx.images-amazon.com/images/I/41DY.jpg",
        ),
        "B00004TMFE": ("Cotton Pads & Swabs", None, ["Beauty", "Tools"], None),
        "B0009RF9DW": ("He said 'no' \"twice\" \\ again", None, ["Beauty"], None),
    }
    assert data.items["text"][0] == "Bio-Active Crème. Beauty Skin Care Face Night L'Oréal."
    statistics = data.manifest["statistics"]
    assert statistics["source"] == "amazon-2014"
    assert statistics["time_unit"] == "s"
    assert "bad_rows" not in statistics


def test_amazon_2018(tmp_path):
    reviews, meta = kit.amazon(tmp_path, "2018")
    data = prepared(tmp_path, "amazon-2018", interactions=reviews, items=meta, text_columns=("description",))
    assert rows(data) == EXPECTED
    high = "https://images-na.ssl-images-amazon.com/images/I/41a.jpg"
    assert items(data, "title", "brand", "categories", "image_url", "text") == {
        "0205616461": (
            "Herbal & Mild Shampoo",
            "Acme",
            ["Beauty", "Hair Care", "Shampoos"],
            high,
            "Line one. Line two..",
        ),
        "B00004TMFE": (None, None, [], None, None),
        "B0009RF9DW": ("Comb", None, ["Beauty", "Combs"], None, "one text."),
    }
    assert data.manifest["statistics"]["repeated_items"] == {meta.name: 1}


def test_amazon_2023_from_a_folder(tmp_path):
    kit.amazon(tmp_path / "raw", "2023")
    data = prepared(tmp_path, "amazon-2023", folder=tmp_path / "raw", min_rating=4)
    assert data.manifest["statistics"]["time_unit"] == "ms"
    assert len(rows(data)) == sum(rating >= 4 for _, _, rating, _ in kit.events())
    assert set(rows(data)) <= set(EXPECTED)
    assert items(data, "title", "brand", "categories", "image_url") == {
        "0205616461": (
            "Sea Spray",
            "Herbivore",
            ["Beauty", "Hair"],
            "https://m.media-amazon.com/images/I/1.jpg",
        ),
        "B00004TMFE": ("Mist", None, [], None),
        "B0009RF9DW": (None, "Acme", ["Beauty"], "https://m.media-amazon.com/images/I/3.jpg"),
    }


@pytest.mark.parametrize("year", ["2014", "2018", "2023"])
@pytest.mark.parametrize("compress", [True, False])
def test_amazon_ratings_alone(tmp_path, year, compress):
    lines = [
        f"{item},{user},{rating},{second}" if year == "2018" else f"{user},{item},{rating},{second}"
        for user, item, rating, second in kit.events()
    ]
    if year == "2023":
        lines.insert(0, "user_id,parent_asin,rating,timestamp")
    log = kit.write(tmp_path / f"ratings.csv{'.gz' if compress else ''}", lines, compress)
    data = prepared(tmp_path, f"amazon-{year}", interactions=log)
    assert rows(data) == EXPECTED
    assert data.items["text"].null_count() == 3


@pytest.mark.parametrize("year", ["2014", "2018"])
def test_ratings_of_the_other_edition_are_refused(tmp_path, year):
    """They would be read with users as items, and no word said."""
    pairs = [("B0009RF9DW", "A1YJEY40YUW4SE"), ("0439893577", "A3SGXH7AUHU8GW")]
    pairs = pairs if year == "2014" else [(user, item) for item, user in pairs]
    log = kit.write(tmp_path / "ratings.csv", [f"{one},{other},5.0,1400000000" for one, other in pairs])
    with pytest.raises(UserError, match=r"ratings.csv, line 1: 'B0009RF9DW' stands where .* --source"):
        prepared(tmp_path, f"amazon-{year}", interactions=log)


def test_recbole(tmp_path):
    log, _ = kit.recbole(tmp_path / "raw")
    expected = {
        "0205616461": ('Toy "Story', ["Animation", "Children's", "Comedy"]),
        "B00004TMFE": ("Heat", ["Action", "Crime"]),
        "B0009RF9DW": (None, []),
    }
    for paths in ({"interactions": log}, {"folder": tmp_path / "raw"}):
        data = prepared(tmp_path, "recbole", **paths)
        assert rows(data) == EXPECTED
        assert items(data, "title", "categories") == expected
    chosen = prepared(tmp_path, "recbole", interactions=log, title_column="release_year", min_rating=5)
    assert chosen.items["title"].to_list()[0] == "1995"
    assert len(rows(chosen)) == 3


@pytest.mark.parametrize(
    ("name", "make", "titles", "categories"),
    [
        (
            "movielens-100k",
            kit.movielens_100k,
            ["Toy Story (1995)", "Un été (1996)", "unknown"],
            [["Animation", "Children's", "Comedy"], ["Drama", "Western"], []],
        ),
        (
            "movielens-1m",
            kit.movielens_1m,
            ["Toy Story (1995)", "M: Café (1996)", "X, The"],
            [["Animation", "Children's", "Comedy"], ["Drama"], ["War"]],
        ),
        (
            "movielens-latest",
            kit.movielens_latest,
            ["Toy Story (1995)", 'Été, L\' "x"', "Nothing"],
            [["Adventure", "Children"], ["Drama"], []],
        ),
    ],
)
def test_movielens(tmp_path, name, make, titles, categories):
    raw = tmp_path / "raw" / "ml"
    raw.mkdir(parents=True)
    make(raw)
    for folder in (raw, raw.parent):  # as unpacked, or one above
        data = prepared(tmp_path, name, folder=folder)
        numbered = [(user[1], str(kit.ASINS.index(item) + 1), second) for user, item, second in EXPECTED]
        assert rows(data) == numbered
        assert data.items["title"].to_list() == titles
        assert data.items["categories"].to_list() == categories
    assert len(rows(prepared(tmp_path, name, folder=raw, min_rating=4))) == 6


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("movielens-100k", kit.movielens_100k),
        ("movielens-1m", kit.movielens_1m),
        ("movielens-latest", kit.movielens_latest),
        ("microlens", kit.microlens),
        ("recbole", lambda folder: kit.recbole(folder)[0].parent),
    ],
)
@pytest.mark.parametrize("encoding", [None, "utf-8"])
def test_compressed_or_not_is_seen_from_the_content(tmp_path, name, make, encoding):
    (tmp_path / "raw").mkdir()
    raw = make(tmp_path / "raw")
    if encoding and name == "movielens-1m":  # as 10M is
        films = (raw / "movies.dat").read_bytes().decode("latin-1")
        (raw / "movies.dat").write_text(films, encoding=encoding)
    plain = prepared(tmp_path, name, folder=raw)
    expected = rows(plain), plain.items.rows()
    for file in raw.iterdir():
        if file.is_file():
            file.write_bytes(gzip.compress(file.read_bytes()))
    data = prepared(tmp_path, name, folder=raw)
    assert (rows(data), data.items.rows()) == expected


@pytest.mark.parametrize("header", [True, False])
def test_microlens(tmp_path, header):
    raw = kit.microlens(tmp_path / "raw", header)
    data = prepared(tmp_path, "microlens", folder=raw)
    assert data.manifest["statistics"]["time_unit"] == "ms"
    assert len(rows(data)) == 9
    assert items(data, "title", "image") == {
        "1": ("A cat, asleep", "1.jpg"),
        "2": ("Dog", None),
        "3": ("Bird", "3.png"),
    }
    assert data.manifest["rules"]["image_root"] == str(raw / "MicroLens-50k_covers")


def test_microlens_without_titles_but_with_pictures(tmp_path):
    raw = kit.microlens(tmp_path / "raw")
    log = raw / "MicroLens-50k_pairs.csv"
    data = prepared(tmp_path, "microlens", interactions=log, image_root=raw / "MicroLens-50k_covers")
    assert items(data, "title", "image") == {"1": (None, "1.jpg"), "2": (None, None), "3": (None, "3.png")}


def test_tables_without_items_and_with_addresses(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\nu,b,1405296000\nu,a,1405296001\nu,a,1405296002\n")
    data = prepared(tmp_path, "table", interactions=log)
    assert data.items["item_id"].to_list() == ["a", "b"]
    assert data.items["text"].null_count() == 2
    assert "image_url" not in data.items.columns
    with pytest.raises(UserError, match=r"--text-columns 'title' asks for a column of items, .* --items"):
        prepared(tmp_path, "table", interactions=log, text_columns=("title",))
    table = tmp_path / "items.csv"
    table.write_text("item_id,link\na,https://x.example/a.jpg\nb,\n")
    data = prepared(tmp_path, "table", interactions=log, items=table, image_url_column="link")
    assert data.items["image_url"].to_list() == ["https://x.example/a.jpg", None]
    assert data.manifest["rules"]["image_root"] is None


REVIEWS = list(kit.amazon_reviews("2014"))
GOOD = REVIEWS[0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (GOOD[:40], "is neither JSON nor a Python literal"),
        ('{"reviewerID": ["a"], "asin": "b"}', "has a list or a record as reviewerID"),
        (GOOD.replace("1390176000", '"soon"'), "has 'soon' as unixReviewTime, which is not a whole number"),
        (GOOD.replace("1390176000", "139017600.5"), "139017600.5' as unixReviewTime, which is not a whole"),
        ("[1, 2]", "is not a record of named fields"),
        ("__import__('os').system('true')", "is neither JSON nor a Python literal"),
        ("{" * 2000, "is neither JSON nor a Python literal"),
        ("{'asin': " + "-" * 5000 + "1}", "is neither JSON nor a Python literal"),
    ],
)
def test_a_bad_line_is_named_or_skipped(tmp_path, line, reason):
    log = kit.write(tmp_path / "reviews.json.gz", [*REVIEWS[:4], "", line, *REVIEWS[4:]])
    with pytest.raises(UserError, match=r"reviews\.json\.gz, line 6 .*--bad-rows skip") as caught:
        prepared(tmp_path, "amazon-2014", interactions=log)
    assert reason in str(caught.value)
    assert not (tmp_path / "out").exists()
    data = prepared(tmp_path, "amazon-2014", interactions=log, bad_rows="skip")
    assert rows(data) == EXPECTED
    statistics = data.manifest["statistics"]
    assert statistics["rows_read"] == 10
    assert statistics["rows_removed"]["bad_rows"] == 1
    found = statistics["bad_rows"]["reviews.json.gz"]
    assert found["skipped"] == 1
    assert found["first"][0].startswith("line 6 ")
    assert reason in found["first"][0]


def test_cells_that_cannot_be_used_are_screened_with_their_line(tmp_path):
    missing = GOOD.replace(f'"{kit.USERS[0]}"', '""')
    early = GOOD.replace("1390176000", "7")
    log = kit.write(
        tmp_path / "r.json", [*REVIEWS, "broken", missing, early, "null", missing], compress=False
    )
    data = prepared(tmp_path, "amazon-2014", interactions=log, bad_rows="skip")
    assert rows(data) == EXPECTED
    found = data.manifest["statistics"]["bad_rows"]["r.json"]
    assert found["skipped"] == 5
    assert found["first"][2:] == [
        "line 11 has user_id empty",
        "line 14 has user_id empty",
        "line 12 has timestamp '7'",
    ]


def test_blocks_smaller_than_a_line_give_the_same(tmp_path, monkeypatch):
    reviews, meta = kit.amazon(tmp_path, "2014")
    whole = prepared(tmp_path, "amazon-2014", interactions=reviews, items=meta)
    expected = rows(whole), whole.items.rows()
    for size in (1, 37, 500):
        monkeypatch.setattr("hm4sr.data.sources.lines.BLOCK", size)
        data = prepared(tmp_path, "amazon-2014", interactions=reviews, items=meta)
        assert (rows(data), data.items.rows()) == expected


def test_a_byte_order_mark_is_no_part_of_the_first_cell(tmp_path):
    for name, lines in [("r.json", REVIEWS), ("r.csv", [f"{u},{i},{r},{s}" for u, i, r, s in kit.events()])]:
        log = tmp_path / name
        log.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
        assert rows(prepared(tmp_path, "amazon-2014", interactions=log)) == EXPECTED


def test_the_fast_and_the_careful_way_agree(tmp_path, monkeypatch):
    from hm4sr.data.sources import delimited, records

    tables = {}
    for slow in (False, True):
        if slow:
            monkeypatch.setattr(records.RecordParser, "block", lambda self, data: None)
            monkeypatch.setattr(delimited.DelimitedParser, "block", lambda self, data: None)
        for name, make in [("movielens-100k", kit.movielens_100k), ("movielens-1m", kit.movielens_1m)]:
            (tmp_path / name).mkdir(exist_ok=True)
            data = prepared(tmp_path, name, folder=make(tmp_path / name))
            tables[name, slow] = rows(data), data.items.rows()
        for year in ("2014", "2018", "2023"):
            reviews, meta = kit.amazon(tmp_path / year, year)
            data = prepared(tmp_path, f"amazon-{year}", interactions=reviews, items=meta)
            tables[year, slow] = rows(data), data.items.rows()
        data = prepared(tmp_path, "recbole", interactions=kit.recbole(tmp_path / "rb")[0])
        tables["recbole", slow] = rows(data), data.items.rows()
    for name, slow in tables:
        assert tables[name, slow] == tables[name, False]


@pytest.mark.parametrize(
    ("name", "make", "file", "line", "reason"),
    [
        ("movielens-100k", kit.movielens_100k, "u.data", "1\t2\t3", "has 3 cells instead of 4"),
        ("movielens-100k", kit.movielens_100k, "u.item", "7|A|B", "has 3 cells instead of 24"),
        (
            "movielens-1m",
            kit.movielens_1m,
            "ratings.dat",
            "1::2::3::x",
            "has 'x' as timestamp, which is not a wh",
        ),
        ("movielens-1m", kit.movielens_1m, "ratings.dat", "1::2::3::4::5", "has 5 cells instead of 4"),
        (
            "movielens-latest",
            kit.movielens_latest,
            "ratings.csv",
            "1,2,3",
            "has 3 cells but the header has 4",
        ),
        ("movielens-latest", kit.movielens_latest, "movies.csv", '7,"x,Drama', "has 2 cells but the header"),
        (
            "microlens",
            kit.microlens,
            "MicroLens-50k_pairs.csv",
            "1,2,3,4",
            "has 4 cells but the header has 3",
        ),
        (
            "recbole",
            lambda folder: kit.recbole(folder) and folder,
            "ml.inter",
            "a\tb",
            "has 2 cells instead of 4",
        ),
    ],
)
def test_bad_lines_of_the_other_sources(tmp_path, name, make, file, line, reason):
    raw = tmp_path / "raw"
    raw.mkdir()
    whole = prepared(tmp_path, name, folder=make(raw))
    expected = rows(whole), whole.items.rows()
    path = raw / file
    text = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*text[:3], line.encode(), *text[3:]]))
    with pytest.raises(UserError, match=f"{file}, line 4 "):
        prepared(tmp_path, name, folder=raw)
    data = prepared(tmp_path, name, folder=raw, bad_rows="skip")
    assert (rows(data), data.items.rows()) == expected
    found = data.manifest["statistics"]["bad_rows"][file]
    assert found["skipped"] == 1
    assert found["first"] == [found["first"][0]]
    assert found["first"][0].startswith(f"line 4 {reason}")


@pytest.mark.parametrize("compress", [False, True])
def test_bad_rows_of_plain_tables(tmp_path, compress):
    log = tmp_path / "log.csv"
    content = (
        b"user_id,item_id,timestamp,rating\n"
        b"u,a,1405296000,5\n"
        b'u,"b\nc",1405296001,4\n'  # lines 3 and 4 are one good record
        b"u,a\n"
        b"\n"
        b'u,"open,1405296002,3\n'
        b"u,d,1405296003,3\n"
        b"\xff,d,1405296003,3\n"
        b" ,d,1405296003,3\n"
        b"u,d,yesterday,3\n"
        b"u,d,1405296004,many\n"
        b"u,d\0,1405296005,3\n"
    )
    log.write_bytes(gzip.compress(content) if compress else content)
    items_file = tmp_path / "items.csv"
    items_file.write_text("item_id,title\na,A\n,B\nd,D\na,A again\nx\n")
    rules = {"missing_items": "keep", "min_rating": 1.0}
    data = prepared(tmp_path, "table", interactions=log, items=items_file, bad_rows="skip", **rules)
    assert rows(data) == [("u", "a", 1405296000), ("u", "b\nc", 1405296001), ("u", "d", 1405296003)]
    assert items(data, "title") == {"a": ("A",), "b\nc": (None,), "d": ("D",)}
    found = data.manifest["statistics"]["bad_rows"]
    assert found["log.csv"]["skipped"] == 8
    assert found["log.csv"]["first"] == [
        "line 5 has 2 cells but the header has 4",
        "line 6 is blank",
        "line 7 has 2 cells but the header has 4",
        "line 9 is not UTF-8 text",
        "line 13 holds a NUL byte",
        "line 10 has user_id empty",
        "line 11 has timestamp 'yesterday'",
        "line 12 has rating 'many'",
    ]
    assert found["items.csv"] == {
        "skipped": 3,
        "first": [
            "line 6 has 1 cells but the header has 2",
            "line 3 has item_id empty",
            "line 5 has a second row of an item: item_id 'a'",
        ],
    }
    statistics = data.manifest["statistics"]
    assert statistics["actions"] + sum(statistics["rows_removed"].values()) == statistics["rows_read"] == 11


def test_parquet_rows_without_ids_are_skipped_too(tmp_path):
    frame = pl.DataFrame({"user_id": ["u", None, "u"], "item_id": ["a"] * 3, "timestamp": [1405296000, 1, 5]})
    frame.write_parquet(tmp_path / "log.parquet")
    data = prepared(tmp_path, "table", interactions=tmp_path / "log.parquet", bad_rows="skip")
    found = data.manifest["statistics"]["bad_rows"]["log.parquet"]
    assert found["first"] == ["row 2 has user_id empty", "row 3 has timestamp '5'"]


def test_only_some_bad_rows_are_named(tmp_path):
    log = kit.write(tmp_path / "r.json", [*REVIEWS, *["broken"] * 25], compress=False)
    found = prepared(tmp_path, "amazon-2014", interactions=log, bad_rows="skip").manifest["statistics"]
    assert found["bad_rows"]["r.json"]["skipped"] == 25
    assert len(found["bad_rows"]["r.json"]["first"]) == 10


def test_a_file_of_another_kind_is_named(tmp_path):
    reviews, _ = kit.amazon(tmp_path, "2014")
    with pytest.raises(UserError, match=r"no field 'user_id' in any record: check --source"):
        prepared(tmp_path, "amazon-2023", interactions=reviews)
    with pytest.raises(UserError, match=r"has no usable rows \(first: .*line 1 is not JSON\)"):
        prepared(
            tmp_path, "amazon-2023", interactions=kit.movielens_1m(tmp_path) / "ratings.dat", bad_rows="skip"
        )
    kit.write(tmp_path / "x.inter", ["user_id\titem_id"], False)
    with pytest.raises(UserError, match=r"x\.inter, line 1: 'user_id' is not a name, a colon and a type"):
        prepared(tmp_path, "recbole", interactions=tmp_path / "x.inter")


def test_damaged_archives(tmp_path):
    reviews, _ = kit.amazon(tmp_path, "2014")
    whole = reviews.read_bytes()
    for data, message in [
        (whole[:-20], "is cut off"),
        (whole[:40] + b"\0" * 9 + whole[49:], "is damaged"),
        (b"", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
    ]:
        reviews.write_bytes(data)
        with pytest.raises(UserError, match=message):
            prepared(tmp_path, "amazon-2014", interactions=reviews)


@pytest.mark.parametrize("name", SOURCES)
def test_mistakes_in_paths(tmp_path, name):
    with pytest.raises(UserError, match=r"there is nothing to read|reads files"):
        open_source(name)
    with pytest.raises(UserError, match=r"not both"):
        open_source(name, interactions=tmp_path / "a", folder=tmp_path)
    with pytest.raises(UserError, match=r"is not a folder"):
        open_source(name, folder=tmp_path / "none")
    with pytest.raises(UserError):
        open_source(name, folder=tmp_path)  # empty
    with pytest.raises(UserError, match="does not exist"):
        prepared(tmp_path, name, interactions=tmp_path / "none.csv")


def test_an_unknown_source():
    with pytest.raises(UserError, match="no source 'amazon': choose one of table, amazon-2014"):
        open_source("amazon")


def test_a_long_value_is_cut_in_messages(tmp_path):
    record = json.loads(GOOD) | {"unixReviewTime": "x" * 500}
    log = kit.write(tmp_path / "r.json", [json.dumps(record)], compress=False)
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, "amazon-2014", interactions=log)
    assert len(str(caught.value)) < 300
