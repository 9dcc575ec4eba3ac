import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hm4sr.data.dataset import Dataset
from hm4sr.data.interactions import Interactions, compact, deduplicate, k_core, leave_one_out, order, tie_keys
from hm4sr.data.prepare import PrepareConfig, prepare
from hm4sr.errors import UserError
from hm4sr.serving.new_items import read_new_items_file

SMALL = {"min_user_events": 1, "min_item_events": 1}
LOG = "user_id,item_id,timestamp\n007,a,1405296000\n007,b,1405296001\n007,c,1405296002\n8,a,1405296000\n"
ITEMS = "item_id,title\na,A\nb,B\nc,C\n"


def packed(content: bytes) -> bytes:
    """By gzip, without the time, which would be in a test's name: that must be the same in every process."""
    return gzip.compress(content, mtime=0)


@pytest.fixture
def files(tmp_path):
    class Files:
        out = tmp_path / "out"

        def write(self, name, content):
            path = tmp_path / name
            if isinstance(content, pl.DataFrame):
                content.write_parquet(path)
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
            return path

        def prepare(self, log=LOG, items=ITEMS, force=False, **rules):
            kinds = ["parquet" if isinstance(content, pl.DataFrame) else "csv" for content in (log, items)]
            paths = [
                self.write(f"{name}.{kind}", content)
                for name, kind, content in zip(["log", "items"], kinds, [log, items], strict=True)
            ]
            return prepare(*paths, self.out, PrepareConfig.parse(SMALL | rules, "test"), force)

        def refuses(self, message, **arguments):
            with pytest.raises(UserError, match=message) as caught:
                self.prepare(**arguments)
            assert "\n" not in str(caught.value)
            assert not self.out.exists()
            assert not list(tmp_path.glob(".*"))

    return Files()


def log_of(*rows):
    users, items, ticks = np.array(rows).T
    return Interactions(users.astype(np.int32), items.astype(np.int32), ticks.astype(np.int64))


def test_the_prepared_tables(files):
    data = files.prepare()
    assert data.users.rows() == [("007", 3, 1, 2), ("8", 1, 1, 1)]
    assert data.items["item_id"].to_list() == ["a", "b", "c"]
    assert data.items["text"].to_list() == ["A.", "B.", "C."]
    assert data.events.items.tolist() == [1, 2, 3, 1]
    assert data.events.times.tolist() == [1405296000, 1405296001, 1405296002, 1405296000]
    assert Dataset.open(files.out).manifest == data.manifest
    assert data.manifest["statistics"]["rows_read"] == 4
    assert data.manifest["sources"][0]["name"] == "log.csv"


def test_column_types_on_disk(files):
    files.prepare()
    events = pl.read_parquet_schema(files.out / "events.parquet")
    assert dict(events) == {"user": pl.Int32, "item": pl.Int32, "time": pl.Int64}
    users = pl.read_parquet_schema(files.out / "users.parquet")
    assert dict(users) == {
        "user_id": pl.String,
        "events": pl.Int64,
        "train_end": pl.Int64,
        "valid_end": pl.Int64,
    }
    text = dict.fromkeys(["item_id", "title", "brand", "text", "image"], pl.String)
    items = pl.read_parquet_schema(files.out / "items.parquet")
    assert dict(items) == text | {"categories": pl.List(pl.String)}


def test_deduplicate_keeps_the_first_in_the_file_and_the_earliest_pair():
    log = log_of((0, 1, 5), (0, 1, 3), (0, 1, 5), (1, 1, 5), (0, 2, 5))
    assert deduplicate(log, "event").tolist() == [True, True, False, True, True]
    assert deduplicate(log, "pair").tolist() == [False, True, False, True, True]
    assert deduplicate(log, "keep").all()


def test_k_core_repeats_until_nothing_changes():
    # Item 2 falls with too few events, then user 1, then item 1.
    users = np.array([0, 0, 1, 1, 2, 2, 2], dtype=np.int32)
    items = np.array([0, 0, 1, 2, 0, 0, 1], dtype=np.int32)
    assert k_core(users, items, 2, 2).tolist() == [True, True, False, False, True, True, False]


def test_order_keeps_the_file_order_of_ties_and_sorts_huge_ranges():
    log = log_of((1, 0, 5), (0, 3, 7), (0, 1, 7), (0, 2, -(2**62)), (0, 0, 2**62))
    assert order(log).tolist() == [3, 1, 2, 4, 0]


