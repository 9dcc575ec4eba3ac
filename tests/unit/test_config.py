"""Experiment files: every mistake is one sentence that names the key."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import Field

from hm4sr.cli.train import command
from hm4sr.config import Config, override, read_toml
from hm4sr.errors import UserError
from hm4sr.training.settings import Experiment

FILE = """
seed = 3
[data]
path = "data/beauty"
[model]
name = "hm4sr"
dim = 32
[train]
epochs = 7
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(FILE)
    return path


def refusal(file: Path, *assignments: str) -> str:
    with pytest.raises(UserError) as caught:
        Experiment.load(file, assignments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


def test_reads_a_file_and_fills_in_the_defaults(file):
    experiment = Experiment.load(file)
    assert (experiment.seed, experiment.train.epochs, experiment.train.patience) == (3, 7, 10)
    assert (experiment.model_settings().dim, experiment.model_settings().layers) == (32, 2)
    assert experiment.data.path == Path("data/beauty")


def test_the_defaults_are_those_of_the_paper(file):
    experiment = Experiment.load(file, ["model.dim=64"])
    c, train = experiment.model_settings(), experiment.train
    assert (c.dim, c.layers, c.heads, c.inner, c.dropout, c.attention_dropout) == (64, 2, 2, 256, 0.5, 0.5)
    assert (c.interval_scale, c.frequency_base, c.cp_weight, c.pcl_temperature) == (100, 10_000, 1, 1)
    assert (c.interactive_experts, c.temporal_experts, c.temperature, c.placeholder_share) == (4, 4, 0.2, 0.3)
    assert (c.idcl_weight, c.pcl_weight) == (1, 1)
    assert (train.batch_targets, train.learning_rate, train.weight_decay) == (1024, 1e-3, 0)
    assert (experiment.data.max_length, train.patience, train.monitor) == (50, 10, "ndcg@20")
    assert experiment.evaluate.ks == (5, 10, 20)


@pytest.mark.parametrize(
    ("assignment", "key", "hint"),
    [
        ("train.epoch=3", "train.epoch", "did you mean 'epochs'?"),
        ("trian.epochs=3", "trian", "did you mean 'train'?"),
        ("model.dims=3", "dims", "did you mean 'dim'?"),
        ("data.zzz=3", "data.zzz", "known keys are"),
    ],
)
def test_an_unknown_key_is_named_and_the_nearest_known_one_suggested(file, assignment, key, hint):
    message = refusal(file, assignment)
    assert f"unknown key {key!r}" in message
    assert hint in message
    assert str(file) in message


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("train.epochs=many", "train.epochs = 'many'"),
        ("train.epochs=0", "train.epochs = 0"),
        ("train.epochs=1.5", "train.epochs = 1.5"),
        ("train.precision=float8", "train.precision = 'float8'"),
        ("seed=-1", "seed = -1"),
        ("model.dropout=1.0", "dropout = 1.0"),
        ("model.time_embedding=moon", "time_embedding = 'moon'"),
        ("data.features=text", "data.features = 'text'"),
        ("data.features=['text', 'text']", "data.features = ['text', 'text']"),
        ("evaluate.ks=[]", "evaluate.ks = []"),
        ("evaluate.ks=[0, 20]", "evaluate.ks.0 = 0"),
        ("evaluate.ks=[20, -5]", "evaluate.ks.1 = -5"),
        ("train.threads=100_000", "train.threads = 100000"),
        ("train.weight_decay=inf", "train.weight_decay = inf"),
        ("train.learning_rate=nan", "train.learning_rate = nan"),
        ("train.learning_rate=true", "train.learning_rate = True"),
        ("train.average=false", "train.average = False"),
        ("model.layers=true", "layers = True"),
        ("train=3", "train = 3"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_named(file, assignment, key):
    assert f"{key} is not accepted: " in refusal(file, assignment)


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "empty.toml"
    path.write_text('[model]\nname = "sasrec"\n')
    assert "the key 'data' is missing" in refusal(path)
    assert "the key 'data.path' is missing" in refusal(path, "data.max_length=3")


def test_a_model_without_a_name_or_of_an_unknown_one(file, tmp_path):
    assert "model.name = 'hm4rs' is not a model; did you mean 'hm4sr'?" in refusal(file, "model.name=hm4rs")
    assert "known models are" in refusal(file, "model.name=zzz")
    path = tmp_path / "nameless.toml"
    path.write_text('[data]\npath = "x"\n[model]\n')
    assert "'model.name' is missing" in refusal(path)


def test_the_settings_of_another_model_are_unknown_keys(file):
    assert "unknown key 'cp_weight'" in refusal(file, "model.name=sasrec", "model.cp_weight=1")


def test_a_monitor_that_is_not_measured(file):
    message = refusal(file, "train.monitor=ndcg@7")
    assert "train.monitor = 'ndcg@7' is not measured" in message
    assert "ndcg@20" in message
    ok = Experiment.load(file, ["train.monitor=ndcg@7", "evaluate.ks=[7]"])
    assert ok.train.monitor == "ndcg@7"


def test_the_window_context_must_leave_room(file):
    assert "data.window_context" in refusal(file, "data.window_context=50")
    assert Experiment.load(file, ["data.window_context=49"]).data.window_context == 49


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("a.b=3", 3),
        ("a.b = 3", 3),
        ("a.b=0.5", 0.5),
        ("a.b=true", True),
        ('a.b="text"', "text"),
        ("a.b=text", "text"),
        ("a.b=ndcg@5", "ndcg@5"),
        ("a.b=x=y", "x=y"),
        ('a.b=["text", "image"]', ["text", "image"]),
        ("a.b=[]", []),
        ("a.b=", ""),
        ("a.b=1e-3", 1e-3),
    ],
)
def test_the_right_side_of_an_override_is_toml_or_else_a_string(assignment, value):
    assert override({}, [assignment]) == {"a": {"b": value}}


