"""HM4SR: every variant from configuration alone, and the equations against plain loops."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from contract.catalogs import SPRING, batch_of, histories, small_catalog, small_model, widened
from hm4sr.config import Config
from hm4sr.errors import UserError
from hm4sr.models.hm4sr import HM4SR, HM4SRConfig
from hm4sr.nn.moe import InteractiveMoE, TemporalMoE
from hm4sr.nn.time import AbsoluteTime, CosineInterval, DayEmbedding, IntervalEmbedding
from hm4sr.types import Catalog, Clock, SeqBatch

CLOCK = Clock(SPRING, SPRING + 90 * 86_400, 30 * 86_400)
LENGTHS = [9, 1, 2, 5, 9, 3]
TERMS = ["main", "cp", "idcl", "pcl"]


def build(catalog: Catalog | None = None, **settings: Any) -> HM4SR:
    model = small_model("hm4sr", catalog, **settings)
    assert isinstance(model, HM4SR)
    return model


def plain(**settings: Any) -> HM4SR:
    """In training mode, but without the randomness of dropout."""
    return build(**{"dropout": 0.0, "attention_dropout": 0.0, **settings}).train()


def step(model: HM4SR, batch: SeqBatch, lr: float = 0.01) -> dict[str, Tensor]:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    terms = model.train().losses(batch)
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    return terms


def names(model: HM4SR, part: str) -> list[str]:
    return [key for key, _ in model.named_parameters() if part in key]


# Variants, from configuration alone


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


# Equations, against loops


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def affine(weight: list[list[float]], x: list[float], bias: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def close(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(
        actual.detach().double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-5
    )


def interactive_by_hand(moe: InteractiveMoE, e: list[list[float]]) -> list[list[float]]:
    """Eq. 7-10 for the vectors of one event, a list for each modality."""
    M, D, K = moe.gate_weight.shape
    expert_weight = moe.experts.weight.detach().double().view(M, K, D, M * D).tolist()
    expert_bias = moe.experts.bias.detach().double().view(M, K, D).tolist()
    gate_weight = moe.gate_weight.detach().double().transpose(1, 2).tolist()
    gate_bias, alpha = moe.gate_bias.tolist(), moe.strength.tolist()
    everything = [value for vector in e for value in vector]
    result = []
    for m in range(M):
        g = softmax(affine(gate_weight[m], e[m], gate_bias[m]))
        found = [affine(expert_weight[m][k], everything, expert_bias[m][k]) for k in range(K)]
        result.append([e[m][i] + alpha[m] * sum(g[k] * found[k][i] for k in range(K)) for i in range(D)])
    return result


def temporal_by_hand(moe: TemporalMoE, e: list[list[float]], time: list[float]) -> list[list[float]]:
    """Eq. 14-16 for one event."""
    g = softmax(affine(moe.gate.weight.tolist(), time, moe.gate.bias.tolist()))
    experts, width = moe.experts.tolist(), len(e[0])
    everything = [value for vector in e for value in vector]
    mixed = [sum(g[k] * experts[k][i] * value for k in range(len(g))) for i, value in enumerate(everything)]
    return [mixed[start : start + width] for start in range(0, len(mixed), width)]


def test_interactive_experts_by_hand():
    moe = InteractiveMoE(3, 4, 2, [0.5, 1.0, -2.0], torch.Generator().manual_seed(1))
    e = torch.randn(2, 3, 3, 4)
    mixed, gates = moe(e), moe.gates(e)
    torch.testing.assert_close(gates.sum(-1), torch.ones(2, 3, 3))
    for b in range(2):
        for position in range(3):
            close(mixed[b, position], interactive_by_hand(moe, e[b, position].tolist()))


def test_interactive_experts_start_with_the_ids_untouched():
    model = build()
    assert model.interactive.strength.tolist() == [0.0, 1.0, 1.0]
    e = torch.randn(2, 3, 3, 16)
    mixed = model.interactive(e)
    assert torch.equal(mixed[:, :, 0], e[:, :, 0])
    assert not torch.equal(mixed[:, :, 1], e[:, :, 1])


@pytest.mark.parametrize("trainable", [True, False])
def test_temporal_experts_by_hand(trainable):
    moe = TemporalMoE(12, 6, 3, trainable, torch.Generator().manual_seed(2))
    e, time = torch.randn(2, 3, 3, 4), torch.randn(2, 3, 6)
    mixed = moe(e, time)
    for b in range(2):
        for position in range(3):
            close(
                mixed[b, position], temporal_by_hand(moe, e[b, position].tolist(), time[b, position].tolist())
            )


def exact_bucket(gap: int) -> int:
    """floor(100 log2(gap + 1)), in integers: the largest n with 2^n <= (gap + 1)^100."""
    return ((gap + 1) ** 100).bit_length() - 1


def buckets(gaps: list[int], largest: int) -> list[int]:
    """The rows of the interval table that a history with these gaps reads."""
    embedding = IntervalEmbedding(1, 100.0, largest, False, torch.Generator())
    rows = embedding.table.num_embeddings
    embedding.table.weight.data = torch.arange(rows, dtype=torch.float32)[:, None]
    times = torch.tensor([[SPRING, *(SPRING + sum(gaps[: i + 1]) for i in range(len(gaps)))]])
    return [int(row) for row in embedding(times)[0, 1:, 0]]


def test_interval_buckets_are_exact_at_their_borders():
    gaps = [gap for k in range(31) for gap in (2**k - 2, 2**k - 1, 2**k) if gap >= 0]
    assert buckets(gaps, 2**31) == [exact_bucket(gap) for gap in gaps]
    assert exact_bucket(2**20 - 1) == 2000
    assert exact_bucket(2**20 - 2) == 1999


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=20))
def test_interval_buckets_are_exact_anywhere(gaps):
    assert buckets(gaps, 2**31) == [exact_bucket(gap) for gap in gaps]


@given(st.integers(0, 2**31), st.integers(0, 2**33))
def test_the_interval_table_ends_at_the_largest_training_gap(largest, gap):
    embedding = IntervalEmbedding(1, 100.0, largest, False, torch.Generator())
    assert embedding.table.num_embeddings == exact_bucket(largest) + 1
    assert buckets([gap], largest) == [min(exact_bucket(gap), exact_bucket(largest))]


def test_a_gap_of_one_second_is_seen_far_from_1970():
    assert buckets([1, 1, 3], 1_000) == [100, 100, 200]


def test_the_first_event_and_a_step_back_in_time_count_as_no_gap():
    embedding = IntervalEmbedding(2, 100.0, 1_000, False, torch.Generator().manual_seed(0))
    rows = embedding(torch.tensor([[SPRING, SPRING - 50, SPRING + 5]]))
    assert torch.equal(rows[0, 0], embedding.table.weight[0])
    assert torch.equal(rows[0, 1], embedding.table.weight[0])
    assert torch.equal(rows[0, 2], embedding.table.weight[exact_bucket(55)])


@pytest.mark.parametrize(("unit", "seconds"), [("days", 86_400), ("seconds", 1)])
def test_absolute_time_by_hand(unit, seconds):
    part = AbsoluteTime(8, 10_000.0, CLOCK, unit, False, torch.Generator())
    with torch.no_grad():
        part.frequency.copy_(torch.linspace(0.5, 1.5, 8))
        part.phase.copy_(torch.linspace(-1, 1, 8))
    midnight = SPRING - SPRING % 86_400
    # Small multiples of the unit: a float32 phase of size p is only good to p / 10^7.
    ticks = [0.0, 0.5, 3.25, 40.0] if unit == "days" else [0.0, 1.0, 7.0, 40.0]
    times = torch.tensor([[midnight + int(tick * seconds) for tick in ticks]])
    frequency, phase = part.frequency.tolist(), part.phase.tolist()
    expected = [
        [math.cos(frequency[i] * tick / 10_000 ** (i / 8) + phase[i]) for i in range(8)] for tick in ticks
    ]
    close(part(times)[0], expected)


def test_released_absolute_time_by_hand():
    part = AbsoluteTime(4, 10_000.0, CLOCK, "seconds", True, torch.Generator().manual_seed(3))
    with torch.no_grad():
        part.phase.copy_(torch.linspace(-1, 1, 4))
    times = torch.tensor([[0, 1, 100]])  # near 1970, where float32 is exact
    frequency, phase = part.frequency.tolist(), part.phase.tolist()
    expected = [
        [math.cos((frequency[i] * t + phase[i]) / 10_000 ** (i / 4)) for i in range(4)] for t in (0, 1, 100)
    ]
    close(part(times)[0], expected)


def test_days_share_a_row_and_those_outside_take_the_nearest():
    part = DayEmbedding(2, CLOCK, False, torch.Generator().manual_seed(3))
    assert part.table.num_embeddings == 91
    midnight = SPRING - SPRING % 86_400
    times = torch.tensor(
        [[midnight - 10**7, midnight, midnight + 86_399, midnight + 86_400, midnight + 10**9]]
    )
    rows = [0, 0, 0, 1, 90]
    assert torch.equal(part(times)[0], part.table.weight[rows])


def test_the_day_of_the_year_is_that_of_the_calendar_to_a_day():
    from datetime import UTC, datetime

    part = DayEmbedding(1, CLOCK, True, torch.Generator())
    part.table.weight.data = torch.arange(366.0)[:, None]
    for year in (1971, 1996, 2000, 2014, 2024, 2031):
        for month in range(1, 13):
            moment = datetime(year, month, 15, 12, tzinfo=UTC)
            row = int(part(torch.tensor([[int(moment.timestamp())]]))[0, 0, 0])
            assert abs(row - (moment.timetuple().tm_yday - 1)) <= 1


def test_cosine_of_the_interval_by_hand():
    part = CosineInterval(4, torch.Generator().manual_seed(5))
    times = torch.tensor([[SPRING, SPRING + 86_400, SPRING + 86_400 + 3_600]])
    frequency, phase = part.frequency.tolist(), part.phase.tolist()
    expected = [[math.cos(frequency[i] * days + phase[i]) for i in range(4)] for days in (0, 1, 1 / 24)]
    close(part(times)[0], expected)


def library_encoder(encoder: nn.Module, dim: int, heads: int, inner: int) -> nn.Module:
    """The same encoder out of torch's own Transformer layers (eq. 17-18)."""
    layers = []
    for ours in encoder.layers:
        layer = nn.TransformerEncoderLayer(
            dim, heads, inner, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        theirs = {
            "self_attn.in_proj_weight": ours.attention.query_key_value.weight,
            "self_attn.in_proj_bias": ours.attention.query_key_value.bias,
            "self_attn.out_proj.weight": ours.attention.out.weight,
            "self_attn.out_proj.bias": ours.attention.out.bias,
        }
        for name, part in [
            ("linear1", ours.expand),
            ("linear2", ours.contract),
            ("norm1", ours.norm_attention),
            ("norm2", ours.norm_out),
        ]:
            theirs |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
        layer.load_state_dict({key: value.detach() for key, value in theirs.items()})
        layers.append(layer)

    def run(x: Tensor) -> Tensor:
        x = nn.functional.layer_norm(x, (dim,), encoder.norm.weight, encoder.norm.bias, 1e-12)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        for layer in layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return x

    return run


class Oracle:
    """HM4SR once more, event by event and pair by pair, from the equations."""

    def __init__(self, model: HM4SR):
        self.model, self.c = model, model.config
        self.names = model.modalities
        self.encoders = [
            library_encoder(model.encoders[name], self.c.dim, self.c.heads, self.c.inner)
            for name in self.names
        ]

    def x(self, item: int) -> list[list[float]]:
        """Eq. 4-5: one vector for each modality."""
        vectors = [self.model.items.weight[item].tolist()]
        for name in self.names[1:]:
            feature, projection = self.model.catalog.features[name], self.model.projections[name]
            if feature.present[item]:
                weight, bias = projection.linear.weight.tolist(), projection.linear.bias.tolist()
                centred = feature.vectors[item]
                if self.c.center_features:
                    centred = centred - feature.vectors[feature.present].mean(0)
                vectors.append(affine(weight, centred.tolist(), bias))
            else:
                vectors.append(projection.stand_in.tolist())
        return vectors

    def flat_x(self, item: int) -> Tensor:
        return torch.tensor(self.x(item)).flatten()

    def events(self, batch: SeqBatch, row: int) -> tuple[list[list[list[float]]], list[list[float]]]:
        """Eq. 6-16: after both experts, for each event and modality; and the time vectors."""
        mixed, times = [], []
        for position in range(int(batch.lengths[row])):
            place = self.model.positions.weight[position].tolist()
            e = [
                [value + p for value, p in zip(vector, place, strict=True)]
                for vector in self.x(int(batch.items[row, position]))
            ]
            time = self.time(batch.times[row].tolist(), position)
            mixed.append(
                temporal_by_hand(self.model.temporal, interactive_by_hand(self.model.interactive, e), time)
            )
            times.append(time)
        return mixed, times

    def time(self, times: list[int], position: int) -> list[float]:
        """Eq. 11-13."""
        table, absolute = self.model.time.parts
        gap = times[position] - times[position - 1] if position else 0
        row = min(exact_bucket(gap), table.table.num_embeddings - 1)
        midnight = CLOCK.first - CLOCK.first % 86_400
        days, d = (times[position] - midnight) / 86_400, self.c.dim
        frequency, phase = absolute.frequency.tolist(), absolute.phase.tolist()
        cosines = [math.cos(frequency[i] * days / 10_000 ** (i / d) + phase[i]) for i in range(d)]
        return table.table.weight[row].tolist() + cosines

    def hidden(self, batch: SeqBatch, row: int, replaced: list[bool] | None = None) -> list[Tensor]:
        """Eq. 17-18, and 24 where positions are replaced: L x D for each modality."""
        mixed, times = self.events(batch, row)
        result = []
        for m, name in enumerate(self.names):
            vectors = [event[m] for event in mixed]
            if replaced is not None and m > 0:
                head = self.model.placeholders[name]
                weight, bias = head.weight.tolist(), head.bias.tolist()
                vectors = [
                    affine(weight, time, bias) if out else vector
                    for vector, time, out in zip(vectors, times, replaced, strict=False)
                ]
            result.append(self.encoders[m](torch.tensor(vectors)[None])[0].detach())
        return result

    def losses(self, batch: SeqBatch, replaced: Tensor) -> dict[str, float]:
        """Eq. 20-26."""
        model, c = self.model, self.c
        catalog = model.catalog
        rows = []  # (history vectors, their twins, target, user) of each target
        for b in range(len(batch.items)):
            whole, twin = self.hidden(batch, b), self.hidden(batch, b, replaced[b].tolist())
            rows += [
                ([h[i] for h in whole], [h[i] for h in twin], int(batch.targets[b, i]), int(batch.users[b]))
                for i in range(int(batch.lengths[b]))
                if batch.targets[b, i] > 0
            ]
        items = {item: self.flat_x(item) for item in range(1, catalog.num_items + 1)}
        main = 0.0
        for views, _, target, _ in rows:
            y = {item: float(torch.cat(views) @ vector) for item, vector in items.items()}
            main += math.log(sum(math.exp(value) for value in y.values())) - y[target]
        entropy, cells = 0.0, 0
        weight, bias = model.category_head.weight.tolist(), model.category_head.bias.tolist()
        for item in batch.items[batch.items > 0].tolist():
            mine = catalog.categories[item].tolist()
            for number, logit in enumerate(affine(weight, items[item].tolist(), bias), start=1):
                probability = 1 / (1 + math.exp(-logit))
                entropy -= math.log(probability if number in mine else 1 - probability)
                cells += 1
        id_term = contrast(
            [views[0] for views, *_ in rows],
            [items[target][: c.dim] for *_, target, _ in rows],
            [[a[2] == b[2] for b in rows] for a in rows],
            c.temperature,
            c.exclude_false_negatives,
        )
        ignored = [[a[2] == b[2] or (c.exclude_false_negatives and a[3] == b[3]) for b in rows] for a in rows]
        placeholder_terms = [
            contrast(
                [views[m] for views, *_ in rows],
                [twins[m] for _, twins, *_ in rows],
                ignored,
                c.pcl_temperature,
                c.exclude_false_negatives,
            )
            for m in range(1, len(self.names))
        ]
        return {
            "main": main / len(rows),
            "cp": c.cp_weight * entropy / cells,
            "idcl": c.idcl_weight * id_term,
            "pcl": c.pcl_weight * sum(placeholder_terms) / len(placeholder_terms),
        }


def contrast(
    queries: list[Tensor], keys: list[Tensor], ignored: list[list[bool]], temperature: float, exclude: bool
) -> float:
    """Eq. 23 and 25, pair by pair."""
    total = 0.0
    for i, query in enumerate(queries):
        negatives = 0.0
        for j, key in enumerate(keys):
            similarity = float(query @ key / (query.norm() * key.norm())) / temperature
            if j == i:
                positive = math.exp(similarity)
            elif not ignored[i][j]:
                negatives += math.exp(similarity)
            elif not exclude:
                negatives += 1.0
        total -= math.log(positive / (positive + negatives))
    return total / len(queries)


def small_world() -> tuple[Catalog, SeqBatch]:
    """Few items, so that targets repeat within the batch, and users with two rows each."""
    catalog = small_catalog(8, width=5)
    batch = histories([4, 1, 3, 5], 8, seed=2)
    return catalog, SeqBatch(
        batch.items, batch.times, batch.lengths, batch.targets, torch.tensor([0, 1, 1, 2])
    )


def lively(model: HM4SR) -> HM4SR:
    """Larger weights than at the start, so that a slip shows; alpha and phases away from 0."""
    rng = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.2)
    return model


