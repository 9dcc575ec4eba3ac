"""`hm4sr serve` killed at random moments while it is asked: right answers or none, and no file touched."""

import contextlib
import hashlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="fastapi, of the extra `serve`, is not installed")
pytest.importorskip("uvicorn", reason="uvicorn, of the extra `serve`, is not installed")

from hm4sr.data.dataset import Dataset
from hm4sr.serving.recommender import Recommender

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import (
    DAY,
    ITEMS,
    START,
    USERS,
    add_features,
    make_dataset,
    make_run,
    pairs,
    same_list,
    started_service,
)

BROKEN = (OSError, http.client.HTTPException)
"""What a client sees of a server that is not there, or dies while it answers."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    add_features(make_dataset(folder / "data"))
    make_run(folder / "run", Dataset.open(folder / "data"), "hm4sr")
    return folder


def questions_and_answers(run):
    """Routes and bodies, with what the recommender says from Python."""
    recommender = Recommender.load(run)
    asked = [
        ("/recommend", {"users": USERS, "k": 9}),
        ("/recommend", {"users": USERS[:5], "k": 4, "categories": ["odd"], "filter_seen": False}),
        ("/similar", {"items": ITEMS[:6], "k": 5}),
    ]
    expected = [
        recommender.recommend(USERS, k=9),
        recommender.recommend(USERS[:5], k=4, categories=["odd"], filter_seen=False),
        recommender.similar_items(ITEMS[:6], k=5),
    ]
    for place in range(5):
        history = [(ITEMS[(place + step) % 20], START + DAY * step**2) for step in range(1 + place)]
        body = {"histories": [[{"item_id": item, "time": time} for item, time in history]], "k": 20}
        asked.append(("/recommend", body))
        expected.append(recommender.recommend(histories=history, k=20))
    return [
        (*one, [pairs(answer) for answer in answers]) for one, answers in zip(asked, expected, strict=True)
    ]


class Clients:
    """Threads that ask one question after the other, whether or not anybody listens.

    Attributes:
        right: answers that were those of the recommender.
        refused: honest refusals (503).
        broken: connections that were refused or broke.
        wrong: whatever else came, in words.
    """

    def __init__(self, port, questions, number=2):
        self.port, self.questions = port, questions
        self.right = self.refused = self.broken = 0
        self.wrong = []
        self._news, self._stop = threading.Condition(), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(number)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more, process):
        """Wait for so many further right answers, as long as the service lives."""
        with self._news:
            goal = self.right + more
            while self.right < goal and not self.wrong:
                self._news.wait(1.0)
                assert process.poll() is None, "the service ended by itself"

    def _ask(self, seed):
        rng, connection = np.random.default_rng(seed), None
        while not self._stop.is_set():
            route, body, expected = self.questions[rng.integers(len(self.questions))]
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
            try:
                connection.request("POST", route, json.dumps(body), {"content-type": "application/json"})
                reply = connection.getresponse()
                content = reply.read()
            except BROKEN:
                connection.close()
                connection = None
                with self._news:
                    self.broken += 1
                self._stop.wait(0.05)
                continue
            self._judge(reply.status, content, expected)

    def _judge(self, status, content, expected):
        with self._news:
            try:
                told = json.loads(content)
                if status == 503 and set(told) == {"error"}:
                    self.refused += 1
                elif status == 200 and all(map(same_list, map(pairs, told["answers"]), expected)):
                    assert len(told["answers"]) == len(expected)
                    self.right += 1
                else:
                    self.wrong.append(f"{status}: {content[:500]!r}")
            except (ValueError, KeyError, AssertionError) as error:
                self.wrong.append(f"{status}: {content[:500]!r} ({error!r})")
            self._news.notify_all()


def free_port(rng):
    """A port below those that the system gives to clients, one of which could connect to itself there."""
    for port in rng.integers(20_000, 30_000, 100):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", int(port)))
            return int(port)
    raise AssertionError("no free port")


def files_as_they_are(*folders):
    """Hash and time of the last change of every file, and the names of all folders."""
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        if path.is_file()
        else None
        for folder in folders
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_services_answer_rightly_or_not_at_all(shop, kills):
    """Every fifth kill comes while the service is loading; the others after some answers, within one."""
    rng = np.random.default_rng(kills)
    questions = questions_and_answers(shop / "run")
    before = files_as_they_are(shop / "run", shop / "data")
    arguments = ["--port", str(free_port(rng)), "--set", "limits.deadline_seconds=60"]
    with Clients(int(arguments[1]), questions) as clients:
        for number in range(kills):
            if number % 5 == 4:
                line = [sys.executable, "-m", "hm4sr.cli", "serve", str(shop / "run"), *arguments]
                process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
                time.sleep(rng.uniform(0, 3))
                process.kill()
                process.wait()
            else:
                with started_service(shop / "run", *arguments) as service:
                    clients.wait_for(int(rng.integers(1, 30)), service.process)
                    time.sleep(rng.uniform(0, 0.02))
            assert files_as_they_are(shop / "run", shop / "data") == before
        with started_service(shop / "run", *arguments) as service:
            clients.wait_for(len(questions), service.process)
    print(f"{kills} kills: {clients.right} right, {clients.refused} refused, {clients.broken} broken")
    assert clients.wrong == []
    assert clients.right >= kills - kills // 5
    assert clients.broken > 0
    assert files_as_they_are(shop / "run", shop / "data") == before