def test_hash_ties_depend_on_the_raw_ids_alone():
    log = log_of((0, 0, 1), (0, 1, 1))
    keys = tie_keys(log, pl.Series(["u"]), pl.Series(["a", "b"]))
    assert keys.tolist() == [6393948847120420312, 7857140730177690317]
    wider = tie_keys(log_of((1, 1, 1), (1, 2, 1)), pl.Series(["t", "u"]), pl.Series(["0", "a", "b"]))
    assert wider.tolist() == keys.tolist()


def test_leave_one_out_leaves_short_histories_whole():
    train_end, valid_end = leave_one_out(np.array([1, 2, 3, 9]))
    assert train_end.tolist() == [1, 2, 1, 7]
    assert valid_end.tolist() == [1, 2, 2, 8]


def test_compact_closes_gaps():
    codes, ids = compact(np.array([3, 1, 3], dtype=np.int32), pl.Series(["a", "b", "c", "d"]))
    assert codes.tolist() == [1, 0, 1]
    assert ids.to_list() == ["b", "d"]


def test_finer_resolution_than_seconds_still_orders(files):
    log = "user_id,item_id,timestamp\nu,b,1405296000900\nu,a,1405296000100\n"
    data = files.prepare(log=log)
    assert data.events.items.tolist() == [1, 2]
    assert data.events.times.tolist() == [1405296000, 1405296000]


def test_integer_ids_of_parquet_become_decimal_text(files):
    log = pl.DataFrame({"user_id": [10, 9], "item_id": [2, 1], "timestamp": [1405296000, 1405296000]})
    data = files.prepare(log=log, items="item_id\n1\n2\n")
    assert data.users["user_id"].to_list() == ["10", "9"]
    assert data.items["item_id"].to_list() == ["1", "2"]


def test_minimum_rating(files):
    log = "user_id,item_id,timestamp,stars\nu,a,1405296000,4.5\nu,b,1405296001,3\n"
    data = files.prepare(log=log, rating_column="stars", min_rating=4)
    assert data.manifest["statistics"]["rows_removed"]["rating"] == 1
    assert data.items["item_id"].to_list() == ["a"]
    same = files.prepare(log=log, rating_column="stars", min_rating=4.5, force=True)
    assert same.items["item_id"].to_list() == ["a"], "what is rated as low as the least is kept"


