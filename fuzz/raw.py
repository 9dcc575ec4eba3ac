"""Targets: raw tables, lines of the published data sets, moments, configurations."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.target import Target, logging_off, refused_or_read

LOG = b"user_id,item_id,timestamp\nu1,i1,1400000000\nu1,i2,1400000100\nu2,i1,1400000200\n"


SHELF = b"item_id,title,categories\ni1,\"Tea, green\",a|b\ni2,Cup,\"['a', 'b']\"\n"


TIMES = (
    b"1400000000",
    b"1400000000000",
    b"2014-05-13T16:53:20Z",
    b"-0001-01-01",
    b"1e400",
    b"nan",
    b"9" * 20,
)


def preparing(folder: Path, source: str, log: str, items: str) -> Callable[..., None]:
    """Prepare a data set of raw files."""
    from hm4sr.data.prepare import PrepareConfig, prepare_source
    from hm4sr.data.sources import open_source

    logging_off()
    everything: dict[str, Any] = {"min_user_events": 1, "min_item_events": 1}
    configs = [PrepareConfig(**everything), PrepareConfig(**everything, bad_rows="skip")]

    def prepare(raw: bytes | None, shelf: bytes | None, skip: bool = False) -> None:
        files: list[Path | None] = []
        for name, content in ((log, raw), (items, shelf)):
            files.append(folder / name if name is not None else None)
            if name is not None and content is not None:
                (folder / name).write_bytes(content)
        refused_or_read(
            lambda: prepare_source(open_source(source, *files), folder / "out", configs[skip], force=True)
        )

    return prepare


def table(folder: Path) -> Target:
    """CSV files of interactions and of items."""
    prepare = preparing(folder, "table", "log.csv", "items.csv")

    def run(data: bytes) -> None:
        log, _, shelf = data[1:].partition(b"\n\n\n")
        prepare(log, shelf or SHELF, data[:1] == b"\1")

    dates = LOG.replace(b"1400000", b"2014-05-13T16:")
    seeds = [mark + text for mark in (b"\0", b"\1") for text in (LOG, LOG + b"\n\n" + SHELF, dates)]
    return Target(
        run, seeds, [*TIMES, b'"', b'""', b"\r\n", b",", b"categories", b"image_path", b"\xef\xbb\xbf"]
    )


def parquet(folder: Path) -> Target:
    """Parquet files of interactions, and of histories to recommend after."""
    import polars as pl

    from hm4sr.serving.history_files import Columns, read_histories

    prepare = preparing(folder, "table", "log.parquet", "items.csv")
    (folder / "items.csv").write_bytes(SHELF)

    def run(data: bytes) -> None:
        prepare(data, None)
        refused_or_read(
            lambda: read_histories(folder / "log.parquet", Columns("user_id", "item_id", "timestamp"))
        )

    seeds = []
    for times in ([1_400_000_000, 1_400_000_100], ["2014-05-13", "2014-05-14"], [1.4e9, None]):
        stream = io.BytesIO()
        frame = pl.DataFrame({"user_id": ["u1", "u1"], "item_id": ["i1", "i2"], "timestamp": times})
        frame.write_parquet(stream, compression="uncompressed", statistics=False)
        seeds.append(stream.getvalue())
    return Target(run, seeds, [b"PAR1", b"\xff\xff\xff\xff"])


def recbole(folder: Path) -> Target:
    """RecBole's atomic files."""
    prepare = preparing(folder, "recbole", "x.inter", "x.item")
    head = b"user_id:token\titem_id:token\ttimestamp:float\n"
    items = b"item_id:token\ttitle:token_seq\tcategories:token_seq\ni1\tGreen tea\ta b\ni2\tCup\t\n"

    def run(data: bytes) -> None:
        log, _, shelf = data[1:].partition(b"\n\n\n")
        prepare(log, shelf or items, data[:1] == b"\1")

    log = head + b"u1\ti1\t1400000000.0\nu1\ti2\t1400000100\n"
    seeds = [mark + text for mark in (b"\0", b"\1") for text in (log, log + b"\n\n" + items)]
    return Target(run, seeds, [*TIMES, b"\t", b":token", b":float_seq", b":token_seq"])


