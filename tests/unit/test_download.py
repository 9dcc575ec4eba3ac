"""`hm4sr download NAME` against a server on this machine."""

import hashlib
import io
import urllib.error
import zipfile

import pytest
from web_kit import serve

from hm4sr.data.remote.fetch import download, secure_opener
from hm4sr.data.remote.official import RemoteFile, RemoteSet, find, official
from hm4sr.data.sources import SOURCES
from hm4sr.errors import UserError


def archive(**files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as content:
        for name, text in files.items():
            content.writestr(name.replace("__", "/"), text)
    return stream.getvalue()


DATA = b"\x1f\x8b" + bytes(range(256)) * 40_000
NAME = "reviews.json.gz"


@pytest.fixture
def web():
    with serve() as (site, root):
        yield site, root


def wanted(root, name=NAME, data=DATA, sha256="as it is", size=None):
    digest = hashlib.sha256(data).hexdigest() if sha256 == "as it is" else sha256
    return RemoteSet(
        "shop", "table", "https://shop.example/terms", (RemoteFile(f"{root}/{name}", size, digest),)
    )


def fetch(entry, out, **options):
    waits = []
    (file,) = download(entry, out, wait=waits.append, **options)
    return file, waits


def test_a_file_is_fetched_verified_and_then_left_alone(web, tmp_path):
    site, root = web
    site.pages[f"/{NAME}"] = DATA
    file, waits = fetch(wanted(root, size=len(DATA)), tmp_path / "raw")
    assert (file.path, file.new, file.verified) == (tmp_path / "raw" / NAME, True, True)
    assert file.path.read_bytes() == DATA
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [NAME]
    assert site.asked[0][1]["User-Agent"].startswith("hm4sr/")
    again, _ = fetch(wanted(root), tmp_path / "raw")
    assert not again.new
    assert len(site.asked) == 1
    assert waits == []


def test_without_a_recorded_hash_it_is_not_verified(web, tmp_path):
    site, root = web
    site.pages[f"/{NAME}"] = DATA
    file, _ = fetch(wanted(root, sha256=None), tmp_path)
    assert not file.verified
    assert file.sha256 == hashlib.sha256(DATA).hexdigest()


def test_a_broken_connection_is_continued(web, tmp_path):
    site, root = web
    site.pages[f"/{NAME}"] = DATA
    site.cut = [100_000, 300_000]
    file, waits = fetch(wanted(root), tmp_path)
    assert file.path.read_bytes() == DATA
    ranges = [headers.get("Range") for _, headers in site.asked]
    assert ranges == [None, "bytes=100000-", "bytes=400000-"]
    assert waits == [1.0, 1.0]


def test_the_next_run_continues_what_the_last_one_left(web, tmp_path):
    site, root = web
    site.pages[f"/{NAME}"] = DATA
    site.cut = [100_000, 0, 0, 0]
    with pytest.raises(UserError, match=r"cannot be fetched from 127\.0\.0\.1 .*run again, or give a copy"):
        fetch(wanted(root), tmp_path)
    assert (tmp_path / f"{NAME}.part").stat().st_size == 100_000
    assert not (tmp_path / NAME).exists()
    site.asked.clear()
    file, _ = fetch(wanted(root), tmp_path)
    assert file.path.read_bytes() == DATA
    assert site.asked[0][1]["Range"] == "bytes=100000-"


@pytest.mark.parametrize("change", ["content", "no ranges", "no validator"])
def test_what_cannot_be_continued_begins_anew(web, tmp_path, change):
    site, root = web
    site.pages[f"/{NAME}"] = DATA
    if change == "no validator":
        site.etag = None
    site.cut = [100_000, 0, 0, 0]
    with pytest.raises(UserError):
        fetch(wanted(root), tmp_path)
    data = DATA
    if change == "content":
        data = site.pages[f"/{NAME}"] = DATA[::-1][:-2].join([DATA[:2], b""])
        site.etag = '"v2"'
    if change == "no ranges":
        site.ranges = False
    file, _ = fetch(wanted(root, data=data), tmp_path)
    assert file.path.read_bytes() == data


def test_a_part_longer_than_the_file_begins_anew(web, tmp_path):
    site, root = web
    site.pages[f"/{NAME}"] = DATA
    site.cut = [len(DATA) - 5, 0, 0, 0]
    with pytest.raises(UserError):
        fetch(wanted(root), tmp_path)
    site.pages[f"/{NAME}"] = DATA[:1000]
    file, _ = fetch(wanted(root, data=DATA[:1000]), tmp_path)
    assert file.path.read_bytes() == DATA[:1000]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            403,
            r"127\.0\.0\.1 refuses to hand out reviews\.json\.gz \(403 Forbidden\): look for it at https://shop",
        ),
        (404, r"no longer has reviews\.json\.gz \(404 Not Found\): .* --mirror"),
        (503, r"cannot be fetched from 127\.0\.0\.1 \(503 Service Unavailable\)"),
    ],
)
def test_a_refusal_is_one_sentence(web, tmp_path, status, message):
    site, root = web
    site.pages[f"/{NAME}"] = status
    with pytest.raises(UserError, match=message) as caught:
        fetch(wanted(root), tmp_path)
    assert "\n" not in str(caught.value)
    assert len(site.asked) == (4 if status == 503 else 1)


