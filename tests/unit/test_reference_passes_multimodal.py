"""Forward passes of the models that read features, dropout included, written once more from the equations."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hm4sr_kit import Oracle, small_world
from reference_kit import (
    agrees,
    attended,
    close,
    completed,
    drop,
    encoded,
    future,
    lively,
    normed,
    projected,
    visible,
)
from torch import Tensor

from contract.catalogs import MAX_LENGTH, histories, small_catalog
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.dropout import Dropout
from hm4sr.types import ItemFeatures

LENGTHS = [9, 1, 5, 3]
TAU = 0.07
NAMES = ("image", "text")


@pytest.fixture(autouse=True)
def _visible_dropout(monkeypatch):
    monkeypatch.setattr(Dropout, "forward", visible)


# UniSRec


def gates_of(moe: torch.nn.Module, x: Tensor) -> Tensor:
    return (x @ moe.gate).softmax(-1)


@pytest.mark.parametrize("own_masks", [False, True])
def test_unisrec(own_masks):
    model, batch = lively("unisrec", own_masks=own_masks, adaptor_dropout=0.75), histories(LENGTHS)
    states = model.items.weight
    for name, adaptor in model.adaptors.items():
        feature, moe = model.catalog.features[name], adaptor.moe
        gates = gates_of(moe, feature.vectors)
        found = [(drop(feature.vectors, 0.75) - b) @ w for w, b in zip(moe.weight, moe.bias, strict=True)]
        states = states + (gates.T[..., None] * torch.stack(found)).sum(0) * feature.present[:, None]
    hidden = encoded(model.encoder, states[batch.items] + model.positions.weight[:9])
    agrees(model, batch, F.normalize(hidden, dim=-1) / TAU, F.normalize(states, dim=-1))


# TedRec


@pytest.mark.parametrize("zero_pad", [False, True])
def test_tedrec(zero_pad):
    model = lively("tedrec", zero_pad=zero_pad, adaptor_dropout=0.75)
    batch = histories(LENGTHS, parallel=False)
    items = F.pad(batch.items, (0, MAX_LENGTH - 9))
    real = (items > 0)[..., None]
    texts = torch.zeros(*items.shape, 16)
    for name, adaptor in model.adaptors.items():
        x, moe = model.catalog.features[name].vectors[items], adaptor.moe
        gates = gates_of(moe, x)
        for k, (w, b) in enumerate(zip(moe.weight, moe.bias, strict=True)):  # a bias for each position
            texts += gates[..., k, None] * ((drop(x, 0.75) - b) @ w)
    blank = torch.zeros(16) if zero_pad else model.blank
    ids = torch.where(real, model.items.weight[items], blank)
    texts = texts * real if zero_pad else texts
    spectra = [torch.fft.rfft(x, dim=1, norm="ortho") for x in (ids, texts)]
    products = [spectra[0] * torch.view_as_complex(model.fusion.filter), spectra[0] * spectra[1]]
    fused = torch.zeros_like(ids)
    for gate, product in zip(model.fusion.gates, products, strict=True):
        x = torch.fft.irfft(product, n=MAX_LENGTH, dim=1, norm="ortho")
        fused += 2 * x * torch.sigmoid(x @ gate.weight.T + gate.bias)
    hidden = encoded(model.encoder, (fused + model.positions.weight)[:, :9])
    hidden = F.normalize(hidden, dim=-1) / TAU
    close(model.encode(batch)[batch.valid], hidden[batch.valid])
    agrees(model, batch, hidden, F.normalize(model.items.weight, dim=-1))


# MISSRec


def drop_gelu(x: Tensor) -> Tensor:
    """The feed-forward parts of MISSRec drop their hidden layer as well."""
    return drop(F.gelu(x))


def read(part: torch.nn.Module, x: Tensor, keys: Tensor) -> Tensor:
    return part.out(attended(part.query(x), *part.key_value(keys).chunk(2, dim=-1), None))


def missrec_row(model: SeqRecModel, items: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden vectors of one history, and its interests: the distinct clusters of its items."""
    clusters = sorted(
        {c for item in items.tolist() for c in model.clusters[item].tolist()} - {0}, reverse=True
    )
    memory = model.centroids[clusters]
    for layer in model.encoder:
        memory = completed(layer, memory, read(layer.attention, memory, memory), drop_gelu)
    memory = normed(memory, model.norm_interests)
    x = drop(normed(states[items].sum(1) + model.positions.weight[: len(items)], model.norm))
    for layer in model.decoder:
        x = normed(x + drop(read(layer.attention, x, x)), layer.norm_self)
        x = completed(layer, x, read(layer.reading, x, memory), drop_gelu)
    return normed(x, model.norm_out), memory


@pytest.mark.parametrize("layers", [2, 4])
def test_missrec(layers):
    model = lively("missrec", layers=layers, interest_weight=0.3)
    batch = histories(LENGTHS, parallel=False)
    states = torch.stack([model.items.weight, *(projected(model, name) for name in NAMES)], dim=1)
    close(model.item_vectors(), states.flatten(1))
    found, queries, penalties = model.encode(batch), [], []
    for row, length in enumerate(LENGTHS):
        hidden, memory = missrec_row(model, batch.items[row, :length], states)
        close(found[row, :length], F.normalize(hidden, dim=-1) / TAU)
        queries.append(F.normalize(hidden[-1], dim=0) / TAU)
        penalties.append(memory.mean(0).square().mean())
    close(model.last_hidden(batch), torch.stack(queries))
    x_id, *rest = (torch.stack(queries) @ F.normalize(states, dim=-1).movedim(1, 0).transpose(1, 2)).unbind(0)
    cosines = torch.stack(rest)
    weights = (model.phi * TAU * cosines).softmax(0)
    scores = (x_id + 2 * (weights * cosines).sum(0)) / 3
    terms, targets = model.losses(batch), batch.targets[batch.targets > 0]
    close(terms["main"], F.cross_entropy(scores[:, 1:], targets - 1))
    close(terms["interests"], 0.3 * 512 * torch.stack(penalties).mean())


