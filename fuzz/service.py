"""Targets: pictures, and requests to the service."""

import contextlib
import io
import json
from pathlib import Path

from fuzz.folders import small_run
from fuzz.target import Target


def pictures(folder: Path) -> Target:
    """Picture files: as the features read them, and as a download looks at them."""
    import warnings

    from PIL import Image

    from hm4sr.data.remote.guard import FetchError
    from hm4sr.data.remote.pictures import picture_ending
    from hm4sr.features.pictures import MAX_RATIO, MIN_SIDE, PictureError, picture_key, read_picture

    warnings.simplefilter("ignore")
    file = folder / "picture"

    def run(data: bytes) -> None:
        file.write_bytes(data)
        with contextlib.suppress(FetchError):
            picture_ending(data, 64_000_000)
        with contextlib.suppress(PictureError):
            picture = read_picture(file, picture_key(file))
            assert picture.mode == "RGB"
            assert min(picture.size) >= MIN_SIDE
            assert max(picture.size) <= MAX_RATIO * min(picture.size)

    seeds = []
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF"):
        for mode in ("RGB", "P", "RGBA", "L", "I;16"):
            stream = io.BytesIO()
            with contextlib.suppress(OSError, ValueError, KeyError):
                Image.new(mode, (24, 17)).save(stream, kind)
                seeds.append(stream.getvalue())
    return Target(
        run, seeds, [b"IHDR", b"IDAT", b"acTL", b"Exif\0\0", b"\xff\xd8", b"\xff\xc0", b"RIFF", b"jP  "]
    )


def requests(folder: Path) -> Target:
    """Bodies, paths and queries of requests to the service."""
    from urllib.parse import quote_from_bytes

    from starlette.testclient import TestClient

    from hm4sr.serving.http.app import create_app
    from hm4sr.serving.http.metrics import Metrics
    from hm4sr.serving.http.runs import Runs, RunSource
    from hm4sr.serving.http.service import Service
    from hm4sr.serving.http.settings import ServeConfig

    small_run(folder)
    limits = {"deadline_seconds": 60, "k": 30, "batch": 8, "history": 50, "explain_k": 5}
    settings = ServeConfig.parse({"hosts": ["testserver"], "limits": limits}, "fuzz")
    metrics = Metrics()
    service = Service(settings, Runs([RunSource(folder / "run")], settings.index, metrics), metrics)
    client = TestClient(create_app(service))
    posts = ["/recommend", "/explain", "/similar"]

    def run(data: bytes) -> None:
        place, rest = (data or b"\0")[0] % 5, data[1:]
        if place < 3:
            headers = {"content-type": "application/json"}
            reply = client.post(posts[place], content=rest, headers=headers)
        elif place == 3:
            reply = client.get("/items/" + quote_from_bytes(rest[:500], safe=""))
        else:
            reply = client.get("/items?" + quote_from_bytes(rest[:500], safe="=&"))
        assert reply.status_code in (200, 400, 404, 413, 422), reply.text
        told = json.loads(reply.text, parse_constant=_no_number)
        assert reply.status_code == 200 or set(told) == {"error"}

    bodies = [
        {"users": ["0042"], "k": 5, "exclude": ["7"]},
        {"histories": [[{"item_id": "7", "time": 1405296000}, {"item_id": "i9", "time": 1e9}], []]},
        {
            "users": ["42"],
            "histories": [[{"item_id": "i9"}]],
            "at_time": 1405296000,
            "without": ["text", "time"],
        },
        {"items": ["007"], "k": 3, "categories": ["odd"], "include": ["7", "i8"]},
    ]
    seeds = [bytes([place]) + json.dumps(body).encode() for place in range(3) for body in bodies]
    seeds += [b"\x03007", b"\x03i9/picture", b"\x04words=title&first=2&count=3", b"\x04run=run"]
    words = [
        b'"users"',
        b'"histories"',
        b'"item_id"',
        b'"time"',
        b"NaN",
        b"1e999",
        b"-1",
        b"null",
        b"\\ud800",
    ]
    return Target(
        run, seeds, [*words, b'"without"', b'"num_reasons"', b'"filter_seen"', b"{", b"[[", b"true"]
    )


def _no_number(text: str) -> float:
    raise AssertionError(f"{text} is no JSON")
