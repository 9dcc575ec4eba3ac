"""Experiments as data: every line is a setting that exists, parts are found by name, mistakes are told."""

import pytest
from test_training import make_dataset

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.experiments.definitions import chosen_definitions, chosen_parts, definitions
from hm4sr.experiments.paper import model_titles
from hm4sr.experiments.reproduce import Bases, plan
from hm4sr.experiments.runs import Shelf
from hm4sr.experiments.subject import Subject


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("definitions") / "walks")


def test_the_experiments():
    assert list(definitions()) == [
        "table1", "table2", "ablation", "hyperparameters", "time-embeddings", "case-study",
        "time-distribution", "studies",
    ]  # fmt: skip
    assert [part.label for part in definitions()["table1"].parts] == list(model_titles().values())
    assert definitions()["case-study"].parts == definitions()["table1"].parts
    for definition in definitions().values():
        labels = [part.label for part in definition.parts]
        assert len(set(labels)) == len(labels), definition.name
        assert not any("," in label for label in labels), "labels are separated by commas in --part"
    assert len(definitions()["hyperparameters"].parts) == 5 + 5 + 6 + 6 + 5


def test_every_line_builds_and_what_lacks_its_modality_is_left_out(dataset, tmp_path):
    bases = Bases(Subject.of_dataset(dataset), tmp_path)
    for definition in definitions().values():
        outcome = plan(definition, bases)  # raises where a key or a value is not accepted
        left_out = [line.label for line in outcome.lines if line.reason]
        if definition.name == "ablation":
            assert left_out == ["-Image"]
        elif definition.name == "studies":
            assert left_out == [line.label for line in outcome.lines if line.part.group == "missing pictures"]
        else:
            assert not left_out


def test_experiments_share_runs_by_content(dataset, tmp_path):
    bases = Bases(Subject.of_dataset(dataset), tmp_path)
    lines = {
        (name, line.label): line.identity
        for name, definition in definitions().items()
        for line in plan(definition, bases).lines
    }
    same = [
        ("table1", "HM4SR"), ("ablation", "full"), ("time-embeddings", "full"), ("studies", "HM4SR"),
        ("hyperparameters", "K1 = 4"), ("hyperparameters", "lambda2 = 1"), ("hyperparameters", "beta = 0.3"),
        ("studies", "noise in times = 0"), ("studies", "training users = 1"), ("studies", "missing text = 0"),
    ]  # fmt: skip
    assert len({lines[key] for key in same}) == 1
    assert lines["hyperparameters", "K1 = 2"] != lines["hyperparameters", "K2 = 2"] != lines[same[0]]
    assert lines["studies", "training users (SASRec) = 1"] == lines["table1", "SASRec"]


def test_a_plan_has_the_identity_that_training_gives(dataset, tmp_path):
    bases = Bases(Subject.of_dataset(dataset), tmp_path)
    shelf = Shelf(tmp_path)
    for line in plan(definitions()["ablation"], bases).lines:
        assert not line.identity or line.identity == shelf.plan(line.experiment).identity


def test_configurations_of_the_folder_come_first_and_changes_win(dataset, tmp_path):
    (tmp_path / "hm4sr.toml").write_text(
        '[data]\npath = "elsewhere"\n[model]\nname = "hm4sr"\ncp_weight = 3\n'
    )
    bases = Bases(Subject.of_dataset(dataset), tmp_path, ["model.idcl_weight=2", "train.epochs=7"])
    lines = {line.label: line.experiment for line in plan(definitions()["ablation"], bases).lines}
    assert lines["full"].data.path == dataset.path
    assert lines["full"].train.epochs == 7
    assert lines["full"].model["cp_weight"] == 3
    assert lines["-CP"].model["cp_weight"] == 0
    assert (lines["-CP"].model["idcl_weight"], lines["-IDCL"].model["idcl_weight"]) == (2, 0)
    assert lines["-Text"].data.features == ()


def test_parts_are_labels_or_groups():
    chosen = chosen_definitions("all")
    wanted = chosen_parts(chosen, ["ablation:-CP, -idcl", "hyperparameters:K1,beta = 0.3"])
    assert wanted["ablation"] == {"-CP", "-IDCL"}
    assert wanted["hyperparameters"] == {*(f"K1 = {k}" for k in (2, 4, 6, 8, 12)), "beta = 0.3"}
    assert wanted["table1"] == set()
    assert len(chosen_parts(chosen_definitions("table1"), [])["table1"]) == 14


def test_mistakes(dataset, tmp_path):
    with pytest.raises(UserError, match="'ablatoin' is not an experiment; did you mean 'ablation'"):
        chosen_definitions("ablatoin")
    with pytest.raises(UserError, match="take one of table1, table2"):
        chosen_definitions("nothing-like-it")
    for selection, message in {
        "-CP": "NAME:LABEL",
        "ablation:-C": "did you mean '-cp'",
        "ablation:nothing of it": "its parts are full, -IMoE",
        "table1:HM4SR": "not among the experiments",
    }.items():
        with pytest.raises(UserError, match=message):
            chosen_parts(chosen_definitions("ablation"), [selection])
    bare = Subject.of_dataset(dataset)
    bare = Subject(bare.name, bare.path, bare.files, {}, dataset)
    with pytest.raises(UserError, match="has no features"):
        plan(definitions()["ablation"], Bases(bare, tmp_path))
    assert plan(definitions()["table2"], Bases(bare, tmp_path)).lines == []
    with pytest.raises(UserError, match="dimm"):
        plan(definitions()["ablation"], Bases(Subject.of_dataset(dataset), tmp_path, ["model.dimm=3"]))