@pytest.mark.parametrize("modalities", [("image", "text"), ("text",)])
@pytest.mark.parametrize("exclude", [True, False])
def test_the_whole_model_by_hand(modalities, exclude, monkeypatch):
    _, batch = small_world()
    catalog = small_catalog(8, modalities, width=5)
    settings: dict[str, Any] = {"dim": 4, "inner": 6, "interactive_experts": 2, "temporal_experts": 3}
    weights = {
        "cp_weight": 0.7,
        "idcl_weight": 1.3,
        "pcl_weight": 0.4,
        "temperature": 0.3,
        "pcl_temperature": 0.8,
    }
    model = build(
        catalog, dropout=0.0, attention_dropout=0.0, exclude_false_negatives=exclude, **settings, **weights
    )
    oracle = Oracle(lively(model).train())
    replaced = model._draw_replaced(batch)
    assert replaced.any()
    monkeypatch.setattr(model, "_draw_replaced", lambda _: replaced)
    actual, expected = model.losses(batch), oracle.losses(batch, replaced[..., 0])
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].item() == pytest.approx(value, rel=1e-5, abs=1e-5), name
    with torch.no_grad():
        scores = model.eval().scores(batch, model.item_vectors())
    for row, length in enumerate(batch.lengths.tolist()):
        last = torch.cat([h[length - 1] for h in oracle.hidden(batch, row)])
        close(scores[row, 1:], [float(last @ oracle.flat_x(item)) for item in range(1, 9)])


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
