"""Where published data sets are, by name: their makers' addresses, sizes and hashes as far as they are known.

Sizes and sha256 of MovieLens are those in the checksum list of TensorFlow Datasets. For the other files none
is known: they are None here, and what is fetched counts as not verified. "latest" changes by design.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from hm4sr.errors import UserError


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch.

    Attributes:
        url: its address.
        size: bytes, where known.
        sha256: of its content, where known.
    """

    url: str
    size: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """Its name on disk."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class RemoteSet:
    """A published data set.

    Attributes:
        name: what `hm4sr download` calls it.
        source: what `hm4sr prepare --source` calls its format.
        home: page that describes it and its terms of use.
        files: what to fetch; archives are unpacked.
    """

    name: str
    source: str
    home: str
    files: tuple[RemoteFile, ...]


_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_MOVIELENS: dict[str, tuple[str, str, int | None, str | None]] = {
    "100k": (
        "movielens-100k",
        "ml-100k.zip",
        4_924_029,
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    ),
    "1m": (
        "movielens-1m",
        "ml-1m.zip",
        5_917_549,
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    ),
    "10m": ("movielens-1m", "ml-10m.zip", None, None),
    "20m": (
        "movielens-latest",
        "ml-20m.zip",
        198_702_078,
        "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
    ),
    "25m": (
        "movielens-latest",
        "ml-25m.zip",
        261_978_986,
        "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
    ),
    "32m": ("movielens-latest", "ml-32m.zip", None, None),
    "latest-small": ("movielens-latest", "ml-latest-small.zip", None, None),
    "latest": ("movielens-latest", "ml-latest.zip", None, None),
}

_AMAZON_2014 = (
    "Amazon_Instant_Video Apps_for_Android Automotive Baby Beauty Books CDs_and_Vinyl "
    "Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics "
    "Grocery_and_Gourmet_Food Health_and_Personal_Care Home_and_Kitchen Kindle_Store Movies_and_TV "
    "Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies Sports_and_Outdoors "
    "Tools_and_Home_Improvement Toys_and_Games Video_Games"
)
_AMAZON_2018 = (
    "AMAZON_FASHION All_Beauty Appliances Arts_Crafts_and_Sewing Automotive Books CDs_and_Vinyl "
    "Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music Electronics Gift_Cards "
    "Grocery_and_Gourmet_Food Home_and_Kitchen Industrial_and_Scientific Kindle_Store Luxury_Beauty "
    "Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden "
    "Pet_Supplies Prime_Pantry Software Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games "
    "Video_Games"
)
_AMAZON_2023 = (
    "All_Beauty Amazon_Fashion Appliances Arts_Crafts_and_Sewing Automotive Baby_Products "
    "Beauty_and_Personal_Care Books CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry "
    "Digital_Music Electronics Gift_Cards Grocery_and_Gourmet_Food Handmade_Products Health_and_Household "
    "Health_and_Personal_Care Home_and_Kitchen Industrial_and_Scientific Kindle_Store "
    "Magazine_Subscriptions Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden "
    "Pet_Supplies Software Sports_and_Outdoors Subscription_Boxes Tools_and_Home_Improvement "
    "Toys_and_Games Video_Games"
)
_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"
_AMAZON: dict[str, tuple[str, str, tuple[str, str]]] = {
    "2014": (
        _AMAZON_2014,
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        (f"{_SNAP}/reviews_{{}}_5.json.gz", f"{_SNAP}/meta_{{}}.json.gz"),
    ),
    "2018": (
        _AMAZON_2018,
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
        (
            f"{_UCSD}/amazon_v2/categoryFilesSmall/{{}}_5.json.gz",
            f"{_UCSD}/amazon_v2/metaFiles2/meta_{{}}.json.gz",
        ),
    ),
    "2023": (
        _AMAZON_2023,
        "https://amazon-reviews-2023.github.io/",
        (
            f"{_UCSD}/amazon_2023/benchmark/0core/rating_only/{{}}.csv.gz",
            f"{_UCSD}/amazon_2023/raw/meta_categories/meta_{{}}.jsonl.gz",
        ),
    ),
}
"""Edition to its categories, its page, the addresses of interactions (5-core up to 2018) and metadata."""

_WESTLAKE = "https://recsys.westlake.edu.cn/MicroLens-{size}-Dataset/MicroLens-{size}_{file}"
_MICROLENS = {
    "50k": ("pairs.csv", "titles.csv", "covers.zip"),
    "100k": ("pairs.csv", "title_en.csv", "covers.zip"),
}

_RECBOLE = "https://recbole.s3-accelerate.amazonaws.com/ProcessedDatasets"
_ATOMIC = {
    "ml-100k": "MovieLens/ml-100k.zip",
    "ml-1m": "MovieLens/ml-1m.zip",
    "ml-10m": "MovieLens/ml-10m.zip",
    "ml-20m": "MovieLens/ml-20m.zip",
    "amazon-beauty": "Amazon_ratings/Amazon_Beauty.zip",
    "steam": "Steam/not-merged/steam.zip",
}


@cache
def official() -> dict[str, RemoteSet]:
    """Every data set that can be fetched, by name."""
    return {entry.name: entry for entry in _entries()}


def find(name: str) -> RemoteSet:
    """The data set of a name.

    Raises:
        UserError: there is none; the message lists what comes near.
    """
    import difflib

    if name in official():
        return official()[name]
    near = difflib.get_close_matches(name, official(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`hm4sr download --help` lists all."
    raise UserError(f"there is no data set {name!r} to download; {hint}")


def _entries() -> Iterator[RemoteSet]:
    for variant, (source, file, size, sha256) in _MOVIELENS.items():
        archive = RemoteFile(f"{_GROUPLENS}/{file}", size, sha256)
        yield RemoteSet(
            f"movielens-{variant}", source, "https://grouplens.org/datasets/movielens/", (archive,)
        )
    for year, (categories, home, addresses) in _AMAZON.items():
        for category in categories.split():
            files = tuple(RemoteFile(address.format(category)) for address in addresses)
            name = f"amazon-{year}-{category.lower().replace('_', '-')}"
            yield RemoteSet(name, f"amazon-{year}", home, files)
    for size_name, names in _MICROLENS.items():
        files = tuple(RemoteFile(_WESTLAKE.format(size=size_name, file=file)) for file in names)
        yield RemoteSet(
            f"microlens-{size_name}", "microlens", "https://github.com/westlake-repl/MicroLens", files
        )
    for short, path in _ATOMIC.items():
        home = "https://github.com/RUCAIBox/RecSysDatasets"
        yield RemoteSet(f"recbole-{short}", "recbole", home, (RemoteFile(f"{_RECBOLE}/{path}"),))
