"""Raw files in the formats in which the sources publish them; the content is made up."""

import gzip
import json
from pathlib import Path

from PIL import Image

USERS = [f"A{user}ZX9QH{user}" for user in range(3)]
ASINS = ["0205616461", "B00004TMFE", "B0009RF9DW"]
TIME = 1_390_176_000
DAY = 86_400


def events():
    """User, item, rating, second: each user has each item, in the order of the items."""
    for user, user_id in enumerate(USERS):
        for item, asin in enumerate(ASINS):
            yield user_id, asin, float(3 + (user + item) % 3), TIME + DAY * item


def write(path: Path, lines, compress=True) -> Path:
    text = "".join(line + "\n" for line in lines)
    data = text if isinstance(text, bytes) else text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


def amazon_reviews(year: str):
    for user, item, rating, second in events():
        if year == "2023":
            record = {"rating": rating, "title": "ok", "text": 'It\'s "fine"\n', "images": []}
            record |= {"asin": item, "parent_asin": item, "user_id": user, "timestamp": second * 1000 + 7}
            record |= {"helpful_vote": 0, "verified_purchase": True}
        else:
            record = {"reviewerID": user, "asin": item, "reviewerName": "C. Torres", "helpful": [0, 0]}
            record |= {
                "reviewText": 'Don\'t "buy"',
                "overall": rating,
                "summary": "ü",
                "unixReviewTime": second,
            }
            record |= {"reviewTime": "01 20, 2014"}
        yield json.dumps(record)


META_2014 = [
    "{'asin': '0205616461', 'description': \"As we age, it's harder\", 'title': 'Bio-Active Cr\\xc3\\xa8me', "
    "'imUrl': 'http://ecx.images-amazon.com/images/I/41DY.jpg', 'price': 1.5, 'related': {'also_viewed': "
    "['B0017TZD7S']}, 'salesRank': {'Health & Personal Care': 461765}, 'brand': \"L'Or\\xe9al\", "
    "'categories': [['Beauty', 'Skin Care', 'Face'], ['Beauty', 'Skin Care', 'Night']]}",
    "{'asin': 'B00004TMFE', 'title': 'Cotton Pads &amp; Swabs', 'categories': [['Beauty', 'Tools']], "
    "'imUrl': 'http://g-ecx.images-amazon.com/images/G/01/x-site/icons/no-img-sm._CB1_.gif'}",
    "{'asin': 'B0009RF9DW', 'title': 'He said \\'no\\' \"twice\" \\\\ again', 'brand': '', 'bought': None, "
    "'new': True, 'categories': [['Beauty']]}",
]
META_2018 = [
    {
        "category": ["Beauty", "Hair Care", "Shampoos", "</span></span></span>", "Our best shampoo ever"],
        "tech1": "",
        "description": ["Line one.", "Line two."],
        "title": "Herbal &amp; Mild <b>Shampoo</b>",
        "brand": "by\n    \n    Acme",
        "asin": "0205616461",
        "imageURL": ["https://images-na.ssl-images-amazon.com/images/I/41a._SS40_.jpg"],
        "imageURLHighRes": ["https://images-na.ssl-images-amazon.com/images/I/41a.jpg"],
        "details": {"Weight:": "1 ounce"},
        "also_buy": [],
        "price": "$5.00",
    },
    {
        "asin": "B00004TMFE",
        "title": "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();",
        "brand": "",
        "category": [],
        "imageURL": [],
        "imageURLHighRes": [],
        "details": "",
    },
    {"asin": "0205616461", "title": "The same again", "category": ["Beauty"], "brand": None},
    {"asin": "B0009RF9DW", "title": "Comb", "description": "one text", "category": ["Beauty", "Combs"]},
]
META_2023 = [
    {
        "main_category": "All Beauty",
        "title": "Sea Spray",
        "average_rating": 4.3,
        "features": [],
        "description": ["Salty."],
        "price": 24.0,
        "images": [
            {
                "thumb": "https://m.media-amazon.com/images/I/1._SS40_.jpg",
                "large": "https://m.media-amazon.com/images/I/1.jpg",
                "variant": "MAIN",
                "hi_res": "https://m.media-amazon.com/images/I/1._SL1500_.jpg",
            },
            {"thumb": "https://m.media-amazon.com/images/I/2.jpg", "large": None, "variant": "PT01"},
        ],
        "videos": [],
        "store": "Herbivore",
        "categories": ["Beauty", "Hair"],
        "details": {"UPC": "1"},
        "parent_asin": "0205616461",
        "bought_together": None,
    },
    {"parent_asin": "B00004TMFE", "title": "Mist", "store": None, "categories": [], "images": []},
    {
        "parent_asin": "B0009RF9DW",
        "title": "",
        "store": "Acme",
        "categories": ["Beauty"],
        "images": [{"large": None, "hi_res": None, "thumb": "https://m.media-amazon.com/images/I/3.jpg"}],
    },
]


