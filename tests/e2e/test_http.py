import asyncio
import json
import logging
import math
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="fastapi, of the extra `serve`, is not installed")
pytest.importorskip("prometheus_client", reason="prometheus-client, of the extra `serve`, is not installed")

from PIL import Image
from starlette.testclient import TestClient

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.serving.http.app import create_app
from hm4sr.serving.http.logs import JsonLines
from hm4sr.serving.http.metrics import Metrics
from hm4sr.serving.http.runs import Runs, RunSource
from hm4sr.serving.http.schemas import Question
from hm4sr.serving.http.service import Service
from hm4sr.serving.http.settings import ServeConfig, read_token

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import DAY, ITEMS, START, USERS, add_features, make_dataset, make_run

HISTORY = [("Käse", START), ("i9", START + DAY), ("007", START + 5 * DAY)]
EVENTS = [{"item_id": item, "time": time} for item, time in HISTORY]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    pictures = [None] * len(ITEMS)
    pictures[0], pictures[1], pictures[2], pictures[3] = "a.png", "../secret.png", "broken.png", "absent.png"
    Image.new("RGB", (900, 600), (200, 30, 30)).save(folder / "secret.png")
    add_features(make_dataset(folder / "data", pictures=pictures))
    Image.new("RGB", (900, 600), (30, 30, 200)).save(folder / "data" / "a.png")
    (folder / "data" / "broken.png").write_bytes(b"no picture")
    for name in ("hm4sr", "sasrec"):
        make_run(folder / name, Dataset.open(folder / "data"), name)
    return folder


@pytest.fixture(scope="module")
def runs(shop):
    return Runs([RunSource(shop / name) for name in ("hm4sr", "sasrec")], ServeConfig().index, Metrics())


@pytest.fixture
def start(runs):
    """Make services that answer from the same loaded runs; they are closed after the test."""
    started = []

    def make(token=None, **values):
        config = ServeConfig.parse({"hosts": ["testserver"], **values}, "test")
        started.append(Service(config, runs, Metrics(), token))
        return started[-1]

    yield make
    for service in started:
        service.close()


@pytest.fixture(scope="module")
def service(runs):
    service = Service(ServeConfig(hosts=("testserver",)), runs, Metrics())
    yield service
    service.close()


@pytest.fixture(scope="module")
def client(service):
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def recommender(runs):
    return runs.loaded["hm4sr"].recommender


def ids(answer):
    items = answer["items"] if isinstance(answer, dict) else answer.items
    return [item["item_id"] if isinstance(item, dict) else item.item_id for item in items]


def refused(reply, status):
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    return reply.json()["error"]


@pytest.mark.parametrize(
    "question",
    [
        {"k": 7},
        {"k": 99, "filter_seen": False, "exclude": ["7", "gone"]},
        {"categories": ["odd"], "at_time": START + DAY},
        {"include": [*ITEMS[:9], "gone"], "without": ["text", "time"]},
    ],
)
def test_answers_are_those_of_the_recommender(client, recommender, question):
    reply = client.post("/recommend", json={"histories": [EVENTS, [], [{"item_id": "nobody"}]], **question})
    assert reply.status_code == 200, reply.text
    told = reply.json()
    expected = recommender.recommend(histories=[HISTORY, [], ["nobody"]], **question)
    assert told["run"] == "hm4sr"
    assert told["unknown_excluded"] == list(expected.unknown_excluded)
    assert told["unknown_included"] == list(expected.unknown_included)
    for one, other in zip(told["answers"], expected, strict=True):
        assert ids(one) == ids(other)
        assert one["source"] == other.source
        assert one["unknown"] == list(other.unknown)
        assert one["later"] == other.later
        assert [item["score"] for item in one["items"]] == pytest.approx(
            [i.score for i in other.items], abs=1e-5
        )