# M3SRec


def experts_of(part: torch.nn.Module, x: Tensor) -> Tensor:
    """sum_k g_k FFN_k(x)."""
    gates, K = part.gate(x).softmax(-1), len(part.bias)
    inner = F.gelu(part.expand(x)).chunk(K, dim=-1)
    outer = part.contract.weight.chunk(K, dim=1)
    return sum(gates[..., k, None] * (inner[k] @ outer[k].T + part.bias[k]) for k in range(K))


@pytest.mark.parametrize("layers", [2, 4])
def test_m3srec(layers):
    model, batch = lively("m3srec", layers=layers), histories(LENGTHS)
    x = torch.stack([projected(model, name) for name in NAMES], dim=1)
    vectors = F.normalize(x.mean(1) + model.ids.weight, dim=-1)
    tokens = x + model.ids.weight[:, None]
    tokens = tokens[batch.items] + model.positions.weight[:9, None] + model.modality
    tokens = drop(normed(tokens, model.norm)).flatten(1, 2)  # event by event, both modalities of each
    for number, layer in enumerate(model.layers):
        part = layer.attention
        mixed = part.out(attended(*part.query_key_value(tokens).chunk(3, dim=-1), future(9, each=2)))
        tokens = normed(tokens + drop(mixed), layer.norm_attention)
        own = layer.experts if number < layers // 2 else [layer.experts[0]] * 2
        found = [experts_of(experts, tokens[:, m::2]) for m, experts in enumerate(own)]
        tokens = normed(tokens + drop(torch.stack(found, dim=2).flatten(1, 2)), layer.norm_out)
    hidden = (tokens[:, ::2] + tokens[:, 1::2]) / 2
    agrees(model, batch, F.normalize(hidden, dim=-1) / TAU, vectors)


# IISAN


def adapted(adapter: torch.nn.Module, x: Tensor) -> Tensor:
    return x + adapter.up(adapter.down(x).relu())


def states_of(feature: ItemFeatures, center: bool) -> list[Tensor]:
    """The start and every second of four blocks; centred, in units of what is left of the last one."""
    start, levels = feature.start, feature.levels[:, [1, 3]]
    if center:
        levels = levels - levels[feature.present].mean(0)
        scale = levels[feature.present, -1].square().mean().sqrt()
        start, levels = start / scale, levels / scale
    return [start.expand(len(levels), -1), *levels.unbind(1)]


@pytest.mark.parametrize("center_levels", [True, False])
def test_iisan(center_levels):
    model, batch = lively("iisan", center_levels=center_levels), histories(LENGTHS)
    features = [model.catalog.features[name] for name in NAMES]
    image, text = (states_of(feature, center_levels) for feature in features)
    parts = []
    for name, feature, levels, tower, head in zip(
        NAMES, features, (image, text), model.towers, model.heads, strict=False
    ):
        state = torch.zeros_like(levels[0])
        for gate, level, adapter in zip(tower.gates, levels, tower.adapters, strict=True):
            g = torch.sigmoid(gate / 0.1)
            state = adapted(adapter, g * level + (1 - g) * state)
        parts.append(torch.where(feature.present[:, None], head(state), model.stand_ins[name]))
    present = [feature.present[:, None] for feature in features]
    state, common = torch.zeros_like(image[0]), model.common
    for gate, *level, adapter in zip(common.gates, image, text, common.adapters, strict=True):
        g = torch.where(present[0] & present[1], torch.sigmoid(gate / 0.1), present[0].float())
        both = g * level[0] + (~present[0] | present[1]) * (1 - g) * (level[1] @ common.maps[1].weight.T)
        state = adapted(adapter, state + both * (present[0] | present[1]))
    vectors = model.join(torch.cat([*parts, model.heads[2](state)], dim=1))
    hidden = encoded(model.encoder, vectors[batch.items] + model.positions.weight[:9], F.relu)
    agrees(model, batch, hidden, vectors)


# HM4SR


@pytest.mark.parametrize("name", ["hm4sr", "hm4sr-plus"])
def test_hm4sr(name, monkeypatch):
    """Event by event from the equations, and the Transformers with dropout."""
    _, batch = small_world()
    settings: dict[str, Any] = {"dim": 4, "inner": 6, "interactive_experts": 2, "temporal_experts": 3}
    weights = {"cp_weight": 0.7, "idcl_weight": 1.3, "pcl_weight": 0.4, "pcl_temperature": 0.8}
    without = {"question": False, "seen_bias": False} if name == "hm4sr-plus" else {}
    model = lively(name, small_catalog(8, width=5), **settings, **weights, **without)
    replaced = model._draw_replaced(batch)
    assert replaced.any()
    monkeypatch.setattr(model, "_draw_replaced", lambda _: replaced)
    oracle = Oracle(model)
    oracle.encoders = [lambda x, own=model.encoders[part]: encoded(own, x) for part in model.modalities]
    found, expected = model.losses(batch), oracle.losses(batch, replaced[..., 0])
    assert found.keys() == expected.keys()
    for term, value in expected.items():
        assert float(found[term]) == pytest.approx(value, rel=1e-5, abs=1e-5), term
    last = [torch.cat([h[-1] for h in oracle.hidden(batch, row)]) for row in range(len(batch.items))]
    close(model.last_hidden(batch), torch.stack(last))
