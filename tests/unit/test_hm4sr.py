"""HM4SR: every variant from configuration alone."""

import math
from fractions import Fraction

import pytest
import torch
from hm4sr_kit import (
    LENGTHS,
    TERMS,
    build,
    names,
    plain,
    small_world,
    step,
)

from contract.catalogs import SPRING, batch_of, histories, small_catalog, small_model, widened
from hm4sr.config import Config
from hm4sr.errors import UserError
from hm4sr.models.hm4sr import HM4SRConfig
from hm4sr.nn.time import AbsoluteTime, CosineInterval, DayEmbedding, IntervalEmbedding
from hm4sr.types import Catalog, SeqBatch


def test_the_default_has_all_four_terms_and_three_modalities():
    model = build()
    assert list(model.losses(histories(LENGTHS))) == TERMS
    assert model.modalities == ["id", "image", "text"]
    assert model.item_vectors().shape == (41, 48)


def test_without_interactive_experts_the_vectors_reach_the_temporal_experts_as_they_are():
    model = build(interactive_experts=0)
    assert names(model, "interactive") == []
    assert list(step(model, histories(LENGTHS))) == TERMS
    e = torch.randn(2, 3, 48)
    batch = histories([3, 3])
    mixed, time = model.eval()._mix_experts(e, batch)
    placed = e.view(2, 3, 3, 16) + model.positions.weight[:3, None]
    torch.testing.assert_close(mixed, model.temporal(placed, time))


def test_without_temporal_experts_time_plays_no_part_and_pcl_is_gone():
    model = build(temporal_experts=0)
    assert names(model, "time") == names(model, "temporal") == names(model, "placeholders") == []
    batch = histories(LENGTHS)
    assert list(step(model, batch)) == ["main", "cp", "idcl"]
    later = SeqBatch(batch.items, batch.times * 3, batch.lengths, batch.targets, batch.users)
    model.eval()
    assert torch.equal(model.encode(batch), model.encode(later))
    assert not torch.equal(build().eval().encode(batch), build().eval().encode(later))


def test_judging_finds_in_an_event_what_its_item_and_its_position_hold(monkeypatch):
    model, batch = build().eval(), histories(LENGTHS)
    with torch.no_grad():
        as_learned = model.encode(batch)
        with model.fixed_items():
            assert model._found(batch.items) is not None
            torch.testing.assert_close(model.encode(batch), as_learned, rtol=1e-5, atol=1e-5)
        assert model._found(batch.items) is None  # the weights may change from here on
        with model.fixed_items():
            assert model.train()._found(batch.items) is None  # here as well
        model.eval()
        monkeypatch.setattr("hm4sr.models.hm4sr._LARGEST_TABLE", 0)
        with model.fixed_items():
            assert model._found(batch.items) is None
            assert torch.equal(model.encode(batch), as_learned)


@pytest.mark.parametrize("term", ["cp", "idcl", "pcl"])
def test_weight_zero_drops_the_term(term):
    model = build(**{f"{term}_weight": 0.0})
    assert list(step(model, histories(LENGTHS))) == [name for name in TERMS if name != term]
    owner = {"cp": "category_head", "pcl": "placeholders", "idcl": ""}[term]
    assert owner == "" or names(model, owner) == []


def test_hm4sr_plus_leaves_pcl_out_and_a_weight_brings_it_back():
    batch = histories(LENGTHS)
    assert list(small_model("hm4sr-plus").losses(batch)) == ["main", "cp", "idcl"]
    assert list(small_model("hm4sr-plus", pcl_weight=1.0).losses(batch)) == TERMS


@pytest.mark.parametrize("term", ["cp", "idcl", "pcl"])
def test_terms_come_weighted(term):
    batch = histories(LENGTHS)
    once = plain().losses(batch)
    thrice = plain(**{f"{term}_weight": 3.0}).losses(batch)
    for name in TERMS:
        torch.testing.assert_close(thrice[name], once[name] * (3 if name == term else 1))


@pytest.mark.parametrize(
    ("modalities", "terms"),
    [
        (("text", "image"), TERMS),
        (("text",), TERMS),
        (("image",), TERMS),
        ((), ["main", "cp", "idcl"]),
        (("audio", "image", "text"), TERMS),
    ],
)
def test_runs_on_any_modalities(modalities, terms):
    model = build(small_catalog(modalities=modalities))
    assert model.modalities == ["id", *sorted(modalities)]
    assert model.item_vectors().shape == (41, 16 * (1 + len(modalities)))
    assert list(step(model, histories(LENGTHS))) == terms