def test_known_users_and_further_events(client, recommender):
    told = client.post("/recommend", json={"users": USERS[:3]}).json()["answers"]
    assert [answer["request"] for answer in told] == USERS[:3]
    assert [ids(answer) for answer in told] == [ids(a) for a in recommender.recommend(USERS[:3])]
    more = client.post("/recommend", json={"users": [USERS[0]], "histories": [[{"item_id": "i9"}]]}).json()
    assert ids(more["answers"][0]) == ids(recommender.recommend(USERS[0], [["i9"]])[0])


def test_each_run_answers_by_its_name(client, runs):
    body = {"histories": [EVENTS], "k": 9, "run": "sasrec"}
    told = client.post("/recommend", json=body).json()
    assert told["run"] == "sasrec"
    assert ids(told["answers"][0]) == ids(
        runs.loaded["sasrec"].recommender.recommend(None, [HISTORY], k=9)[0]
    )
    assert [run["name"] for run in client.get("/runs").json()["runs"]] == ["hm4sr", "sasrec"]
    assert "GET /runs" in refused(client.post("/recommend", json={**body, "run": "../hm4sr"}), 404)


def test_explanations_are_those_of_the_recommender(client, recommender):
    told = client.post("/explain", json={"histories": [EVENTS, []], "k": 4, "num_reasons": 2}).json()
    expected = recommender.explain(None, [HISTORY, []], k=4, num_reasons=2)
    for one, other in zip(told["explanations"], expected, strict=True):
        assert ids(one["answer"]) == ids(other.answer)
        assert ids(one) == ids(other)
        assert [event["gates"].keys() for event in one["events"]] == [e.gates.keys() for e in other.events]
        for item, same in zip(one["items"], other.items, strict=True):
            assert item["shares"] == pytest.approx(dict(same.shares), abs=1e-5)
            assert [reason["event"] for reason in item["reasons"]] == [r.event for r in same.reasons]
    assert told["explanations"][1]["time"] is None
    assert told["explanations"][0]["events"][0]["gates"]


def test_similar_items(client, recommender):
    told = client.post("/similar", json={"items": ["7", "Käse"], "k": 3}).json()
    assert [ids(a) for a in told["answers"]] == [
        ids(a) for a in recommender.similar_items(["7", "Käse"], k=3)
    ]
    assert "'gone' is not in the catalogue" in refused(client.post("/similar", json={"items": ["gone"]}), 404)


def test_items_are_found_by_id_and_by_words(client, recommender):
    for item in ("Käse", "a,b", 'say "hi"', "日本"):
        told = client.get("/items/" + item).json()
        assert (told["item_id"], told["title"]) == (item, f"Title of {item}")
    refused(client.get("/items/gone"), 404)
    refused(client.get("/items/../../etc/passwd"), 404)
    found = client.get("/items", params={"words": "KÄSE title", "count": 5}).json()
    assert (found["total"], [item["item_id"] for item in found["items"]]) == (1, ["Käse"])
    everything = client.get("/items", params={"count": 100}).json()
    popular = recommender.recommend(histories=[[]], k=len(ITEMS))[0]
    assert [item["item_id"] for item in everything["items"]] == ids(popular)
    page = client.get("/items", params={"first": 3, "count": 4}).json()["items"]
    assert page == everything["items"][3:7]
    assert client.get("/items", params={"words": "no.*such("}).json() == {"total": 0, "items": []}