def test_text_brand_and_categories(files):
    log = "user_id,item_id,timestamp\n" + "".join(f"u,{item},1405296000\n" for item in "abcd")
    items = "item_id,title,category,brand\na,T,X > Y > X,B\nb,,X,\nc,T,,B\nd,, ,\n"
    data = files.prepare(log=log, items=items)
    assert data.items["text"].to_list() == ["T. X Y B.", "X.", "T. B.", None]
    assert data.items["categories"].to_list() == [["X", "Y"], ["X"], [], []]
    assert data.items["brand"].to_list() == ["B", None, "B", None]
    assert data.manifest["statistics"]["category_separator"] == " > "
    assert data.item_categories().tolist() == [[0, 0], [1, 2], [1, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("cell", "setting", "names", "seen"),
    [
        ("X|Y", "auto", ["X", "Y"], ["|"]),
        ("X;Y", "auto", ["X", "Y"], [";"]),
        ("X|Y;Z", "auto", ["X|Y;Z"], ["|", ";"]),
        ("X|Y;Z", ";", ["X|Y", "Z"], []),
        ("X|Y", "none", ["X|Y"], []),
        ("X>Y", "auto", ["X>Y"], []),
    ],
)
def test_category_separators(files, cell, setting, names, seen):
    log = "user_id,item_id,timestamp\nu,a,1405296000\n"
    data = files.prepare(log=log, items=f"item_id,category\na,{cell}\n", category_separator=setting)
    assert data.items["categories"].to_list() == [names]
    assert data.manifest["statistics"]["category_separators_seen"] == seen


def test_lists_of_categories_and_chosen_text_columns(files):
    items = pl.DataFrame(
        {"item_id": ["a", "b", "c"], "category": [["X", "", "Y"], [], None], "n": [1, 2, None]}
    )
    data = files.prepare(items=items, text_columns=("n", "category"))
    assert data.items["categories"].to_list() == [["X", "Y"], [], []]
    assert data.items["text"].to_list() == ["1. X Y.", "2.", None]


def test_the_items_may_call_their_ids_otherwise_than_the_interactions(files):
    log = "user_id,product,timestamp\nu,a,1405296000\nu,b,1405296001\nv,a,1405296002\nv,b,1405296003\n"
    items = "id,title\na,A\nb,B\n"
    files.refuses("name the right one with --items-id-column", log=log, items=items, item_column="product")
    found = files.prepare(log=log, items=items, item_column="product", items_id_column="id")
    assert found.items["title"].to_list() == ["A", "B"]
    later, _ = read_new_items_file(files.write("later.csv", "id,title\nc,C\n"), found)
    assert later["item_id"].to_list() == ["c"]


def test_a_log_without_times_is_told_what_can_stand_for_them(files):
    files.refuses(
        "--time-column, or add a running number if the rows are in order", log="user_id,item_id\nu,a\n"
    )


def test_lists_of_lists_and_lists_written_as_text_are_lists_of_categories(files):
    def read(cells):
        items = pl.DataFrame({"item_id": ["a", "b", "c"], "category": cells})
        return files.prepare(items=items, force=True).items["categories"].to_list()

    assert read([[["X", "Y"], ["X", "Z"]], [["Y"], None], None]) == [["X", "Y", "Z"], ["Y"], []]
    assert read(pl.Series([["X", "Y"]] * 3, dtype=pl.Array(pl.String, 2))) == [["X", "Y"]] * 3
    assert read(['["X", "Y"]', "[]", None]) == [["X", "Y"], [], []]
    assert read(["['X', 'it''s']", "[['Y'], ['Z|1', 'Y']]", '["\\u00e9", null]']) == [
        ["X", "its"],
        ["Y", "Z|1"],
        ["é"],
    ]
    assert read(["[X]", "['Y']", "['Z']"]) == [["[X]"], ["['Y']"], ["['Z']"]]  # one is no list: all are names
    assert read(["['X']", "Y", None]) == [["['X']"], ["Y"], []]


def test_records_are_no_categories(files):
    records = pl.DataFrame({"item_id": ["a", "b", "c"], "category": [{"n": 1}] * 3})
    files.refuses("category is of type Struct", items=records)


def test_pictures_are_relative_to_the_root(files, tmp_path):
    root = tmp_path / "pictures"
    items = f"item_id,image_path\na,./x/1.jpg\nb,{root}/2.jpg\nc,\n"
    data = files.prepare(items=items, image_root=root)
    assert data.items["image"].to_list() == ["x/1.jpg", "2.jpg", None]
    assert data.manifest["rules"]["image_root"] == str(root)


@pytest.mark.parametrize(("column", "root"), [("image_path", ""), ("image_url", "https://x.example/")])
def test_of_a_list_of_pictures_the_first_counts(files, column, root):
    cells = [[f"{root}a.jpg", f"{root}b.jpg"], [None, " ", f" {root}c d.jpg"], []]
    data = files.prepare(items=pl.DataFrame({"item_id": ["a", "b", "c"], column: cells}))
    name = column.removesuffix("_path")
    assert data.items[name].to_list() == [f"{root}a.jpg", f"{root}c d.jpg", None]
    nested = pl.DataFrame({"item_id": ["a", "b", "c"], column: [[cells[0], cells[1]], None, [[]]]})
    data = files.prepare(items=nested, force=True)
    assert data.items[name].to_list() == [f"{root}a.jpg", None, None]


def test_items_without_interactions_or_metadata(files):
    items = "item_id,title\na,A\nb,B\nz,Z\n"
    files.refuses(r"items\.csv lacks 1 of the items in .*log\.csv, the first is 'c'", items=items)
    assert files.prepare(items=items, missing_items="keep").items["title"].to_list() == ["A", "B", None]
    dropped = files.prepare(items=items, missing_items="drop", force=True)
    assert dropped.items["item_id"].to_list() == ["a", "b"]
    assert dropped.manifest["statistics"]["rows_removed"]["missing_items"] == 1


H = "user_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("", r"log\.csv is empty"),
        (H, r"log\.csv has no rows below its header"),
        ("user,item_id,timestamp\nu,a,1\n", "no column 'user_id' .*did you mean --user-column user?"),
        ("x;y;z\nu;a;1\n", r"no column 'user_id' \(it has: x;y;z\); write commas between"),
        ("user_id,user_id,item_id,timestamp\nu,u,a,1\n", "2 columns named 'user_id'"),
        ('"user_id,item_id\nu,a\n', r"\(it has: user_id,item_id u,a\); write commas"),
        (H + "u,a,1405296000\n,a,1405296000\n", "line 3: user_id is empty"),
        (H + 'u,a,1405296000\nu,"  ",1405296000\n', "line 3: item_id is empty"),
        (H + 'u,"a\nb",1405296000\nu,a,x\n', "line 4: timestamp 'x' is not a whole number"),
        (H + "u,a,1405296000\nu,a,1405296000,5\n", "line 3 has 4 cells but the header has 3"),
        (H + "u,a,1405296000\nu,a\n", "line 3 has 2 cells but the header has 3"),
        (H + 'u,"a",1405296000\nu,a\n', "line 3 has 2 cells but the header has 3"),
        (H + "u,a,1405296000\n\nu,a,1405296000\n", "line 3 is blank"),
        (H + 'u,a,1405296000\nu,5" x,1405296000\n', "line 3 has a stray quotation mark"),
        (H.encode() + b"u,a,1405296000\nu,\xe9,1405296000\n", "line 3 is not UTF-8"),
        (H.encode("utf-16"), "is not UTF-8 text"),
        (H.encode("utf-16-le"), "is not UTF-8 text"),
        (H.encode("utf-16-be"), "is not UTF-8 text"),
        (b"PK\3\4\x14\0\6\0\xff\n", "is not UTF-8 text"),
        (H + "u,a,1405296000\nu,\0,1405296000\n", r"log\.csv, line 3 holds a NUL byte: remove it"),
        (H.replace("user", "us\0er"), r"log\.csv, line 1 holds a NUL byte: remove it"),
        (H + "u,a,1405296000\n" * 600 + "u,\0,1405296000\n", "line 602 holds a NUL byte"),
        (LOG.replace("\n", "\r"), "line 1 ends in a carriage return alone.*save the file with line feeds"),
        (H + f"u,a,1{'0' * 30}\n", "line 2: timestamp '10*' is too large"),
        (packed(b""), r"log\.csv is empty"),
        (packed(LOG.encode())[:-9], r"log\.csv is cut off \(gzip ends early\)"),
        (packed(LOG.encode()) + b"more", r"log\.csv is damaged"),
        (packed((H + 'u,"a\nb",1405296000\nu,a,x\n').encode()), "line 4: timestamp 'x' is not"),
        (packed((H + 'u,"a",1405296000\nu,a\n').encode()), "line 3 has 2 cells but the header"),
        (packed((H + "u,a,1405296000\nu,a\n").encode()), "line 3 has 2 cells but the header"),
        (packed((H + 'u,5" x,1405296000\n').encode()), "line 2 has a stray quotation mark"),
        (packed((H + "u,\0,1405296000\n").encode()), "line 2 holds a NUL byte"),
        (pl.DataFrame({"user_id": [1.5], "item_id": ["a"], "timestamp": [1]}), "user_id is of type Float64"),
        (
            pl.DataFrame({"user_id": ["u", None], "item_id": ["a"] * 2, "timestamp": [1] * 2}),
            "row 2: user_id is",
        ),
    ],
)
def test_mistakes_in_interactions(files, log, message):
    files.refuses(message, log=log)