def test_no_network_is_one_sentence(tmp_path):
    with pytest.raises(
        UserError, match=r"cannot be fetched from 127\.0\.0\.1 \(.*refused.*\): check the network"
    ):
        fetch(wanted("http://127.0.0.1:9"), tmp_path)


def test_a_web_page_instead_of_the_file(web, tmp_path):
    site, root = web
    site.pages[f"/{NAME}"] = b"<html>please log in</html>"
    with pytest.raises(UserError, match=r"something else than reviews\.json\.gz \(a web page\?\)"):
        fetch(wanted(root, sha256=None), tmp_path)
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(("size", "sha256"), [(7, None), (None, "0" * 64)])
def test_a_file_that_is_not_the_recorded_one_is_not_kept(web, tmp_path, size, sha256):
    site, root = web
    site.pages[f"/{NAME}"] = DATA
    with pytest.raises(UserError, match="was damaged on the way or has changed"):
        fetch(wanted(root, size=size, sha256=sha256), tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / NAME).write_bytes(b"something older")
    if sha256:
        with pytest.raises(UserError, match="is not the published file"):
            fetch(wanted(root, sha256=sha256), tmp_path)


def test_mirrors(web, tmp_path):
    site, root = web
    site.pages[f"/copies/{NAME}"] = DATA
    nowhere = wanted("https://shop.invalid/data")
    file, _ = fetch(nowhere, tmp_path / "a", mirror=f"{root}/copies/")
    assert file.path.read_bytes() == DATA
    disk = tmp_path / "disk" / "shop"
    disk.mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"has no reviews\.json\.gz: put it there, it comes from https://shop\.inv"
    ):
        fetch(nowhere, tmp_path / "b", mirror=str(tmp_path / "disk"))
    (disk / NAME).write_bytes(DATA)
    for place in (disk, disk.parent):
        file, _ = fetch(nowhere, tmp_path / place.name, mirror=str(place))
        assert file.verified
    (disk / NAME).write_bytes(DATA[:-1])
    with pytest.raises(UserError, match="was damaged"):
        fetch(nowhere, tmp_path / "c", mirror=str(disk))


def test_an_archive_is_unpacked_without_its_top_folder(web, tmp_path):
    site, root = web
    data = archive(ml_1m__ratings="r", ml_1m__sub__x="x")
    site.pages["/ml-1m.zip"] = data
    for _ in range(2):
        file, _ = fetch(wanted(root, "ml-1m.zip", data), tmp_path)
        assert file.unpacked == tmp_path / "ml-1m"
        assert (file.unpacked / "ratings").read_text() == "r"
        assert (file.unpacked / "sub" / "x").read_text() == "x"
    flat = archive(a="1", b="2")
    site.pages["/flat.zip"] = flat
    file, _ = fetch(wanted(root, "flat.zip", flat), tmp_path)
    assert sorted(path.name for path in file.unpacked.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "c:/out", "..\\out"])
def test_an_archive_that_reaches_outside_is_refused(web, tmp_path, name):
    site, root = web
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as content:
        content.writestr(name, "evil")
    site.pages["/x.zip"] = stream.getvalue()
    with pytest.raises(UserError, match="would unpack outside its folder"):
        fetch(wanted(root, "x.zip", stream.getvalue()), tmp_path / "raw")
    assert not list(tmp_path.rglob("out"))


def test_a_damaged_archive(web, tmp_path):
    site, root = web
    data = archive(a="1" * 1000)[:-30]
    site.pages["/x.zip"] = data
    with pytest.raises(UserError, match="is not a readable zip file"):
        fetch(wanted(root, "x.zip", data), tmp_path)
    assert not (tmp_path / "x").exists()


def test_an_unwritable_folder(web, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*choose another --out"):
        fetch(wanted(web[1]), tmp_path / "file")


def test_redirects_are_followed_but_never_from_https_to_http(web, tmp_path):
    site, root = web
    site.pages["/old.json.gz"] = ("redirect", f"{root}/{NAME}")
    site.pages[f"/{NAME}"] = DATA
    file, _ = fetch(wanted(root, "old.json.gz"), tmp_path)
    assert file.path.read_bytes() == DATA
    handler = next(h for h in secure_opener().handlers if h.__class__.__name__ == "_SecureRedirects")

    class Request:
        full_url = "https://shop.example/x"

    with pytest.raises(urllib.error.HTTPError, match="insecure"):
        handler.redirect_request(Request(), None, 302, "Found", {}, "http://shop.example/x")


def test_the_table_of_addresses():
    entries = official()
    assert len(entries) > 90
    for name, entry in entries.items():
        assert entry.name == name
        assert name == name.lower()
        assert entry.source in SOURCES
        assert entry.home.startswith("https://")
        for file in entry.files:
            assert file.url.startswith("https://")
            assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
    beauty = [file.name for file in find("amazon-2014-beauty").files]
    assert beauty == ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"]
    with pytest.raises(UserError, match="did you mean movielens-100k"):
        find("movielens-100")
    with pytest.raises(UserError, match="lists all"):
        find("qqqq")