def test_pictures_are_small_and_from_their_folder_alone(client, tmp_path):
    reply = client.get("/items/007/picture")
    assert reply.headers["content-type"] == "image/jpeg"
    (tmp_path / "picture.jpg").write_bytes(reply.content)
    with Image.open(tmp_path / "picture.jpg") as picture:
        assert picture.size == (256, 171)
        assert picture.getpixel((100, 100))[2] > 180
    for item in ITEMS[1:5]:
        assert "no picture" in refused(client.get(f"/items/{item}/picture"), 404)
    refused(client.get("/items/..%2Fsecret.png/picture"), 404)


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({}, 422, "give users, histories"),
        ({"users": ["nobody"]}, 404, "user 'nobody' is not known"),
        ({"users": ["42"], "histories": [[], []]}, 422, "1 users but 2 histories"),
        ({"users": [42]}, 422, "body.users.0: input should be a valid string"),
        ({"users": ["42"], "k": 0}, 422, "body.k"),
        ({"users": ["42"], "k": 10**30}, 422, "k exceeds 1,000"),
        ({"users": ["42"], "k": True}, 422, "body.k"),
        ({"users": ["42"], "k": "5"}, 422, "body.k"),
        ({"users": ["42"], "k": 5.5}, 422, "body.k"),
        ({"users": ["42"], "k": 1e300}, 422, "k exceeds 1,000"),
        ({"users": ["42"], "K": 5}, 422, "body.K: no such key: /openapi.json has"),
        ({"users": ["42"] * 257}, 422, "257 at once are more than 256"),
        ({"users": ["42"] * 256, "k": 1000}, 422, "256 times k are more than 50,000 items"),
        ({"histories": [EVENTS, EVENTS * 334]}, 422, "history 2 has 1,002 events, more than 1,000"),
        ({"histories": [[*EVENTS, {"item_id": "7"}]]}, 422, "history 1, event 4: '7' has no time"),
        ({"histories": [[{"item_id": "7", "time": 1e12}]]}, 422, "less than 100000000000"),
        ({"histories": [[{"item_id": "7", "time": "now"}]]}, 422, "valid number"),
        ({"histories": [EVENTS], "at_time": -(10**400)}, 422, "at_time"),
        ({"histories": [EVENTS], "categories": ["od"]}, 422, "did you mean 'odd'?"),
        ({"histories": [EVENTS], "without": ["smell"]}, 422, "take 'id', 'image', 'text', 'time'"),
    ],
)
def test_what_is_not_accepted_is_told_in_a_sentence(client, body, status, sentence):
    assert sentence in refused(client.post("/recommend", json=body), status)


def test_a_whole_number_may_be_written_with_a_point(client):
    plain, pointed = (
        client.post("/recommend", json={"users": ["42"], "k": k}).json()["answers"] for k in (5, 5.0)
    )
    assert len(plain[0]["items"]) == 5
    assert plain == pointed


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"k":' + b"9" * 10_000 + b"}", b"null", b'"text"', b"[1]"],
)
def test_bodies_that_are_no_questions(client, body):
    reply = client.post("/recommend", content=body, headers={"content-type": "application/json"})
    refused(reply, reply.status_code)
    assert reply.status_code in (400, 422)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_times_that_are_no_numbers(client, number):
    body = f'{{"histories": [[{{"item_id": "7", "time": {number}}}]]}}'
    refused(client.post("/recommend", content=body, headers={"content-type": "application/json"}), 422)


times = st.one_of(
    st.integers(-(10**11) + 1, 10**11 - 1), st.floats(-9e10, 9e10), st.just(None), st.integers(), st.floats()
)
events = st.fixed_dictionaries({"item_id": st.sampled_from(ITEMS) | st.text()}, optional={"time": times})
questions = st.fixed_dictionaries(
    {"histories": st.lists(st.lists(events, max_size=9), max_size=4)},
    optional={
        "k": st.integers(-5, 30) | st.integers(),
        "exclude": st.lists(st.text() | st.sampled_from(ITEMS), max_size=3),
        "include": st.none() | st.lists(st.sampled_from(ITEMS), max_size=5),
        "categories": st.lists(st.sampled_from(["odd", "even", "none", ""]), max_size=2),
        "at_time": times,
        "without": st.lists(st.sampled_from(["id", "text", "image", "time", "x"]), max_size=4),
        "filter_seen": st.booleans(),
        "users": st.lists(st.sampled_from([*USERS, "x"]), max_size=4),
    },
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    question=questions | st.dictionaries(st.sampled_from(["users", "histories", "k", "at_time"]), anything),
    route=st.sampled_from(["/recommend", "/recommend", "/explain", "/similar"]),
)
def test_no_question_makes_the_service_fail(client, question, route):
    content = json.dumps(question)  # with NaN and Infinity, as careless clients write them
    reply = client.post(route, content=content, headers={"content-type": "application/json"})
    assert reply.status_code in (200, 400, 404, 422), reply.text
    told = json.loads(reply.text, parse_constant=pytest.fail)
    if reply.status_code != 200:
        assert set(told) == {"error"}
    elif route == "/recommend":
        for answer in told["answers"]:
            assert set(ids(answer)) <= set(ITEMS)
            assert len(ids(answer)) <= question.get("k", 10)
            scores = [item["score"] for item in answer["items"]]
            assert scores == sorted(scores, reverse=True)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(item=st.text(min_size=1).filter(lambda text: text not in ITEMS and text.strip("./")))