@pytest.mark.parametrize(
    ("items", "rules", "message"),
    [
        ("item_id\na\nb\na\n", {}, r"items\.csv, line 4: item 'a' stands already in line 2"),
        ("item_id\na\n \n", {}, r"items\.csv, line 3: item_id is empty"),
        (ITEMS, {"brand_column": "maker"}, "no column 'maker' .* --brand-column"),
        (ITEMS, {"text_columns": ["titel"]}, "did you mean --text-columns title?"),
        (ITEMS, {"min_user_events": 9}, r"4 rows and none is left to train on \(removed: k core 4\)"),
        (ITEMS, {"rating_column": "r"}, "--rating-column has no effect alone"),
        (ITEMS, {"item_column": "user_id"}, "no column 'user_id'"),
        (ITEMS, {"time_column": "item_id"}, "--item-column and --time-column both name 'item_id'"),
        ("item_id,image_path\na,../x.jpg\nb,\nc,\n", {}, r"line 2: picture '\.\./x\.jpg' lies outside"),
        ("item_id,image_path\na,\nb,http://x/1.jpg\nc,\n", {}, "line 3: picture .* is a web address"),
        (pl.DataFrame({"item_id": ["a"], "title": [{"x": 1}]}), {}, None),
        (
            pl.DataFrame({"item_id": ["a"], "image_path": [b"abc"]}),
            {},
            r"items\.parquet: image_path is of type Binary: write the paths .* with --image-column\.",
        ),
        (pl.DataFrame({"item_id": ["a"], "image": [[b"\xff\xd8"]]}), {}, r"image is of type List\(Binary\)"),
        (
            pl.DataFrame({"item_id": ["a"], "image_url": [b"http://x"]}),
            {},
            "write the addresses of the pictures as text, or name another column with --image-url-column",
        ),
    ],
)
def test_mistakes_in_items_and_rules(files, items, rules, message):
    if message is None:  # whatever polars makes of a struct, it is no traceback
        with pytest.raises(UserError):
            files.prepare(items=items, **rules)
    else:
        files.refuses(message, items=items, **rules)


