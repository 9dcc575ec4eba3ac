"""`hm4sr download images` against a server on this machine, which only tests may ask."""

import base64
import dataclasses
import io
import ipaddress
import json
import socket
import struct
import threading
import time
import zlib

import polars as pl
import pytest
from PIL import Image
from web_kit import serve

from hm4sr.data.dataset import Dataset
from hm4sr.data.images import downloaded, find_pictures, stem
from hm4sr.data.prepare import PrepareConfig, prepare
from hm4sr.data.remote.guard import Client, FetchError, Policy, check, is_public
from hm4sr.data.remote.pictures import HOPELESS, ImageConfig, download_images, secure
from hm4sr.errors import UserError
from hm4sr.experiments.embed import thumbnail
from hm4sr.features.extract import FeatureConfig, extract

# An AVIF whose list of items is damaged: Pillow's decoder raises RuntimeError while it opens it.
BROKEN_AVIF = base64.b64decode(
    "AAAAHGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZgAAAOltZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAA"
    "AAAAAAAAAA5waXRtAAAAAAABAAAAHmlsb2MAAAAARAAAAQABAAAAAQAAAQ0AAAAdAAAAKGlpbmYAAAAAAAEAAAAa"
    "aW5mZQIAAAAAAQAAYXYwMkNvbG9yAAAAAGhpcHJwAAAASWlwY28AAAAUaXNwZQAAAAAAAAAYAAAAEQAAAA5waXhpAA"
    "AAAAEIAAAADGF2MUOBABwAAAAAE2NvbHJuY2x4AAEADQAGgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAAJW1kYXQS"
    "AAoIGBEvBpgIaDUyDxTGZQIJ5QAARdWbsCbzoA=="
)
LOCAL = Policy(scheme="http", ports=(), allows=lambda address: address.is_loopback)


def picture(color="red", kind="PNG", size=(9, 9)):
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, kind)
    return stream.getvalue()