def test_no_id_makes_the_service_fail(client, item):
    from urllib.parse import quote

    for path in (f"/items/{quote(item, safe='')}", f"/items/{quote(item, safe='')}/picture"):
        assert client.get(path).status_code in (400, 404)
    assert client.get("/items", params={"words": item[:200]}).status_code == 200


def test_an_oversize_body_is_refused_whether_announced_or_not(client):
    body = json.dumps({"histories": [], "exclude": ["x" * (1 << 20)]}).encode()
    assert "exceeds 1,048,576 bytes" in refused(client.post("/recommend", content=body), 413)
    assert "exceeds" in refused(client.post("/recommend", content=iter([body[:1000], body[1000:]])), 413)


def test_with_a_token_only_its_bearers_are_answered(start):
    service = start(token=b"s3cret")
    client = TestClient(create_app(service))
    for header in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "s3cret"},
        {"authorization": b"\xff"},
    ):
        reply = client.post("/recommend", json={"users": ["42"]}, headers=header)
        assert "token is missing or wrong" in refused(reply, 401)
        assert reply.headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/runs", "/items", "/openapi.json", "/items/007/picture"):
            refused(client.get(path, headers=header), 401)
    allowed = {"authorization": "Bearer s3cret"}
    assert client.post("/recommend", json={"users": ["42"]}, headers=allowed).status_code == 200
    for path in ("/", "/health/live", "/health/ready", "/page/page.js"):
        assert client.get(path).status_code == 200
    service.close()


def test_where_a_token_is_needed_and_found(monkeypatch, tmp_path):
    monkeypatch.delenv("HM4SR_TOKEN", raising=False)
    assert read_token(ServeConfig()) is None
    beyond = ServeConfig(host="0.0.0.0")
    with pytest.raises(UserError, match="set HM4SR_TOKEN"):
        read_token(beyond)
    assert read_token(ServeConfig(host="0.0.0.0", no_token=True)) is None
    monkeypatch.setenv("HM4SR_TOKEN", "from-variable")
    assert read_token(beyond) == b"from-variable"
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert read_token(ServeConfig(token_file=file)) == b"from-file"
    for text in ("", "two words", "geheimnisschlüssel"):
        file.write_text(text)
        with pytest.raises(UserError, match="holds no token"):
            read_token(ServeConfig(token_file=file))
    with pytest.raises(UserError, match="cannot be read"):
        read_token(ServeConfig(token_file=tmp_path))


def test_on_loopback_foreign_hosts_are_refused(client):
    reply = client.get("/runs", headers={"host": "evil.example"})
    assert "another host" in refused(reply, 400)
    hosts = ServeConfig().allowed_hosts
    assert {"localhost", "127.0.0.1", "[::1]"} <= hosts
    assert not ServeConfig(host="0.0.0.0").allowed_hosts


@pytest.fixture
def held(monkeypatch, recommender):
    """Answers that wait for `go`; `began` is set when the first one waits."""
    answer, began, go = recommender.answer, threading.Event(), threading.Event()

    def held_answer(asked):
        began.set()
        assert go.wait(60)
        return answer(asked)

    monkeypatch.setattr(recommender, "answer", held_answer)
    yield began, go
    go.set()


