"""The paper's own figures."""

import pytest

from hm4sr.experiments.paper import model_titles, paper_dataset, paper_results, title_of
from hm4sr.models import registered_models

BEAUTY = {"users": 22_363, "items": 12_101, "actions": 198_502}


def test_a_data_set_is_recognised_by_its_size():
    assert paper_dataset(BEAUTY) == "Beauty"
    assert paper_dataset({"users": 24_303, "items": 10_672, "actions": 231_780}) == "Games"
    assert paper_dataset({**BEAUTY, "users": 22_364}) is None


def test_figures_are_found_by_registered_names():
    expected = {"ndcg@5": 0.0420, "ndcg@10": 0.0493, "mrr@5": 0.0367, "mrr@10": 0.0396}
    assert paper_results("Beauty", "hm4sr") == expected
    assert paper_results("Toys", "difsr") == paper_results("Toys", "dif-sr")
    assert paper_results("Toys", "difsr")["mrr@10"] == 0.0318
    assert paper_results("Beauty", "my-model") is None


def test_improvements_of_the_table_follow_from_its_figures():
    # The last line of Table 1, NDCG@5: HM4SR over the best other model.
    for dataset, printed in {"Toys": 0.209, "Games": 0.061, "Beauty": 0.129, "Home": 0.105}.items():
        others = [paper_results(dataset, name)["ndcg@5"] for name in model_titles() if name != "hm4sr"]
        assert len(others) == 13
        own = paper_results(dataset, "hm4sr")["ndcg@5"]
        assert own / max(others) - 1 == pytest.approx(printed, abs=0.001)


def test_titles():
    assert title_of("sasrec") == "SASRec"
    assert title_of("my-model") == "my-model"
    known = {name.replace("-", "").replace("_", "") for name in registered_models()}
    assert {"hm4sr", "sasrec"} <= known & set(model_titles())