def huge_png():
    """The head of a picture of 60,000 x 60,000 pixels: 57 bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.fixture
def web():
    with serve() as (site, root):
        yield site, root


def shop(tmp_path, urls, images=None, force=False):
    """A prepared data set with the given addresses, in order of the items i0, i1, ..."""
    ids = [f"i{row}" for row in range(len(urls))]
    times = [1_400_000_000 + row for row in range(len(urls))]
    log = {"user_id": ["u"] * len(urls), "item_id": ids, "timestamp": times}
    pl.DataFrame(log).write_csv(tmp_path / "log.csv")
    table = {"item_id": ids, "title": ids, "image_url": urls, "image_path": images or [None] * len(urls)}
    pl.DataFrame(table, schema_overrides={"image_path": pl.String}).write_csv(tmp_path / "items.csv")
    config = PrepareConfig(min_user_events=1, min_item_events=1)
    return prepare(tmp_path / "log.csv", tmp_path / "items.csv", tmp_path / "data", config, force)


def run(data, **settings):
    waits = []
    report = download_images(data, ImageConfig.parse(settings, "test"), LOCAL, wait=waits.append)
    return report, waits


def reasons(report, root):
    return {url.removeprefix(root): reason for url, reason in report.failed.items()}


def test_pictures_are_fetched_once_and_the_features_find_them(web, tmp_path):
    site, root = web
    site.pages |= {"/a.jpg": picture("red", "JPEG"), "/b": picture("blue"), "/own.png": picture()}
    (tmp_path / "own.png").write_bytes(picture("green"))
    urls = [f"{root}/a.jpg", f"{root}/b", f"{root}/a.jpg", f"{root}/own.png", None, f"{root}/none.jpg"]
    data = shop(tmp_path, urls, [None, None, None, "own.png", None, None])
    before = {path.name: path.read_bytes() for path in data.path.iterdir()}
    raw = (tmp_path / "items.csv").read_bytes()

    report, _ = run(data, contact="me@example.org")
    assert (report.num_items, report.own, report.addresses, report.there) == (6, 1, 3, 0)
    assert (report.fetched, report.skipped) == (2, 0)
    assert reasons(report, root) == {"/none.jpg": "404 Not Found"}
    assert sorted(site.paths) == ["/a.jpg", "/b", "/none.jpg"]
    agent = site.asked[0][1]["User-Agent"]
    assert agent.startswith("hm4sr/")
    assert agent.endswith("; me@example.org)")
    assert {path.name for path in (data.path / "images").iterdir()} == {
        f"{stem(urls[0])}.jpg",
        f"{stem(urls[1])}.png",
        "report.json",
    }
    assert {path.name: path.read_bytes() for path in data.path.iterdir() if path.is_file()} == before
    assert (tmp_path / "items.csv").read_bytes() == raw

    again, _ = run(data)
    assert (again.there, again.fetched, again.skipped) == (2, 0, 1)
    assert len(site.asked) == 3

    (coverage,) = extract(data, FeatureConfig(image="builtin"))
    assert (coverage.present, coverage.missing) == (4, 1)
    (broken,) = coverage.broken
    assert (broken.item_id, broken.file) == ("i5", urls[5])
    assert broken.reason == "not downloaded: 404 Not Found"
    assert Dataset.open(data.path).hashes == data.hashes


def test_a_data_set_prepared_anew_keeps_its_pictures(web, tmp_path):
    site, root = web
    site.pages["/a"] = picture()
    urls = [f"{root}/a"]
    run(shop(tmp_path, urls))
    data = shop(tmp_path, [f"{root}/new", f"{root}/a"], force=True)
    found = find_pictures(data)
    assert found.paths[0] is None
    assert found.paths[1] == data.path / "images" / f"{stem(urls[0])}.png"
    assert found.waiting == 1
    assert run(data)[0].there == 1


def test_before_the_download_the_features_say_what_to_do(web, tmp_path):
    data = shop(tmp_path, [f"{web[1]}/a"])
    with pytest.raises(UserError, match=r"no pictures yet, only their addresses: run .hm4sr download images"):
        extract(data, FeatureConfig(image="builtin"))


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (404, "404 Not Found"),
        (403, "403 Forbidden"),
        (b"<html>no</html>", "is not a picture"),
        (b"", "is not a picture"),
        (BROKEN_AVIF, "is not a picture"),
        (picture()[:30], "is not a picture"),
        (picture(size=(1, 1)), "is a placeholder of one pixel"),
        (picture(size=(200, 200)), "has 200 x 200 pixels"),
        (huge_png(), "has too many pixels"),
        (b"x" * 60_000, "is larger than 50,000 bytes"),
        (("redirect", "http://192.168.0.1/x"), "leads to 192.168.0.1, no public address"),
        (("redirect", "ftp://127.0.0.1/x"), "is not an http address"),
        (("redirect", "file:///etc/passwd"), "is not an http address"),
        (("redirect", "/page"), "redirects more than 5 times"),
        (("redirect", "http://[::1"), "redirects to what is not an address"),
    ],
)
def test_lasting_failures_are_gaps_and_not_asked_again(web, tmp_path, page, reason):
    site, root = web
    site.pages |= {"/page": page, "/good": picture()}
    data = shop(tmp_path, [f"{root}/page", f"{root}/good"])
    report, waits = run(data, max_pixels=10_000, max_bytes=50_000)
    assert reasons(report, root) == {"/page": reason}
    assert report.fetched == 1
    assert waits == []
    asked = len(site.asked)
    report, _ = run(data)
    assert (report.skipped, len(site.asked)) == (1, asked)
    assert reasons(report, root) == {"/page": reason}
    site.pages["/page"] = picture("blue")
    report, _ = run(data, retry="all")
    assert (report.fetched, report.failed) == (1, {})
    saved = json.loads((data.path / "images" / "report.json").read_text())
    assert saved["failed"] == {}


def test_a_damaged_picture_of_any_kind_has_no_thumbnail():
    assert thumbnail(BROKEN_AVIF) is None
    assert thumbnail(picture()).size == (9, 9)


def test_passing_failures_are_tried_again_at_once_and_in_the_next_run(web, tmp_path):
    site, root = web
    answers = [503, 503, 503]
    site.pages |= {"/busy": lambda handler: answers.pop() if answers else picture(), "/good": picture("blue")}
    data = shop(tmp_path, [f"{root}/busy", f"{root}/good"])
    report, _ = run(data, workers=1)
    assert reasons(report, root) == {"/busy": "503 Service Unavailable"}
    assert site.paths.count("/busy") == 3
    report, _ = run(data, retry="none")
    assert (report.skipped, report.fetched) == (1, 0)
    report, _ = run(data)
    assert (report.fetched, report.failed) == (1, {})


def test_a_server_that_asks_for_rest_gets_it(web, tmp_path):
    site, root = web
    site.headers = {"Retry-After": "7"}
    answers = [429]
    site.pages["/busy"] = lambda handler: answers.pop() if answers else picture()
    report, waits = run(shop(tmp_path, [f"{root}/busy"]))
    assert report.fetched == 1
    assert len(waits) == 1
    assert 6 < waits[0] <= 7


def test_no_more_at_once_than_allowed_and_connections_are_reused(web, tmp_path):
    site, root = web

    def slow(handler):
        time.sleep(0.02)
        return picture()

    site.pages |= {f"/{number}": slow for number in range(12)}
    report, _ = run(shop(tmp_path, [f"{root}/{number}" for number in range(12)]), workers=3)
    assert report.fetched == 12
    assert 1 < site.most <= 3
    connections = []
    client = Client(LOCAL, "test", 10_000, 5.0)
    site.pages["/who"] = lambda handler: connections.append(handler.client_address) or b"x"
    assert [client.get(f"{root}/who") for _ in range(3)] == [b"x"] * 3
    assert len(set(connections)) == 1
    client.close()


def test_a_connection_that_trickles_is_cut_at_the_limit(web):
    site, root = web

    def trickle(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)

    def never(handler):
        time.sleep(1.5)

    site.pages |= {"/slow": trickle, "/never": never}
    client = Client(LOCAL, "test", 10_000_000, 0.3)
    for page in ("/slow", "/never"):
        with pytest.raises(FetchError, match=r"takes longer than 0\.3 s"):
            client.get(root + page)


def test_a_handshake_that_trickles_is_cut_at_the_limit():
    """A record of 16 kB, a byte at a time: each one comes in time, and all of them would take minutes."""
    sent, gone = [], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle():
            client, _ = listener.accept()
            with client:
                client.sendall(b"\x16\x03\x03\x40\x00")
                while len(sent) < 2_000:
                    try:
                        client.sendall(b"x")
                    except OSError:
                        gone.set()
                        return
                    sent.append(1)
                    time.sleep(0.02)

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        client = Client(dataclasses.replace(LOCAL, scheme="https"), "test", 10_000, 0.3)
        with pytest.raises(FetchError, match=r"takes longer than 0\.3 s") as caught:
            client.get(f"https://127.0.0.1:{listener.getsockname()[1]}/a.png")
        assert not caught.value.lasting
        thread.join(60)
    assert gone.is_set(), "the connection was closed while the server went on"


def test_the_time_for_a_picture_holds_for_all_addresses_of_a_host_together(monkeypatch):
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{number}", 443)) for number in range(1, 9)
    ]
    tried = []

    def slow(address, timeout):
        tried.append(timeout)
        time.sleep(0.2)
        raise TimeoutError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    monkeypatch.setattr(socket, "create_connection", slow)
    with pytest.raises(FetchError, match=r"takes longer than 0\.3 s"):
        Client(LOCAL, "test", 1000, 0.3).get("http://shop.example/a")
    assert len(tried) <= 2
    assert max(tried) <= 0.3


def test_a_body_that_is_cut_off_is_no_picture(web):
    site, root = web
    site.pages["/x"], site.cut = picture(), [20]
    with pytest.raises(FetchError) as caught:
        Client(LOCAL, "test", 10_000, 5.0).get(f"{root}/x")
    assert not caught.value.lasting


def test_a_body_without_a_length_is_read_up_to_the_limit(web):
    site, root = web

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        handler.wfile.write(b"x" * 100_000)

    site.pages["/x"] = endless
    assert len(Client(LOCAL, "test", 100_000, 5.0).get(f"{root}/x")) == 100_000
    with pytest.raises(FetchError, match="is larger than"):
        Client(LOCAL, "test", 99_999, 5.0).get(f"{root}/x")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:7f00:1::1", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://shop.example/a.jpg", "is not an https address"),
        ("ftp://shop.example/a.jpg", "is not an https address"),
        ("//shop.example/a.jpg", "is not an https address"),
        ("a.jpg", "is not an https address"),
        ("https:///a.jpg", "is not an address"),
        ("https://me:secret@shop.example/", "is not an address"),
        ("https://shop.example:22/", "asks for port 22"),
        ("https://shop.example:x/", "is not an address"),
        ("https://sh op.example/", "is not an address"),
    ],
)
def test_addresses_that_are_not_asked(url, reason):
    with pytest.raises(FetchError, match=reason) as caught:
        check(url, Policy())
    assert caught.value.lasting


def test_addresses_as_they_are_asked():
    assert check("https://shop.example/ü b.jpg?x=1#y", Policy()) == (
        "shop.example",
        443,
        "/%C3%BC%20b.jpg?x=1",
    )
    assert check("https://müller.example", Policy()) == ("xn--mller-kva.example", 443, "/")
    assert secure("http://shop.example:80/a.jpg", Policy()) == "https://shop.example/a.jpg"
    old = "http://ecx.images-amazon.com/images/I/41DY%2B._SX300_.jpg"
    assert secure(old, Policy()) == "https://images-na.ssl-images-amazon.com/images/I/41DY%2B._SX300_.jpg"


@pytest.mark.parametrize(
    "url", ["https://localhost/a", "https://127.0.0.1/a", "https://[::1]/a", "https://2130706433/"]
)
def test_the_rules_of_the_command_refuse_this_machine(url):
    with pytest.raises(FetchError, match="no public address") as caught:
        Client(Policy(), "test", 1000, 5.0).get(url)
    assert caught.value.lasting


def test_a_name_that_also_leads_inside_is_refused(monkeypatch):
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 443)) for host in ("93.184.216.34", "10.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    with pytest.raises(FetchError, match=r"leads to 10\.0\.0\.1"):
        Client(Policy(), "test", 1000, 5.0).get("https://shop.example/a")


def test_the_checked_address_is_the_one_connected_to(web, monkeypatch):
    """A name is resolved once; what it answers later does not matter."""
    site, root = web
    site.pages["/a"] = b"x"
    port = int(root.rsplit(":", 1)[1])
    answers = ["127.0.0.1"]
    resolve = socket.getaddrinfo

    def rebinding(host, *args, **options):
        if host != "shop.example":
            return resolve(host, *args, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(), port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert Client(LOCAL, "test", 1000, 5.0).get(f"http://shop.example:{port}/a") == b"x"
    assert site.asked[0][1]["Host"] == f"shop.example:{port}"
    assert answers == []


def test_proxies_of_the_environment_are_not_asked(web, monkeypatch):
    site, root = web
    site.pages["/a"] = b"x"
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    assert Client(LOCAL, "test", 1000, 5.0).get(f"{root}/a") == b"x"


def test_without_a_network_the_run_ends_early(tmp_path):
    data = shop(tmp_path, [f"http://127.0.0.1:9/{number}" for number in range(HOPELESS + 15)])
    with pytest.raises(UserError, match=r"none of the first 20 pictures .*refused.*check the network"):
        run(data)
    saved = json.loads((data.path / "images" / "report.json").read_text())
    assert len(saved["failed"]) == HOPELESS
    assert not any(failure["lasting"] for failure in saved["failed"].values())


def test_an_interruption_keeps_what_was_fetched(web, tmp_path, monkeypatch):
    site, root = web
    site.pages |= {f"/{number}": picture() for number in range(9)}
    data = shop(tmp_path, [f"{root}/{number}" for number in range(9)])
    from hm4sr.data.remote import pictures

    note = pictures._Run._note

    def stop(self, url, outcome):
        note(self, url, outcome)
        if self.report.fetched == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(pictures._Run, "_note", stop)
    with pytest.raises(KeyboardInterrupt):
        run(data, workers=1)
    monkeypatch.undo()
    there = len(downloaded(data.path / "images"))
    assert 4 <= there < 9
    assert not list((data.path / "images").glob(".*"))
    report, _ = run(data)
    assert (report.there, report.fetched) == (there, 9 - there)


def test_a_limit_leaves_the_rest_for_another_run(web, tmp_path):
    site, root = web
    site.pages |= {f"/{number}": picture() for number in range(5)}
    data = shop(tmp_path, [f"{root}/{number}" for number in range(5)])
    first, _ = run(data, limit=2)
    assert (first.fetched, first.skipped) == (2, 3)
    second, _ = run(data)
    assert (second.there, second.fetched, second.skipped) == (2, 3, 0)


def test_mistakes(tmp_path):
    data = shop(tmp_path, [None])
    with pytest.raises(UserError, match="has no addresses of pictures"):
        run(data)
    for settings, key in [
        ({"workers": 99}, "workers"),
        ({"contact": "a b"}, "contact"),
        ({"retry": "x"}, "retry"),
    ]:
        with pytest.raises(UserError, match=key):
            ImageConfig.parse(settings, "test")