def test_mistakes_in_paths(files, tmp_path):
    log, items = files.write("log.csv", LOG), files.write("items.csv", ITEMS)
    cut = files.write("cut.parquet", b"PAR1 and then nothing more of use")
    for wrong, message in [
        (tmp_path / "none.csv", "does not exist"),
        (tmp_path, "is a folder"),
        (cut, "is not a readable Parquet file"),
        (files.write("log.txt", LOG), r"ends in \.txt: give a file that ends in .*\.csv\.gz"),
        (files.write("log.gz", LOG), r"ends in \.gz: give a file that ends in"),
        (files.write("log.txt.gz", LOG), r"ends in \.txt\.gz: give a file that ends in"),
        (files.write("log.parquet.gz", LOG), r"is Parquet within gzip: unpack it"),
    ]:
        with pytest.raises(UserError, match=message):
            prepare(wrong, items, files.out)
    with pytest.raises(UserError, match=r"is a file: give the name of a folder"):
        prepare(log, items, items)
    with pytest.raises(UserError, match=r"takes no folders"):
        prepare(log, items, items / "below")
    with pytest.raises(UserError, match=r"holds something else than a prepared data set"):
        prepare(log, items, tmp_path, force=True)


def test_a_truncated_parquet_file(files):
    whole = files.write("whole.parquet", pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "timestamp": [1]}))
    content = whole.read_bytes()
    items = files.write("items.csv", ITEMS)
    for length in (4, len(content) // 2, len(content) - 1):
        with pytest.raises(UserError, match="is not a readable Parquet file"):
            prepare(files.write("cut.parquet", content[:length]), items, files.out)


def test_an_existing_data_set_is_replaced_only_with_force(files):
    first = files.prepare()
    with pytest.raises(UserError, match="add --force"):
        files.prepare()
    (files.out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"something else than a prepared data set \(notes\.txt\)"):
        files.prepare(force=True)
    (files.out / "notes.txt").unlink()
    assert files.prepare(force=True).hashes == first.hashes


def test_force_never_removes_the_sources(files):
    data = files.prepare()
    inside = data.path / "features" / "items.csv"
    inside.parent.mkdir()
    inside.write_text(ITEMS)
    with pytest.raises(UserError, match="lies inside"):
        prepare(files.write("log.csv", LOG), inside, data.path, PrepareConfig(**SMALL), force=True)
    assert inside.exists()


def test_the_same_input_gives_the_same_bytes(files, tmp_path):
    files.prepare()
    first = {file.name: file.read_bytes() for file in files.out.iterdir()}
    files.out = tmp_path / "elsewhere"
    files.prepare()
    assert {file.name: file.read_bytes() for file in files.out.iterdir()} == first


def test_tsv_with_a_byte_order_mark_and_windows_line_ends(files, tmp_path):
    log = files.write("log.tsv", ("\ufeff" + LOG).replace(",", "\t").replace("\n", "\r\n"))
    data = prepare(log, files.write("items.csv", ITEMS), files.out, PrepareConfig(**SMALL))
    assert data.users["user_id"].to_list() == ["007", "8"]
    assert data.events.times.tolist()[0] == 1405296000


def test_a_byte_order_mark_before_quotation_marks(files):
    quoted = "\ufeff" + "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in LOG.split())
    data = files.prepare(log=quoted, items="\ufeff" + ITEMS.replace("item_id", '"item_id"'))
    assert data.users["user_id"].to_list() == ["007", "8"]
    assert data.items["title"].to_list() == ["A", "B", "C"]


@pytest.mark.parametrize("name", ["log.csv.gz", "log.CSV.GZ", "log.csv", "log.tsv.gz", "log.tab"])
@pytest.mark.parametrize("block", [8 << 20, 7])
def test_compressed_tables_are_read_as_plain_ones(files, monkeypatch, name, block):
    monkeypatch.setattr("hm4sr.data.streams.BLOCK", block)
    log = LOG + '9,"b""\n\n",1405296003\n9,a,1405296004\n'
    items = ITEMS + '"b""\n\n",D\n'
    plain = files.prepare(log=log, items=items)
    expected = plain.users.rows(), plain.items.rows(), plain.events.items.tolist()
    mark = "\t" if "t" in name.partition(".")[2].lower()[0] else ","
    packed = files.write(name, gzip.compress(("\ufeff" + log.replace(",", mark)).encode()))
    packed_items = files.write("items.csv.gz", gzip.compress(items.encode()))
    data = prepare(packed, packed_items, files.out, PrepareConfig(**SMALL), force=True)
    assert (data.users.rows(), data.items.rows(), data.events.items.tolist()) == expected
    assert data.manifest["sources"][0]["name"] == name


def test_the_content_says_what_is_compressed_not_the_name(files):
    log, items = files.write("log.csv.gz", LOG), files.write("items.csv", ITEMS)
    assert len(prepare(log, items, files.out, PrepareConfig(**SMALL)).users) == 2


@pytest.mark.parametrize("rule", ["error", "skip"])
@pytest.mark.parametrize(
    ("head", "filling", "tail"),
    [
        (H, "u" * 999, ""),  # a line without an end
        (H + 'u,"', "\n" * 999, ""),  # a cell without an end
        (H + 'a"b,"', "\n" * 999, ""),  # the same to the csv module, though marks are in pairs
        ("", "u" * 999, H),  # a header without an end
        ('"', "\n" * 999, H),
        ('"a', '""' * 500, H),
    ],
)
def test_a_few_bytes_of_gzip_do_not_fill_the_memory(files, monkeypatch, rule, head, filling, tail):
    monkeypatch.setattr("hm4sr.data.streams.BLOCK", 1 << 12)
    for module in ("streams", "tables", "sources.table"):
        monkeypatch.setattr(f"hm4sr.data.{module}.MAX_LINE", 1 << 13)
    times = 5_000 if rule == "error" else 10  # skipped lines are looked at one by one
    content = gzip.compress(head.encode() + filling.encode() * times + tail.encode())
    assert len(content) < 100_000
    items = files.write("items.csv", ITEMS)
    bomb = files.write("log.csv.gz", content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            prepare(bomb, items, files.out, PrepareConfig(**SMALL, bad_rows=rule))
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    if rule == "error":
        assert "longer than 64 MB" in str(caught.value)


BEAUTY = Path(__file__).parents[3] / "shared" / "data" / "amazon_beauty"


@pytest.mark.skipif(
    not BEAUTY.is_dir(), reason="needs Amazon Beauty in ../shared/data, which cannot be shipped"
)
@pytest.mark.parametrize("duplicates", ["event", "pair"])
def test_beauty_has_the_size_that_the_paper_reports(tmp_path, duplicates):
    config = PrepareConfig(duplicates=duplicates)
    data = prepare(BEAUTY / "interactions.csv", BEAUTY / "items.csv", tmp_path / "beauty", config)
    statistics = data.manifest["statistics"]
    assert (statistics["users"], statistics["items"], statistics["actions"]) == (22363, 12101, 198502)
    raw = pl.read_csv(BEAUTY / "interactions.csv")
    assert (
        data.events.times.tolist() == raw["timestamp"].to_list()
    )  # the file is in the paper's order already
    assert len(data.events.targets("test")) == len(data.events.targets("valid")) == 22363


def test_usual_other_names_of_columns_are_recognised_and_told(tmp_path):
    rows = [f"u{user},i{item},{1_400_000_000 + 60 * item}" for user in range(6) for item in range(6)]
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    cells = [f"i{item},Name {item},odd|even,plain {item}" for item in range(6)]
    items.write_text("\n".join(["item_id,name,genres,categories", *cells]))
    found = prepare(log, items, tmp_path / "data")
    assert found.manifest["statistics"]["recognised_columns"] == {"title": "name", "category": "categories"}
    assert found.items["title"][0] == "Name 0"
    assert found.items["categories"][0].to_list() == ["plain 0"]
    named = prepare(log, items, tmp_path / "named", PrepareConfig(category_column="genres"))
    assert named.items["categories"][0].to_list() == ["odd", "even"]
    with pytest.raises(UserError, match="category"):
        prepare(log, items, tmp_path / "strict", PrepareConfig(category_column="category"))