def test_a_catalogue_without_categories_has_no_category_term():
    model = build(small_catalog(num_categories=0))
    assert list(step(model, histories(LENGTHS))) == ["main", "idcl", "pcl"]


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("full", [IntervalEmbedding, AbsoluteTime]),
        ("interval", [IntervalEmbedding]),
        ("absolute", [AbsoluteTime]),
        ("day", [DayEmbedding]),
        ("day-of-year", [DayEmbedding]),
        ("cos", [CosineInterval]),
    ],
)
def test_time_embeddings(kind, parts):
    model = build(time_embedding=kind)
    assert [type(part) for part in model.time.parts] == parts
    assert model.temporal.gate.in_features == model.time.width == 16 * len(parts)
    batch = histories(LENGTHS)
    vectors = model.time(batch.times)
    assert vectors.shape == (6, 9, 16 * len(parts))
    assert vectors.isfinite().all()
    assert list(step(model, batch)) == TERMS
    shifted = model.time(batch.times + 7 * 86_400)
    knows_only_gaps = kind in ("interval", "cos")
    assert torch.equal(model.time(batch.times), shifted) == knows_only_gaps


def test_the_released_preset_flips_exactly_the_documented_switches():
    paper, released = HM4SRConfig(), HM4SRConfig(preset="released")
    flipped = {
        key: value
        for key, value in released.model_dump().items()
        if value != getattr(paper, key) and key != "preset"
    }
    assert flipped == {
        "train_temporal_experts": False,
        "released_time": True,
        "time_unit": "seconds",
        "exclude_false_negatives": False,
        "replace_at_least_one": False,
        "score_padding": True,
        "learn_missing": False,
        "center_features": False,
        "cp_weight": 0.0,
    }


def test_explicit_keys_win_over_the_preset():
    config = HM4SRConfig.parse({"preset": "released", "cp_weight": 0.5, "score_padding": False}, "here")
    assert (config.cp_weight, config.score_padding) == (0.5, False)
    assert (config.train_temporal_experts, config.released_time) == (False, True)
    again = HM4SRConfig.parse(config.model_dump(mode="json"), "there")
    assert again == config


def test_the_released_preset_trains():
    model = build(preset="released")
    terms = step(model, histories(LENGTHS))
    assert list(terms) == ["main", "idcl", "pcl"]
    assert all(term.isfinite() for term in terms.values())


def test_an_unknown_preset_or_time_embedding_names_the_key():
    for key in ("preset", "time_embedding", "time_unit"):
        with pytest.raises(UserError, match=key):
            HM4SRConfig.parse({key: "nonsense"}, "here")


def test_frozen_temporal_experts_keep_their_value_and_are_saved():
    for trainable in (True, False):
        model = build(train_temporal_experts=trainable)
        before = model.temporal.experts.detach().clone()
        step(model, histories(LENGTHS))
        assert torch.equal(model.temporal.experts, before) == (not trainable)
        assert ("temporal.experts" in dict(model.named_parameters())) == trainable
        assert torch.equal(model.state_dict()["temporal.experts"], model.temporal.experts)


def test_score_padding_makes_padding_a_class():
    batch = histories(LENGTHS)
    without, with_padding = (plain(score_padding=flag).losses(batch)["main"] for flag in (False, True))
    assert with_padding > without


# Placeholders


