"""IISAN: gates on cached levels against plain loops, and what is said where there are no levels."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from contract.catalogs import histories, small_catalog, small_model
from hm4sr.errors import UserError
from hm4sr.models.iisan import IISAN
from hm4sr.nn.levels import InterModalTower, IntraModalTower, chosen_levels
from hm4sr.types import Catalog

WIDTH, INNER, LEVELS = 5, 3, 4


def build(catalog: Catalog | None = None, **settings: object) -> IISAN:
    model = small_model("iisan", catalog, **settings)
    assert isinstance(model, IISAN)
    return model


def randomised(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.3)
    module.requires_grad_(False)


def adapted(adapter: torch.nn.Module, x: Tensor) -> Tensor:
    hidden = [max(0.0, float(adapter.down.weight[i] @ x + adapter.down.bias[i])) for i in range(INNER)]
    up = [
        float(adapter.up.bias[o]) + sum(float(adapter.up.weight[o, i]) * hidden[i] for i in range(INNER))
        for o in range(len(x))
    ]
    return x + torch.tensor(up)


def levels_of(items: int) -> list[Tensor]:
    """The start is one row for all items."""
    return [torch.randn(1 if level == 0 else items, WIDTH) for level in range(LEVELS)]


def test_queries_keys_and_values_begin_as_three_maps_of_their_own():
    model = build(dim=64)
    weight = model.encoder.layers[0].attention.query_key_value.weight.detach()
    for part in weight.chunk(3):
        assert float(part.std()) == pytest.approx((2 / (64 + 64)) ** 0.5, rel=0.05)


def test_the_tower_of_a_modality_gates_each_level_into_its_state():
    tower = IntraModalTower(WIDTH, INNER, LEVELS, torch.Generator())
    assert torch.equal(tower.mixture(), torch.full((LEVELS,), 0.5))
    randomised(tower)
    levels = levels_of(3)
    found = tower(levels)
    for item in range(3):
        state = torch.zeros(WIDTH)
        for i in range(LEVELS):
            g = 1 / (1 + math.exp(-float(tower.gates[i]) / 0.1))
            level = levels[i][0 if i == 0 else item]
            state = adapted(tower.adapters[i], g * level + (1 - g) * state)
        torch.testing.assert_close(found[item], state, rtol=1e-4, atol=1e-5)


def test_the_common_tower_gates_two_modalities_against_each_other():
    tower = InterModalTower([WIDTH, WIDTH], INNER, LEVELS, torch.Generator())
    randomised(tower)
    image, text = levels_of(3), levels_of(3)
    found = tower([image, text], torch.ones(3, 2, dtype=torch.bool))
    for item in range(3):
        state = torch.zeros(WIDTH)
        for i in range(LEVELS):
            g = 1 / (1 + math.exp(-float(tower.gates[i, 0]) / 0.1))
            row = 0 if i == 0 else item
            state = adapted(tower.adapters[i], state + g * image[i][row] + (1 - g) * text[i][row])
        torch.testing.assert_close(found[item], state, rtol=1e-4, atol=1e-5)


def test_what_an_item_lacks_has_no_share_in_the_common_tower():
    tower = InterModalTower([WIDTH, WIDTH, WIDTH], INNER, LEVELS, torch.Generator())
    randomised(tower)
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    shares = tower.mixture(present)
    torch.testing.assert_close(shares.sum(2), torch.tensor([1.0, 1.0, 0.0]).expand(LEVELS, -1))
    assert not shares[:, 1, 1].any()
    torch.testing.assert_close(shares[:, 1, 0] / shares[:, 1, 2], shares[:, 0, 0] / shares[:, 0, 2])


@pytest.mark.parametrize(
    ("rule", "blocks", "expected"),
    [
        ("even", {"text": 12}, {"text": [2, 4, 6, 8, 10, 12]}),
        ("all", {"text": 6}, {"text": [1, 2, 3, 4, 5, 6]}),
        ("last", {"text": 12}, {"text": [7, 8, 9, 10, 11, 12]}),
        ("even", {"image": 12, "text": 6}, {"image": [4, 8, 12], "text": [2, 4, 6]}),
        ("last", {"image": 12, "text": 6}, {"image": [10, 11, 12], "text": [4, 5, 6]}),
        ("even", {"text": 1}, {"text": [1]}),
    ],
)
def test_the_last_block_is_always_read_and_as_many_of_each_encoder(rule, blocks, expected):
    assert chosen_levels(rule, blocks) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_chosen_levels_reach_the_towers(dtype):
    catalog = small_catalog(modalities=("text",), missing=False)
    text = catalog.features["text"]
    halved = replace(text, levels=text.levels.to(dtype), start=text.start.to(dtype))
    model = build(replace(catalog, features={"text": halved}), levels="even", center_levels=False)
    items = torch.tensor([3, 7])
    start, second, fourth = model.levels["text"](items)
    assert torch.equal(start, halved.start.float()[None])
    assert torch.equal(second, halved.levels[items, 1].float())
    assert torch.equal(fourth, halved.levels[items, 3].float())
    with torch.no_grad():
        expected = model.join(model.heads[0](model.towers[0]([start, second, fourth])))
        torch.testing.assert_close(model.item_states(items), expected)
        torch.testing.assert_close(model.item_states()[items], expected)
    assert not [key for key in model.state_dict() if "levels" in key]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_centred_levels_are_what_tells_items_apart_whatever_the_scale_of_the_encoder(dtype):
    catalog = small_catalog(modalities=("text",))
    text = catalog.features["text"]
    present, common = text.present, 7 * torch.randn(text.levels.shape[1:])
    shifted = replace(text, levels=(text.levels * 5 + common).to(dtype))
    before = shifted.levels.clone()
    found = build(replace(catalog, features={"text": shifted}), levels="all").levels["text"]
    start, *levels = found(torch.arange(len(present)))
    own = text.levels[present] - text.levels[present].mean(0)
    expected = own / own[:, -1].square().mean().sqrt()
    scale = shifted.levels[present, -1].float()
    scale = (scale - scale.mean(0)).square().mean().sqrt()
    torch.testing.assert_close(start[0], text.start / scale, atol=1e-4, rtol=2e-3)
    torch.testing.assert_close(
        torch.stack(levels, 1)[present], expected, atol=1e-5 if dtype == torch.float32 else 5e-3, rtol=1e-3
    )
    assert torch.equal(shifted.levels, before)


def test_levels_that_tell_nothing_apart_are_zeros():
    catalog = small_catalog(modalities=("text",))
    text = catalog.features["text"]
    alike = replace(text, levels=torch.ones_like(text.levels))
    model = build(replace(catalog, features={"text": alike}))
    assert not model.levels["text"].levels.any()
    assert model.item_vectors().isfinite().all()


def test_an_item_without_a_modality_does_not_read_its_zeros():
    catalog = small_catalog()
    model = build(catalog).eval()
    lacking = int((~catalog.features["image"].present[1:]).nonzero()[0]) + 1
    before = model.item_vectors()[lacking].detach()
    model.levels["image"].levels[lacking] = 100.0
    assert torch.equal(model.item_vectors()[lacking], before)
    model.levels["text"].levels[lacking] += 1.0
    assert not torch.equal(model.item_vectors()[lacking], before)


def test_encoders_of_two_widths_and_depths_fit_together():
    catalog = small_catalog()
    image = catalog.features["image"]
    deep = replace(image, levels=torch.cat([image.levels, image.levels], dim=1))
    model = build(replace(catalog, features={**catalog.features, "image": deep}))
    assert model.levels["image"].levels.shape[1] == model.levels["text"].levels.shape[1] == 2
    assert model.item_vectors().isfinite().all()


@pytest.mark.parametrize("what", ["levels", "start"])
def test_without_hidden_states_one_sentence_says_how_to_get_them(what):
    catalog = small_catalog(modalities=("text",))
    bare = replace(catalog.features["text"], **{what: None})
    with pytest.raises(UserError, match=r"hidden states.*'text' lack: extract them with `hm4sr features"):
        build(replace(catalog, features={"text": bare}))


def in_batch_loss(model: IISAN, batch, counts: Tensor) -> float:
    vectors = model.item_vectors().detach()
    hidden = model.encode(batch).detach()
    pool = {i for i in torch.cat([batch.items, batch.targets]).flatten().tolist() if i}
    losses = []
    for row in range(len(batch.items)):
        own = set(batch.items[row].tolist()) | set(batch.targets[row].tolist())
        for place, target in enumerate(batch.targets[row].tolist()):
            if not target:
                continue
            candidates = [target, *(pool - own)]
            scores = torch.tensor(
                [
                    float(hidden[row, place] @ vectors[i]) - math.log(max(1, int(counts[i])))
                    for i in candidates
                ]
            )
            losses.append(float(scores.logsumexp(0) - scores[0]))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("parallel", [True, False])
def test_the_loss_within_a_batch_corrects_for_popularity_and_spares_the_users_own_items(parallel):
    counts = torch.arange(41) * 3
    model = build(replace(small_catalog(), counts=counts), loss="in-batch").eval()
    batch = histories([9, 1, 4], parallel=parallel)
    found = float(model.losses(batch)["main"].detach())
    assert found == pytest.approx(in_batch_loss(model, batch, counts), rel=1e-4)


def test_the_loss_within_a_batch_computes_the_items_of_the_batch_alone(monkeypatch):
    model = build(replace(small_catalog(), counts=torch.ones(41, dtype=torch.int64)), loss="in-batch")
    asked: list[int] = []
    whole = model.item_states

    def counted(items: Tensor | None = None) -> Tensor:
        asked.append(-1 if items is None else len(items))
        return whole(items)

    monkeypatch.setattr(model, "item_states", counted)
    model.losses(histories([2, 1]))
    assert len(asked) == 1
    assert 0 < asked[0] <= 1 + 2 + 1 + 3