def test_too_many_at_a_time_are_told_to_come_back(start, held):
    began, go = held
    service = start(limits={"in_flight": 1, "deadline_seconds": 60})
    client, replies = TestClient(create_app(service)), []

    def ask():
        replies.append(client.post("/recommend", json={"users": ["42"]}))

    first = threading.Thread(target=ask)
    first.start()
    assert began.wait(60)
    reply = client.post("/recommend", json={"users": ["42"]})
    assert "too many requests at a time" in refused(reply, 503)
    assert reply.headers["retry-after"] == "1"
    assert client.get("/health/ready").status_code == 200
    assert "hm4sr_in_flight 1.0" in client.get("/metrics").text
    go.set()
    first.join()
    ask()
    assert [reply.status_code for reply in replies] == [200, 200]


def test_what_takes_too_long_is_refused_and_what_waits_behind_it_is_never_computed(start, held):
    _, go = held
    service = start(limits={"deadline_seconds": 0.2})
    client = TestClient(create_app(service))
    for _ in range(2):
        reply = client.post("/recommend", json={"users": ["42"]})
        assert "no answer in time" in refused(reply, 503)
    go.set()
    service.close()
    refused(client.get("/health/ready"), 503)
    assert client.get("/health/live").status_code == 200
    text = client.get("/metrics").text
    assert "hm4sr_batch_rows_sum 1.0" in text
    assert 'hm4sr_refused_total{reason="deadline"} 2.0' in text


def test_what_arrives_together_is_answered_together(start, recommender, monkeypatch):
    limits = {"deadline_seconds": 60}
    service = start(batcher={"wait_seconds": 60, "rows": 3}, limits=limits)
    sizes, answer = [], recommender.answer
    monkeypatch.setattr(recommender, "answer", lambda asked: sizes.append(len(asked)) or answer(asked))
    asked = [
        Question(users=[USERS[0]]),
        Question(users=[USERS[1]], without=["smell"]),
        Question(users=[USERS[2]]),
    ]

    async def together():
        run = service.run_of(None)
        return await asyncio.gather(*(service.recommend(run, q) for q in asked), return_exceptions=True)

    first, second, third = asyncio.run(together())
    assert sizes == [2]
    assert isinstance(second, UserError)
    assert [ids(a) for a in (first[0], third[0])] == [
        ids(a) for a in recommender.recommend([USERS[0], USERS[2]])
    ]
    service.close()


def test_a_reload_swaps_the_run_and_a_bad_one_leaves_it(shop, tmp_path):
    folder = tmp_path / "served"
    shutil.copytree(shop / "sasrec", folder)
    metrics = Metrics()
    runs = Runs([RunSource(folder)], ServeConfig().index, metrics)
    service = Service(ServeConfig(hosts=("testserver",)), runs, metrics)
    client = TestClient(create_app(service))
    before = service.run_of(None)
    assert client.get("/runs").json()["runs"][0]["model"] == "sasrec"
    shutil.rmtree(folder)
    shutil.copytree(shop / "hm4sr", folder)
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert service.runs.reload() is False
    assert service.run_of(None) is before
    assert client.post("/recommend", json={"users": ["42"]}).status_code == 200
    shutil.rmtree(folder)
    shutil.copytree(shop / "hm4sr", folder)
    assert service.runs.reload() is True
    assert client.get("/runs").json()["runs"][0]["model"] == "hm4sr"
    assert before.recommender.recommend("42")[0].items  # a question on its way is still answered
    text = client.get("/metrics").text
    assert 'hm4sr_reloads_total{outcome="done"} 1.0' in text
    assert 'hm4sr_reloads_total{outcome="failed"} 1.0' in text
    service.close()


