"""DIF-SR: the three fusions by hand, and which of them see the future."""

import math
from itertools import product

import pytest
import torch
from test_training import make_dataset
from torch import Tensor

from contract.catalogs import histories, prefix_of, small_catalog, small_model
from hm4sr.errors import UserError
from hm4sr.models.difsr import DIFSR, DecoupledAttention, DIFSRConfig, ScoreFusion
from hm4sr.training.run import train_run
from hm4sr.training.settings import Experiment
from hm4sr.types import SeqBatch

B, H, L, P = 2, 2, 3, 5


def build(**settings: object) -> DIFSR:
    model = small_model("difsr", **settings)
    assert isinstance(model, DIFSR)
    with torch.no_grad():  # larger weights than at the start, so that what leaks can be seen
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return model.eval()


def three_sources() -> list[Tensor]:
    return [torch.randn(B, H, L, L), torch.randn(B, H, L, L), torch.randn(1, H, L, L)]


def fusion(kind: str) -> ScoreFusion:
    made = ScoreFusion(kind, 3, P, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made.requires_grad_(False)


def shown_row(source: Tensor, b: int, h: int, query: int, hidden: Tensor) -> list[float]:
    """One query's scores, filled up to P; what is hidden counts as 0."""
    row = source[b if len(source) > 1 else 0, h, query].tolist()
    seen = [0.0 if hidden[b, 0, 0, key] else row[key] for key in range(L)]
    return seen + [0.0] * (P - L)


HIDDEN = torch.tensor([[False, False, False], [False, False, True]])[:, None, None]


def test_sum_adds_the_scores_as_they_are():
    sources = three_sources()
    found = fusion("sum")(sources, HIDDEN)
    for b, h, q, k in product(range(B), range(H), range(L), range(L)):
        expected = sources[0][b, h, q, k] + sources[1][b, h, q, k] + sources[2][0, h, q, k]
        torch.testing.assert_close(found[b, h, q, k], expected)


def test_concat_maps_the_joined_rows_of_a_query_to_one():
    made, sources = fusion("concat"), three_sources()
    found = made(sources, HIDDEN)
    weight, bias = made.row.weight.tolist(), made.row.bias.tolist()
    for b, h, q in product(range(B), range(H), range(L)):
        joined = [score for source in sources for score in shown_row(source, b, h, q, HIDDEN)]
        for key in range(L):
            expected = sum(w * s for w, s in zip(weight[key], joined, strict=True)) + bias[key]
            assert float(found[b, h, q, key]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_gate_weighs_the_sources_by_the_energy_of_their_rows():
    made, sources = fusion("gate"), three_sources()
    found = made(sources, HIDDEN)
    weight, bias = made.row.weight.tolist(), made.row.bias.tolist()
    out, offset = made.energy.weight[0].tolist(), float(made.energy.bias)
    for b, h, q in product(range(B), range(H), range(L)):
        rows = [shown_row(source, b, h, q, HIDDEN) for source in sources]
        energies = []
        for row in rows:
            inner = [max(0.0, bias[i] + sum(weight[i][j] * row[j] for j in range(P))) for i in range(P)]
            energies.append(offset + sum(o * x for o, x in zip(out, inner, strict=True)))
        powers = [math.exp(energy - max(energies)) for energy in energies]
        for key in range(L):
            expected = sum(p * row[key] for p, row in zip(powers, rows, strict=True)) / sum(powers)
            assert float(found[b, h, q, key].detach()) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_scores_are_fused_before_they_are_scaled_by_the_width_of_an_item_head():
    config = DIFSRConfig(dim=8, heads=2, fusion="sum", attribute_dim=4)
    attention = DecoupledAttention(config, 4, P, 0.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_()
    attention.requires_grad_(False)
    x, p, a = torch.randn(1, L, 8), torch.randn(L, 8), torch.randn(1, L, 4)
    found = attention(x, p, a, torch.ones(1, L, dtype=torch.bool))[0]
    query, key, value = attention.query_key_value(x)[0].chunk(3, dim=1)
    pairs = [(query, key), attention.position(p).chunk(2, dim=1), attention.attribute(a)[0].chunk(2, dim=1)]
    for q in range(L):
        heads = []
        for h in range(2):
            logits = [
                sum(
                    float(left[q].chunk(2)[h] @ right[k].chunk(2)[h])  # this head's half of each source
                    for left, right in pairs
                )
                / math.sqrt(8 // 2)
                for k in range(q + 1)
            ]
            weights = torch.tensor(logits).softmax(0)
            heads.append(sum(weights[k] * value[k].chunk(2)[h] for k in range(q + 1)))
        torch.testing.assert_close(found[q], attention.out(torch.cat(heads)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "parallel"),
    [
        ({"fusion": "sum"}, True),
        ({"fusion": "gate"}, False),
        ({"fusion": "concat"}, False),
        ({"fusion": "gate", "causal_fusion": True}, True),
        ({"fusion": "concat", "causal_fusion": True}, True),
    ],
)
def test_a_fusion_is_exact_in_one_pass_as_it_declares(settings, parallel):
    model, batch = build(**settings), histories([9, 9, 9])
    assert model.parallel is parallel
    items = batch.items.clone()
    items[:, 5:] = items[:, 5:] % 40 + 1
    changed = SeqBatch(items, batch.times, batch.lengths, batch.targets, batch.users)
    with torch.no_grad():
        whole = model.encode(batch)
        leak = (whole[:, :5] - model.encode(changed)[:, :5]).abs().max()
        prefix = model.encode(prefix_of(batch, 5))[:, -1]
    assert (leak <= 1e-6) if parallel else (leak > 1e-3)
    assert torch.allclose(whole[:, 4], prefix, atol=1e-5) is parallel


def test_order_matters_and_categories_do():
    model, batch = build(fusion="sum"), histories([9, 9])
    swapped = batch.items.clone()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    other = SeqBatch(swapped, batch.times, batch.lengths, batch.targets, batch.users)
    with torch.no_grad():
        before = model.encode(batch)[:, -1]
        assert (before - model.encode(other)[:, -1]).abs().max() > 1e-3
        model.categories = model.categories.roll(1, 0) * (model.categories > 0)
        assert (before - model.encode(batch)[:, -1]).abs().max() > 1e-3


def test_the_categories_of_the_answer_are_predicted_with_their_weight():
    model, batch = build(), histories([5, 3], parallel=False)
    heavy = build(attribute_weight=20.0)
    heavy.load_state_dict(model.state_dict())
    with torch.no_grad():
        given = float(model.losses(batch)["attributes"])
        assert float(heavy.losses(batch)["attributes"]) == pytest.approx(2 * given)
        logits = model.attribute_head(model.last_hidden(batch))
    answers = batch.targets[batch.targets > 0].tolist()
    terms = []
    for row, answer in enumerate(answers):
        wanted = set(model.categories[answer].tolist()) - {0}
        for category in range(1, 6):
            chance = torch.sigmoid(logits[row, category])
            terms.append(-math.log(chance if category in wanted else 1 - chance))
    assert given == pytest.approx(10 * sum(terms) / len(terms), rel=1e-4)


def test_without_categories_ids_and_positions_are_left():
    model = build(catalog=small_catalog(num_categories=0))
    assert list(model.losses(histories([5, 3], parallel=False))) == ["main"]
    assert not [key for key, _ in model.named_parameters() if "attribute" in key]


def test_the_released_categories_do_not_learn():
    model = small_model("difsr", train_attributes=False).train()
    assert 0.8 < float(model.attributes.weight[1:].std()) < 1.2
    torch.stack(list(model.losses(histories([5, 3], parallel=False)).values())).sum().backward()
    assert model.attributes.weight.grad is None


def test_heads_must_divide_the_width_of_a_category():
    with pytest.raises(UserError, match="attribute_dim"):
        DIFSRConfig.parse({"heads": 4, "attribute_dim": 30}, "test")


def test_all_positions_at_once_are_refused_before_anything_is_written_unless_the_fusion_is_exact(tmp_path):
    dataset = make_dataset(tmp_path / "walks")

    def experiment(fusion: str) -> Experiment:
        values = {
            "data": {"path": str(dataset.path), "max_length": 8},
            "model": {"name": "difsr", "dim": 8, "inner": 16, "attribute_dim": 8, "fusion": fusion},
            "train": {"epochs": 1, "parallel": True},
        }
        return Experiment.build(values, "test")

    with pytest.raises(UserError, match="not exact for difsr"):
        train_run(experiment("gate"), tmp_path / "gate")
    assert not (tmp_path / "gate").exists()
    assert train_run(experiment("sum"), tmp_path / "sum").report["epochs"] == 1