def test_overrides_keep_what_they_do_not_name_and_the_last_wins():
    values = override({"a": {"b": 1, "c": 2}, "d": 3}, ["a.b=4", "d=5", "d=6"])
    assert values == {"a": {"b": 4, "c": 2}, "d": 6}


@pytest.mark.parametrize("assignment", ["model.dim", "=3", "  =3"])
def test_an_override_without_key_or_value_is_explained(file, assignment):
    assert "key=value" in refusal(file, assignment)


def test_an_override_through_a_value_is_explained(file):
    assert "'seed' is a value, not a section" in refusal(file, "seed.x=3")


def test_a_file_that_is_missing_malformed_or_a_folder(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere.toml")
    for content in (b"a = [1", b"\xff\xfe", b"a = 1\na = 2"):
        path = tmp_path / "bad.toml"
        path.write_bytes(content)
        assert f"{path} is not valid TOML" in refusal(path)
    assert "cannot be read" in refusal(tmp_path)


def test_read_toml_gives_plain_values(file):
    assert read_toml(file)["model"] == {"name": "hm4sr", "dim": 32}


@pytest.mark.parametrize(
    "assignments",
    [[], ["model.preset=released", "model.cp_weight=0.25"], ["model.name=sasrec", 'data.features=["text"]']],
)
def test_resolved_settings_build_the_same_experiment(file, assignments):
    experiment = Experiment.load(file, assignments)
    resolved = json.loads(json.dumps(experiment.resolved()))
    again = Experiment.build(resolved, "config.json")
    assert again.resolved() == experiment.resolved()
    assert again.model_settings() == experiment.model_settings()
    assert resolved["model"]["dropout"] == 0.5
    assert resolved["train"]["patience"] == 10


def test_settings_cannot_be_changed_afterwards(file):
    experiment = Experiment.load(file)
    with pytest.raises(ValueError, match="frozen"):
        experiment.seed = 4


def test_the_command_line_reports_one_sentence(file):
    result = CliRunner().invoke(command, [str(file), "--set", "train.epoch=3"])
    assert isinstance(result.exception, UserError)
    assert "did you mean 'epochs'?" in str(result.exception)


class Inner(Config):
    depth: int = 1


class Outer(Config):
    inner: Inner = Field(default_factory=Inner)


def test_nested_keys_are_named_in_full():
    with pytest.raises(UserError, match=r"here: unknown key 'inner\.dept'; did you mean 'depth'\?"):
        Outer.parse({"inner": {"dept": 2}}, "here")
    assert Outer.parse({"inner": {"depth": 2}}, "here").inner.depth == 2