def test_logs_and_metrics_hold_nothing_that_a_client_wrote(client, caplog, monkeypatch, service):
    caplog.set_level(logging.INFO)
    client.post("/recommend", json={"users": ["Zoë"], "exclude": ["secretive"]})
    client.post("/recommend", json={"users": ["secretive"]})
    client.get("/items/secretive", params={"words": "secretive"})
    client.request("SECRETIVE", "/secretive", headers={"user-agent": "secretive"})
    recommender = service.run_of(None).recommender
    monkeypatch.setattr(recommender, "answer", lambda asked: {}["secretive"])
    error = refused(client.post("/recommend", json={"users": ["Zoë"]}), 500)
    assert "secretive" not in error
    lines = [
        json.loads(JsonLines().format(record))
        for record in caplog.records
        if record.name not in ("httpx", "httpx2")
    ]
    requests = [line for line in lines if line["logger"] == "hm4sr.requests"]
    assert [line["status"] for line in requests] == [200, 404, 404, 404, 500]
    assert [line["route"] for line in requests][:3] == ["/recommend", "/recommend", "/items/{item_id:path}"]
    assert all(line["milliseconds"] >= 0 for line in requests)
    text = "\n".join(map(str, lines)) + client.get("/metrics").text
    assert "secretive" not in text.lower()
    assert not re.search(r"zo(ë|\\|%c3)", text.lower())  # an id of digits could turn up in a measured time


def test_an_exception_is_logged_by_type_and_place_alone():
    try:
        raise KeyError("secretive")
    except KeyError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    line = json.loads(JsonLines().format(record))
    assert line["exception"] == "KeyError"
    assert line["frames"][0].startswith("test_http.py:")
    assert "secretive" not in str(line)


def test_a_warning_of_a_library_is_a_line_without_its_text():
    code = "import warnings; from hm4sr.serving.http.logs import log_as_json; log_as_json(); "
    code += "warnings.warn('secretive', ResourceWarning)"
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["message"], line["warning"], line["place"]) == (
        "a library warns",
        "ResourceWarning",
        "<string>:1",
    )
    assert "secretive" not in done.stderr


def test_metrics_count_what_was_done(start):
    service = start()
    client = TestClient(create_app(service))
    for body in ({"users": ["42", "0042"]}, {"histories": [[]]}, {"users": ["nobody"]}):
        client.post("/recommend", json=body)
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'hm4sr_requests_total{method="POST",route="/recommend",status="200"} 2.0',
        'hm4sr_requests_total{method="POST",route="/recommend",status="404"} 1.0',
        'hm4sr_answers_total{source="model"} 2.0',
        'hm4sr_answers_total{source="popularity"} 1.0',
        "hm4sr_batch_rows_sum 3.0",
        "hm4sr_in_flight 0.0",
    ):
        assert line in reply.text