AMAZON = (
    b'{"reviewerID": "u1", "asin": "i1", "overall": 5.0, "unixReviewTime": 1400000000}\n'
    b'{"reviewerID": "u1", "asin": "i2", "overall": 4.0, "unixReviewTime": 1400000100}\n'
)


META = (
    b"{'asin': 'i1', 'title': \"Tea\", 'categories': [['a', 'b']], 'imUrl': 'https://x.example/a.jpg'}\n"
    b"{'asin': 'i2', 'title': 'It\\'s a cup', 'price': 3.5, 'categories': [[]], 'brand': None}\n"
)


NEW_META = (
    b'{"parent_asin": "i1", "title": "Tea", "categories": ["a", "b"], "images": [{"large": "https://x/a"}]}\n'
)


def amazon(folder: Path) -> Target:
    """JSON lines and lines of Python literals, in the three editions."""
    editions = ["amazon-2014", "amazon-2018", "amazon-2023"]
    prepares = [preparing(folder, name, "reviews.json", "meta.json") for name in editions]

    def run(data: bytes) -> None:
        log, _, shelf = data[1:].partition(b"\n\n\n")
        prepares[(data or b"\0")[0] % 3](log, shelf or META, (data or b"\0")[0] > 2)

    new = AMAZON.replace(b"reviewerID", b"user_id").replace(b"unixReviewTime", b"timestamp")
    new = new.replace(b"asin", b"parent_asin").replace(b"overall", b"rating")
    seeds = [bytes([place]) + AMAZON + b"\n\n" + META for place in (0, 1)]
    seeds += [b"\x02" + new + b"\n\n" + NEW_META]
    words = [
        b"None",
        b"True",
        b"{'",
        b"': '",
        b"\\x",
        b"\\u00e4",
        b"b''",
        b"1j",
        b"{}",
        b"set()",
        b"1e999",
        b"(",
    ]
    return Target(run, seeds, [*words, *TIMES, b"'categories'", b"'imUrl'", b'"images"'])


def lines(folder: Path) -> Target:
    """One line of a log or of metadata: fast, since no whole file is read."""
    import polars as pl

    from hm4sr.data.sources.amazon import EDITIONS
    from hm4sr.data.sources.delimited import DelimitedParser
    from hm4sr.data.sources.lines import BadLineError, LineParser
    from hm4sr.data.sources.records import RecordParser

    parsers: list[LineParser] = []
    for edition in EDITIONS.values():
        fields = dict.fromkeys((name for names in edition.items.values() for name in names), pl.String)
        parsers.append(RecordParser(fields | edition.types, edition.literals))
        parsers.append(RecordParser({"user": pl.String, "time": pl.Int64, "overall": pl.Float64}, True))
    cells = {"user": pl.String, "time": pl.Int64, "rating": pl.Float64}
    parsers += [DelimitedParser(list(cells), cells, mark) for mark in ("\t", "::")]

    def run(data: bytes) -> None:
        parser, line = parsers[(data or b"\0")[0] % len(parsers)], data[1:]
        try:
            row = parser.line(line)
        except BadLineError:
            return
        pl.DataFrame([row], schema=parser.schema, orient="row")
        if b"\n" not in line:
            parser.block(line)

    seeds = [bytes([place]) + line for place in range(6) for line in (AMAZON + META).splitlines()]
    seeds += [b"\1{'user': 0x1f, 'time': '14', 'overall': 1e3}", b"\6u\t1400000000\t4.5", b"\7u::14::4"]
    words = [
        b"0x" + b"f" * 4000,
        b"1" + b"e" + b"9" * 5,
        b"\\ud800",
        b"\\N{DIGIT ONE}",
        b"...",
        b"b''",
        b"-1j",
    ]
    return Target(run, seeds, [*words, b"None", b"nan", b"Infinity", b"((", b"'time'", b"'overall'"])


