"""The same 100 users asked of Python, of the batch, over HTTP and of the ONNX export: the same lists."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi, of the extra `serve`, is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime, of the extra `export`, is not installed")
pytest.importorskip("onnx", reason="onnx, of the extra `export`, is not installed")

import polars as pl
from starlette.testclient import TestClient

from hm4sr.features.synthetic import SyntheticConfig, synthesize
from hm4sr.serving.batch import BatchConfig, recommend_all
from hm4sr.serving.export import export_onnx
from hm4sr.serving.http.app import create_app
from hm4sr.serving.http.metrics import Metrics
from hm4sr.serving.http.runs import Runs, RunSource
from hm4sr.serving.http.service import Service
from hm4sr.serving.http.settings import ServeConfig
from hm4sr.serving.onnx_recommender import OnnxRecommender
from hm4sr.serving.recommender import Recommender
from hm4sr.serving.source import Source

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers_serving import make_run, pairs, same_list

K = 20


@pytest.fixture(scope="module", params=["hm4sr", "hm4sr-plus"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("same")
    config = SyntheticConfig(users=100, items=60, events=900, categories=24, feature_width=8)
    make_run(folder / "run", synthesize(config, folder / "data"), request.param, max_length=10)
    return folder / "run"


def test_python_batch_http_and_onnx_give_the_same_lists(run, tmp_path):
    recommender = Recommender.load(run)
    users = recommender.dataset.users["user_id"].to_list()
    assert len(users) == 100
    python = {
        user: pairs(answer) for user, answer in zip(users, recommender.recommend(users, k=K), strict=True)
    }
    assert len({tuple(item for item, _ in items) for items in python.values()}) > 50, (
        "the users' lists differ"
    )

    recommend_all(Source(str(run)), BatchConfig(k=K, part_users=30), tmp_path / "batch")
    batch = {user: [] for user in users}
    for row in pl.read_parquet(tmp_path / "batch" / "part-*.parquet").sort("user_id", "rank").to_dicts():
        batch[row["user_id"]].append((row["item_id"], row["score"]))

    metrics = Metrics()
    config = ServeConfig.parse({"hosts": ["testserver"], "limits": {"deadline_seconds": 60}}, "test")
    service = Service(config, Runs([RunSource(run)], config.index, metrics), metrics)
    client, http = TestClient(create_app(service)), {}
    for first in range(0, 100, 40):
        reply = client.post("/recommend", json={"users": users[first : first + 40], "k": K})
        assert reply.status_code == 200, reply.text
        http |= {answer["request"]: pairs(answer) for answer in reply.json()["answers"]}
    service.close()

    export_onnx(run, tmp_path / "onnx")
    histories = [recommender.history(user) for user in users]
    answers = OnnxRecommender.load(tmp_path / "onnx").recommend(histories=histories, k=K)
    onnx = {user: pairs(answer) for user, answer in zip(users, answers, strict=True)}

    for other in (batch, http, onnx):
        assert other.keys() == python.keys()
        assert [user for user in users if not same_list(python[user], other[user])] == []


def test_the_comparison_sees_what_is_not_the_same():
    one = [("a", 3.0), ("b", 2.0), ("c", 1.0)]
    assert same_list(one, [("a", 3.00001), ("b", 2.0), ("c", 1.0)])
    assert same_list([("a", 2.0), ("b", 2.0)], [("b", 2.0), ("a", 2.0)])
    assert same_list(one, [*one[:2], ("d", 1.0)]), "a tie at the end"
    for other in (one[:2], [("b", 3.0), ("a", 2.0), ("c", 1.0)], [*one[:2], ("c", 1.1)]):
        assert not same_list(one, other)