def test_every_answer_is_guarded_by_its_headers(client):
    for path in ("/", "/runs", "/nowhere", "/items/gone", "/page/view.js"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
    assert client.get("/runs").headers["cache-control"] == "no-store"
    for path in ("/docs", "/redoc", "/page/app.py", "/page/..%2F__init__.py", "/page/"):
        refused(client.get(path), 404)
    refused(client.put("/recommend"), 405)


def test_the_api_is_described_with_examples(client):
    document = client.get("/openapi.json").json()
    routes = {"/recommend", "/explain", "/similar", "/items", "/items/{item_id}", "/runs", "/metrics"}
    assert routes | {"/health/live", "/health/ready", "/items/{item_id}/picture"} == set(document["paths"])
    schemas = document["components"]["schemas"]
    for name in ("Question", "WhyQuestion", "SimilarQuestion"):
        (example, *_) = schemas[name]["examples"]
        assert example
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith(
                "/Problem"
            )
    assert "256 users or histories of 1,000 events" in document["info"]["description"]


def test_scores_are_finite_for_the_strangest_times(client):
    for time in (-99_999_999_999, 99_999_999_999, 0, -0.5):
        body = {"histories": [[{"item_id": "7", "time": time}, {"item_id": "i9", "time": 0}]], "k": 3}
        (answer,) = client.post("/recommend", json=body).json()["answers"]
        assert len(answer["items"]) == 3
        assert all(math.isfinite(item["score"]) for item in answer["items"])


def test_the_document_states_the_limits(start):
    limits = {"k": 30, "batch": 3, "history": 4, "explain_k": 5, "explain_batch": 2}
    schemas = (
        TestClient(create_app(start(limits=limits))).get("/openapi.json").json()["components"]["schemas"]
    )
    question, why = (schemas[name]["properties"] for name in ("Question", "WhyQuestion"))
    assert (question["k"]["maximum"], why["k"]["maximum"]) == (30, 5)
    arrays = [
        next(part for part in properties[key]["anyOf"] if part["type"] == "array")
        for properties in (question, why)
        for key in ("users", "histories", "categories")
    ]
    assert [array.get("maxItems") for array in arrays] == [3, 3, None, 2, 2, None]
    assert arrays[1]["items"]["maxItems"] == 4
    assert arrays[2]["items"]["enum"] == ["even", "odd"]
    assert question["without"]["items"]["enum"] == ["id", "image", "text", "time"]
    assert schemas["SimilarQuestion"]["properties"]["items"]["maxItems"] == 3


@pytest.fixture(scope="module")
def patient(runs):
    """A client of a service with the usual limits, but as much time as a busy machine takes."""
    config = ServeConfig.parse({"hosts": ["testserver"], "limits": {"deadline_seconds": 60}}, "test")
    service = Service(config, runs, Metrics())
    yield TestClient(create_app(service), raise_server_exceptions=False)
    service.close()


@pytest.fixture(scope="module")
def stated(patient):
    """Whether a body is one that /openapi.json allows, by the name of its schema."""
    components = patient.get("/openapi.json").json()["components"]

    def allows(name, body):
        schema = {"$ref": f"#/components/schemas/{name}", "components": components}
        return jsonschema.Draft202012Validator(schema).is_valid(body)

    return allows


@pytest.mark.parametrize(
    ("body", "allowed"),
    [
        ({}, False),
        ({"users": None}, False),
        ({"users": None, "histories": [[]]}, True),
        ({"users": ["42"]}, True),
        ({"users": ["42"], "histories": [[]]}, True),
        ({"users": ["42"], "k": 1000}, True),
        ({"users": ["42"], "k": 1001}, False),
        ({"users": ["42"] * 256}, True),
        ({"users": ["42"] * 257}, False),
        ({"histories": [[]] * 257}, False),
        ({"histories": [[{"item_id": "7"}] * 1000]}, True),
        ({"histories": [[{"item_id": "7"}] * 1001]}, False),
        ({"histories": [EVENTS]}, True),
        ({"histories": [[*EVENTS, {"item_id": "7"}]]}, False),
        ({"histories": [[{"item_id": "7"}, {"item_id": "7", "time": None}]]}, True),
        ({"histories": [EVENTS], "without": ["text", "time"]}, True),
        ({"histories": [EVENTS], "without": ["smell"]}, False),
        ({"histories": [EVENTS], "categories": ["odd"]}, True),
        ({"histories": [EVENTS], "categories": ["od"]}, False),
    ],
)
def test_the_document_and_the_service_say_the_same(patient, stated, body, allowed):
    assert stated("Question", body) is allowed
    assert patient.post("/recommend", json=body).status_code == (200 if allowed else 422)


NOT_IN_A_SCHEMA = re.compile(r"\d users but \d+ histories|times k are more than|names all modalities")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(question=questions)
def test_what_the_document_allows_is_answered(patient, stated, question):
    content = json.dumps(question)
    if "NaN" in content or "Infinity" in content:  # no JSON, so no schema speaks of them
        return
    reply = patient.post("/recommend", content=content, headers={"content-type": "application/json"})
    if stated("Question", question) and reply.status_code == 422:
        assert NOT_IN_A_SCHEMA.search(reply.json()["error"])