def times(folder: Path) -> Target:
    """Columns of moments."""
    import polars as pl

    from hm4sr.data.timestamps import read_times, usable_times

    units = ["auto", "s", "ms", "us", "ns", "iso"]

    def run(data: bytes) -> None:
        unit = units[(data or b"\0")[0] % len(units)]
        cells = data[1:].decode("utf-8", "replace").split("\n")
        column = pl.Series("time", [cell or None for cell in cells], dtype=pl.String)
        refused_or_read(lambda: read_times(column, unit, lambda row: f"row {row}"))
        kept = column.filter(usable_times(column, unit))
        if len(kept):
            refused_or_read(lambda: read_times(kept, unit, lambda row: f"row {row}"))

    seeds = [bytes([place]) + b"\n".join(TIMES[:1] * 3) for place in range(6)]
    return Target(run, [*seeds, *(b"\5" + time for time in TIMES)], [*TIMES, b"T", b"+00:00", b"-", b"Z"])


def movielens(folder: Path) -> Target:
    """MovieLens 100K, 1M and latest."""
    names = ["movielens-100k", "movielens-1m", "movielens-latest"]
    files = [("u.data", "u.item"), ("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv")]
    prepares = [preparing(folder, name, *pair) for name, pair in zip(names, files, strict=True)]
    logs = [
        b"1\t2\t3\t881250949\n1\t3\t3\t881250950\n",
        b"1::2::5::978300760\n1::3::5::978300761\n",
        b"userId,movieId,rating,timestamp\n1,2,4.0,964982703\n1,3,4.0,964982704\n",
    ]
    shelves = [
        b"2|Toy Story (1995)|01-Jan-1995||http://x|" + b"0|" * 18 + b"1\n3|Heat|||" + b"|0" * 19 + b"\n",
        b"2::Toy Story (1995)::Animation|Comedy\n3::Heat::Action\n",
        b'movieId,title,genres\n2,"Toy Story (1995)",Animation|Comedy\n3,Heat,(no genres listed)\n',
    ]

    def run(data: bytes) -> None:
        place = (data or b"\0")[0] % 3
        log, _, shelf = data[1:].partition(b"\n\n\n")
        prepares[place](log, shelf or shelves[place], data[0] > 2 if data else False)

    seeds = [bytes([place]) + logs[place] + b"\n\n" + shelves[place] for place in range(3)]
    return Target(run, seeds, [b"::", b"|", b"\t", *TIMES, b"(1995)"])


def histories(folder: Path) -> Target:
    """JSON files of histories to recommend after."""
    from hm4sr.serving.history_files import Columns, read_histories

    file = folder / "histories.json"

    def run(data: bytes) -> None:
        file.write_bytes(data)
        refused_or_read(lambda: read_histories(file, Columns("user_id", "item_id", "timestamp")))

    seeds = [
        b'[{"item_id": "i1", "timestamp": 1400000000}, {"item_id": 7, "timestamp": "2014-05-13"}]',
        b'[{"user_id": "u", "item_id": "i1"}, {"user_id": 4, "item_id": "i2"}]',
    ]
    return Target(run, seeds, [*TIMES, b"\\ud800", b"null", b"true", b"1e300", b"NaN", b"[[", b'"item_id"'])


def config(folder: Path) -> Target:
    """Configurations of training and of the service, and `--set`."""
    from hm4sr.config import override
    from hm4sr.serving.http.settings import ServeConfig
    from hm4sr.training.settings import Experiment

    file = folder / "config.toml"

    def run(data: bytes) -> None:
        content, _, assignment = data.partition(b"\0")
        file.write_bytes(content)

        def build() -> None:
            Experiment.load(file).model_settings()

        def assigned() -> None:
            values = {"data": {"path": "x"}, "model": {"name": "hm4sr"}}
            word = assignment.decode("utf-8", "surrogateescape")
            Experiment.build(override(values, [word]), "test").model_settings()

        refused_or_read(build)
        refused_or_read(lambda: ServeConfig.load(file))
        refused_or_read(assigned)

    text = b'seed = 1\n[data]\npath = "x"\nmax_length = 20\n[model]\nname = "hm4sr"\ndim = 64\n'
    text += b"[train]\nepochs = 3\nlearning_rate = 1e-3\n"
    serve = b'host = "::1"\nport = 80\nhosts = ["a"]\n[limits]\nk = 5\n[index]\nkind = "faiss"\n'
    words = [b"[model]", b"[[", b'"""', b"nan", b"inf", b"-1", b"true", b"1979-05-27", b"0x", b"{}", b"="]
    return Target(run, [text, serve, text + b"\0model.dim=32", text + b"\0model={}"], words)