def amazon(folder: Path, year: str) -> tuple[Path, Path]:
    ending = "jsonl.gz" if year == "2023" else "json.gz"
    meta = {"2014": META_2014, "2018": map(json.dumps, META_2018), "2023": map(json.dumps, META_2023)}
    prefix = "reviews_" if year == "2014" else ""
    reviews = write(folder / f"{prefix}Beauty.{ending}", amazon_reviews(year))
    return reviews, write(folder / f"meta_Beauty.{ending}", meta[year])


def recbole(folder: Path) -> tuple[Path, Path]:
    log = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    log += [f"{user}\t{item}\t{rating:g}\t{second}.0" for user, item, rating, second in events()]
    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    items += [
        f"{ASINS[0]}\tToy \"Story\t1995\tAnimation Children's Comedy",
        f"{ASINS[1]}\tHeat\t1995\t'Action', 'Crime'",
        f"{ASINS[2]}\t\t\t",
    ]
    return write(folder / "ml.inter", log, False), write(folder / "ml.item", items, False)


def movielens_100k(folder: Path) -> Path:
    write(folder / "u.data", [f"{u[1]}\t{ASINS.index(i) + 1}\t{r:g}\t{s}" for u, i, r, s in events()], False)
    films = [
        "1|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/M/1|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0",
        "2|Un \xe9t\xe9 (1996)|01-Jan-1995||http://us.imdb.com/M/2|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|1",
        "3|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0",
    ]
    (folder / "u.item").write_bytes("".join(film + "\n" for film in films).encode("latin-1"))
    return folder


def movielens_1m(folder: Path) -> Path:
    write(
        folder / "ratings.dat",
        [f"{u[1]}::{ASINS.index(i) + 1}::{r:g}::{s}" for u, i, r, s in events()],
        False,
    )
    films = [
        "1::Toy Story (1995)::Animation|Children's|Comedy",
        "2::M: Caf\xe9 (1996)::Drama",
        "3::X, The::War",
    ]
    (folder / "movies.dat").write_bytes("".join(film + "\n" for film in films).encode("latin-1"))
    return folder


def movielens_latest(folder: Path) -> Path:
    log = ["userId,movieId,rating,timestamp"]
    log += [f"{u[1]},{ASINS.index(i) + 1},{r},{s}" for u, i, r, s in events()]
    films = ["movieId,title,genres", "1,Toy Story (1995),Adventure|Children", '2,"Été, L\' ""x""",Drama']
    films += ["3,Nothing,(no genres listed)"]
    write(folder / "ratings.csv", log, False)
    write(folder / "movies.csv", films, False)
    return folder


def microlens(folder: Path, header: bool = True) -> Path:
    log = ["user,item,timestamp"]
    log += [f"{u[1]},{ASINS.index(i) + 1},{s * 1000 + 583}" for u, i, _, s in events()]
    write(folder / "MicroLens-50k_pairs.csv", log, False)
    titles = ['1,"A cat, asleep"', "2,Dog", "3,Bird"]
    name = "MicroLens-50k_titles.csv" if header else "MicroLens-100k_title_en.csv"
    write(folder / name, ["item,title", *titles] if header else titles, False)
    covers = folder / "MicroLens-50k_covers"
    covers.mkdir(exist_ok=True)
    for name in ("1.jpg", "3.png", "99.jpg"):
        Image.new("RGB", (8, 8), "red").save(covers / name)
    (covers / "2.txt").write_text("no picture")
    return folder
