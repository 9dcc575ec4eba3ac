import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi, of the extra `serve`, is not installed")
pytest.importorskip("uvicorn", reason="uvicorn, of the extra `serve`, is not installed")

from hm4sr.cli import main
from hm4sr.data.dataset import Dataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import USERS, add_features, make_dataset, make_run, started_service

BODY = json.dumps({"users": USERS[:3], "k": 5})
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    add_features(make_dataset(folder / "data"))
    for name in ("hm4sr", "sasrec"):
        make_run(folder / name, Dataset.open(folder / "data"), name)
    return folder


@pytest.fixture
def fails(capsys, monkeypatch):
    """Call `hm4sr serve` with mistakes; returns what it says."""
    monkeypatch.delenv("HM4SR_TOKEN", raising=False)

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["serve", *map(str, arguments)])
        said = capsys.readouterr()
        assert (stopped.value.code, said.out) == (2, "")
        assert said.err.count("\n") == 1
        return said.err

    return call


def test_mistakes_are_one_sentence(fails, shop, tmp_path):
    run = shop / "sasrec"
    assert str(tmp_path / "nowhere") in fails(tmp_path / "nowhere", "--port", 0)
    assert "no token is set" in fails(run, "--host", "0.0.0.0")
    assert "did you mean 'limits'?" in fails(run, "--set", "limit.k=5")
    assert "limits.k = 0 is not accepted" in fails(run, "--set", "limits.k=0")
    assert "nowhere.toml does not exist" in fails(run, "--config", tmp_path / "nowhere.toml")
    assert "cannot be read" in fails(run, "--set", f"token_file={tmp_path / 'nowhere'}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot be listened on" in fails(run, "--port", taken.getsockname()[1])
    assert "not" in fails(run, "--host", "no.such.host.invalid", "--set", "no_token=true")


def test_a_run_that_is_none_is_told_before_listening(fails, shop):
    assert str(shop / "data") in fails(shop / "data", "--port", 0)


def ask(port, connection=None):
    connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/recommend", BODY, JSON)
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def test_reload_and_stop_drop_no_request(shop, tmp_path):
    current = tmp_path / "current"
    current.symlink_to(shop / "sasrec")
    with started_service(current, "--set", "limits.deadline_seconds=60") as service:
        stop, told = threading.Event(), []

        def keep_asking():
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
            while not stop.is_set():
                status, answer = ask(service.port, connection)
                told.append((status, answer.get("run")))

        threads = [threading.Thread(target=keep_asking) for _ in range(2)]
        for thread in threads:
            thread.start()
        link = tmp_path / "new"
        link.symlink_to(shop / "hm4sr")
        link.replace(current)
        service.process.send_signal(signal.SIGHUP)
        service.wait_for("reloaded")
        before = len(told)
        while len(told) < before + 6:
            threads[0].join(0.01)
            assert threads[0].is_alive()
        stop.set()
        for thread in threads:
            thread.join()
        assert {status for status, _ in told} == {200}
        assert told[0][1] == "sasrec"
        assert told[-1][1] == "hm4sr"

        current.unlink()
        service.process.send_signal(signal.SIGHUP)
        service.wait_for("reload failed")
        assert ask(service.port)[1]["run"] == "hm4sr"

        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
        lines = service.lines()
    assert any(line["message"] == "stopped" for line in lines)
    assert all(user not in json.dumps(lines, ensure_ascii=False) for user in ('"0042"', "Zoë"))
    assert not [path for path in tmp_path.iterdir() if path.name != "current"]


def test_slow_garbled_and_unknown_clients_are_cut_off_and_nobody_else(shop):
    limits = ["--set", "limits.header_seconds=0.3", "--set", "limits.deadline_seconds=0.5"]
    with started_service(shop / "sasrec", *limits, HM4SR_TOKEN="s3cret") as service:
        slow = {}
        for name, text in {
            "headers": b"POST /recommend HTTP/1.1\r\nhost: local",
            "silent": b"",
            "garbled": b"\x16\x03\x01\x00\xffsecretive\r\n\r\n",
            "body": b"POST /recommend HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer s3cret\r\n"
            b"content-length: 99\r\n\r\n{",
        }.items():
            slow[name] = socket.create_connection(("127.0.0.1", service.port), timeout=60)
            slow[name].sendall(text)
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        for _ in range(3):
            connection.request("GET", "/health/ready")
            reply = connection.getresponse()
            assert (reply.status, reply.read()) == (200, b'{"status":"ready"}')
        received = {name: _until_closed(client) for name, client in slow.items()}
        assert received["headers"] == received["silent"] == b""
        assert received["garbled"].startswith(b"HTTP/1.1 400 ")
        assert received["body"].startswith(b"HTTP/1.1 408 ")
        assert b"send it faster" in received["body"]
        assert ask(service.port)[0] == 401
        connection.request("GET", "/items/secretive?words=secretive", headers={"cookie": "secretive"})
        assert connection.getresponse().status == 401
        lines = service.lines()
    assert {line["status"] for line in lines if line["message"] == "request"} >= {200, 401, 408}
    assert "secretive" not in json.dumps(lines)


def _until_closed(client):
    with client:
        parts = []
        while part := client.recv(4096):
            parts.append(part)
        return b"".join(parts)


HIDDEN = "import sys; sys.modules['fastapi'] = None; from hm4sr.cli import main; main(['serve', 'x'])"


def test_without_the_extra_the_command_says_what_to_install(tmp_path):
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "hm4sr: fastapi is not installed: install what serving needs with pip install 'hm4sr[serve]'.\n"
    )


def test_the_unit_and_the_container_call_the_command_as_it_is(shop, fails, monkeypatch):
    deploy = Path(__file__).parents[2] / "deploy"
    unit = (deploy / "hm4sr.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = line.removeprefix("ExecStart=").replace("%d", "/run/credentials").split()
    assert words[1] == "serve"
    assert "token_file /run/credentials/token cannot be read" in fails(*words[2:])
    recipe = (deploy / "Dockerfile").read_text()
    (line,) = [line for line in recipe.splitlines() if line.startswith("ENTRYPOINT")]
    words = json.loads(line.removeprefix("ENTRYPOINT "))
    assert words[:2] == ["hm4sr", "serve"]
    assert "no token is set" in fails(*words[2:], shop / "sasrec")