@pytest.mark.parametrize("at_least_one", [True, False])
@pytest.mark.parametrize("share", ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.7", "1"])
def test_as_many_placeholders_as_the_share_says(share, at_least_one):
    lengths = list(range(1, 51))
    catalog = small_catalog(max_length=50)
    model = build(catalog, placeholder_share=float(share), replace_at_least_one=at_least_one)
    replaced = model._draw_replaced(histories(lengths))
    assert replaced.shape == (50, 50, 1)
    for length, row in zip(lengths, replaced[..., 0], strict=True):
        wanted = math.floor(Fraction(share) * length)
        if at_least_one and share != "0" and length > 1:
            wanted = max(wanted, 1)
        if at_least_one and length == 1:
            wanted = 0
        assert int(row.sum()) == wanted, f"length {length}"
        assert not row[length:].any(), "padding was replaced"


def test_every_real_position_can_be_replaced_and_draws_differ():
    model, batch = build(), histories([4] * 500)
    replaced = model._draw_replaced(batch)[..., 0]
    shares = replaced.float().mean(0)
    assert ((shares - 0.25).abs() < 4 * math.sqrt(0.25 * 0.75 / 500)).all()
    assert not torch.equal(replaced, model._draw_replaced(batch)[..., 0])


def test_padding_does_not_change_the_terms_that_draw_nothing():
    batch = histories(LENGTHS)
    narrow, wide = plain().losses(batch), plain().losses(widened(batch, 3))
    for name in ("main", "cp", "idcl"):
        torch.testing.assert_close(wide[name], narrow[name], rtol=1e-5, atol=1e-6)


# Missing modalities


def test_a_missing_modality_uses_the_learned_stand_in():
    catalog = small_catalog()
    model = build(catalog)
    vectors = model.item_vectors().detach()
    for m, name in enumerate(["image", "text"], start=1):
        part, feature, projection = (
            vectors[:, 16 * m : 16 * m + 16],
            catalog.features[name],
            model.projections[name],
        )
        assert not feature.present[1:].all()
        for item in range(1, 41):
            expected = projection.stand_in
            if feature.present[item]:
                centred = feature.vectors[item] - feature.vectors[feature.present].mean(0)
                expected = projection.linear.weight @ centred + projection.linear.bias
            torch.testing.assert_close(part[item], expected.detach())


def test_what_stands_in_the_row_of_a_missing_modality_does_not_matter():
    def with_filler(value: float) -> Catalog:
        catalog = small_catalog()
        for feature in catalog.features.values():
            feature.vectors[~feature.present] = value
        return catalog

    batch = histories(LENGTHS)
    assert torch.equal(
        build(with_filler(0.0)).eval().encode(batch), build(with_filler(9.0)).eval().encode(batch)
    )


def test_without_a_learned_stand_in_the_projection_of_zeros_is_used():
    catalog = small_catalog()
    model = build(catalog, learn_missing=False)
    assert names(model, "stand_in") == []
    vectors = model.item_vectors().detach()
    missing = ~catalog.features["text"].present
    torch.testing.assert_close(
        vectors[missing][:, 32:],
        model.projections["text"].linear.bias.detach().expand(int(missing.sum()), 16),
    )


def test_features_are_neither_trained_nor_saved():
    model = build()
    assert not [key for key in model.state_dict() if "features" in key or key.endswith("missing")]
    before = model.projections["text"].features.clone()
    step(model, histories(LENGTHS))
    assert torch.equal(model.projections["text"].features, before)


def test_padding_of_the_item_table_stays_zero_and_out_of_the_softmax():
    catalog, batch = small_world()
    model = build(catalog)
    step(model, batch)
    assert not model.items.weight[0].any()


def test_config_is_frozen_and_strict():
    assert issubclass(HM4SRConfig, Config)
    with pytest.raises(UserError, match="interactive_expert"):
        HM4SRConfig.parse({"interactive_expert": 2}, "here")


@pytest.mark.parametrize("missing", [True, False])
def test_a_new_item_has_the_mean_id_vector_and_its_own_modalities(missing):
    catalog = small_catalog(missing=missing)
    model = build(catalog).eval()
    with torch.no_grad():
        trained, new = model.item_vectors(), model.new_item_vectors(dict(catalog.features))
    blocks = model.blocks()
    torch.testing.assert_close(new[:, blocks["id"]], trained[1:, blocks["id"]].mean(0).expand(41, -1))
    for name, features in catalog.features.items():
        present = features.present
        torch.testing.assert_close(new[present][:, blocks[name]], trained[present][:, blocks[name]])
        absent = new[~present][:, blocks[name]]
        if missing:
            expected = model.projections[name].stand_in
        else:
            expected = trained[1:, blocks[name]].mean(0)
        torch.testing.assert_close(absent, expected.detach().expand_as(absent))


def test_gates_that_know_what_an_item_lacks_know_it_of_new_items():
    model = build(aware_gates=True).eval()
    model.interactive.missing_shift.data.normal_(generator=torch.Generator().manual_seed(2))
    features = dict(small_catalog(num_items=7, seed=5).features)
    with torch.no_grad():
        model.fix_items()
        vectors = model.new_item_vectors(features)
        model.append_items(vectors, features)
        items = torch.tensor([[41, 42]])  # the first lacks a picture, the second one its text
        batch = batch_of(torch.cat([items, items[:, :1]], 1), torch.full((1, 2), SPRING), torch.tensor([2]))
        gates = model.gates(batch)["interactive text"][0]
        assert [[not features[name].present[row] for name in ("image", "text")] for row in (1, 2)] == [
            [True, False],
            [False, True],
        ]
        model.interactive.missing_shift.data.zero_()
        unaware = model.gates(batch)["interactive text"][0]
    assert not torch.allclose(gates[0], unaware[0])
    assert not torch.allclose(gates[1], unaware[1])


def test_a_model_on_ids_alone_knows_nothing_of_new_items():
    assert build(small_catalog(modalities=())).new_item_vectors({}) is None
