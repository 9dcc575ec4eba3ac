"""TiCoSeRec from epoch to epoch: which items are similar, and which histories take which operators."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from contract.catalogs import SPRING, histories, small_catalog, small_model
from hm4sr.models import ticoserec
from hm4sr.nn.histories import item_neighbours, vector_neighbours
from hm4sr.nn.time_views import TimedRows
from hm4sr.types import Catalog, Histories


def catalog_with_histories() -> Catalog:
    items = torch.randint(1, 41, (90,), generator=torch.Generator().manual_seed(3))
    given = Histories(items, SPRING + torch.arange(90), torch.arange(0, 91, 2))
    return replace(small_catalog(), histories=given)


def test_the_learned_similarity_has_a_say_after_its_epoch_and_the_better_neighbour_is_taken():
    catalog = catalog_with_histories()
    model = small_model("ticoserec", catalog, hybrid_after=2)
    known, known_score = item_neighbours(catalog.histories, 41)
    learned, learned_score = vector_neighbours(model.items.weight)
    better = learned_score > known_score
    assert 0 < int(better[1:].sum()) < 40
    assert (known != learned)[1:].any()
    for epoch, expected in [(1, known), (2, known), (3, torch.where(better, learned, known))]:
        model.start_epoch(epoch)
        assert torch.equal(model.neighbours[1:], expected[1:]), epoch
    with torch.no_grad():
        model.items.weight[1:].normal_(generator=torch.Generator().manual_seed(0))
    learned, learned_score = vector_neighbours(model.items.weight)
    model.start_epoch(4)  # the vectors are looked at anew
    better = learned_score > known_score
    assert torch.equal(model.neighbours[1:], torch.where(better, learned, known)[1:])


def test_without_a_say_of_the_learned_vectors_the_neighbours_stay():
    catalog = catalog_with_histories()
    model = small_model("ticoserec", catalog, hybrid_after=0)
    known, _ = item_neighbours(catalog.histories, 41)
    for epoch in (1, 2, 100):
        model.start_epoch(epoch)
        assert torch.equal(model.neighbours, known)


@pytest.mark.parametrize("long_from", [5, 13])
def test_histories_of_the_given_length_and_longer_take_all_operators_and_shorter_ones_three(
    long_from, monkeypatch
):
    taken: dict[str, set[int]] = {}

    def recorded(name: str):
        def operator(rows: TimedRows, *_: object) -> Tensor:
            taken.setdefault(name, set()).update(rows.lengths.tolist())
            return rows.items

        return operator

    for name in ("crop", "reorder", "mask", "substitute", "insert"):
        monkeypatch.setattr(ticoserec, name, recorded(name))
    lengths = [long_from - 1, long_from, long_from + 1]
    model = small_model("ticoserec", small_catalog(max_length=15), long_from=long_from)
    model.view_of(histories(lengths * 60))
    assert taken == {
        "crop": set(lengths[1:]),
        "reorder": set(lengths[1:]),
        "mask": set(lengths),
        "substitute": set(lengths),
        "insert": set(lengths),
    }
