"""Forward passes of the models on IDs and times, dropout included, written once more from the equations."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from reference_kit import (
    HEADS,
    PA,
    agrees,
    attended,
    close,
    completed,
    drop,
    encoded,
    future,
    lively,
    newest,
    next_item_loss,
    normed,
    projected,
    two_views,
    visible,
)
from torch import Tensor

from contract.catalogs import MAX_LENGTH, SPRING, histories, small_catalog
from hm4sr.models.base import SeqRecModel
from hm4sr.nn.dropout import Dropout
from hm4sr.types import Histories, SeqBatch

LENGTHS = [9, 1, 5, 3]


@pytest.fixture(autouse=True)
def _visible_dropout(monkeypatch):
    monkeypatch.setattr(Dropout, "forward", visible)


# SASRec and TiCoSeRec


def sasrec(model: SeqRecModel, items: Tensor) -> Tensor:
    return encoded(model.encoder, model.items.weight[items] + model.positions.weight[: items.shape[1]])


@pytest.mark.parametrize("name", ["sasrec", "ticoserec"])
def test_sasrec(name):
    model, batch = lively(name), histories(LENGTHS)
    agrees(model, batch, sasrec(model, batch.items))


def test_the_contrast_of_ticoserec(monkeypatch):
    model, batch = lively("ticoserec", contrast_weight=0.3, temperature=20.0), histories([6, 3, 4])
    views = [[[7, 3, 9, 4, 2], [5, 6], [8, 1, 3]], [[1, 2, 3], [9, 8, 7, 6], [4]]]
    padded = [torch.tensor([row + [0] * (9 - len(row)) for row in view]) for view in views]
    given = iter(padded)
    monkeypatch.setattr(model, "view_of", lambda _: next(given))
    flat = []
    for view in views:  # aligned at the newest event; nothing where there is no event
        encodings = [sasrec(model, torch.tensor([row]))[0] for row in view]
        flat.append(torch.stack([F.pad(h, (0, 0, 9 - len(h), 0)).flatten() for h in encodings]))
    close(model.losses(batch)["contrast"], 0.3 * two_views(*flat, 20.0, cosine=False))


# GRU4Rec


@pytest.mark.parametrize("layers", [1, 2])
def test_gru4rec(layers):
    model, batch = lively("gru4rec", layers=layers, hidden=12), histories(LENGTHS)
    x = drop(model.items.weight[batch.items])
    for layer in range(layers):
        w, u = (getattr(model.recurrent, f"weight_{part}_l{layer}") for part in ("ih", "hh"))
        state, states = torch.zeros(len(x), 12), []
        for event in x.unbind(1):
            from_event, from_state = (event @ w.T).chunk(3, 1), (state @ u.T).chunk(3, 1)
            reset = torch.sigmoid(from_event[0] + from_state[0])
            update = torch.sigmoid(from_event[1] + from_state[1])
            new = torch.tanh(from_event[2] + reset * from_state[2])
            state = (1 - update) * new + update * state
            states.append(state)
        x = torch.stack(states, dim=1)
    agrees(model, batch, x @ model.out.weight.T + model.out.bias)


# LRURec


@pytest.mark.parametrize("second_gelu", [False, True])
def test_lrurec(second_gelu):
    model, batch = lively("lrurec", recurrence_dropout=PA, second_gelu=second_gelu), histories(LENGTHS)
    x = normed(drop(model.items.weight[batch.items]), model.norm, 1e-5)
    for block in model.stack:
        decay = torch.exp(torch.complex(-torch.exp(block.nu), torch.exp(block.theta)))
        pushed = torch.view_as_complex(block.into_states(x).unflatten(-1, (-1, 2)))
        w_out = block.out_of_states.weight.unflatten(1, (-1, 2))
        state, outputs = torch.zeros(len(x), len(decay), dtype=torch.complex64), []
        for t in range(x.shape[1]):
            state = decay * state + torch.exp(block.gamma) * pushed[:, t]
            real = state.real @ w_out[..., 0].T + state.imag @ w_out[..., 1].T
            outputs.append(real + block.out_of_states.bias)
        x = normed(x + drop(torch.stack(outputs, dim=1), PA), block.norm_states, 1e-5)
        change = block.contract(drop(F.gelu(block.expand(x))))
        change = F.gelu(change) if second_gelu else change
        x = normed(x + drop(change), block.norm_out, 1e-5)
    vectors = torch.cat([model.items.weight, model.bias.weight], dim=1)
    agrees(model, batch, torch.cat([x, torch.ones(*x.shape[:2], 1)], dim=2), vectors)
    scores = (newest(x, batch) @ model.items.weight.T + model.bias.weight[:, 0])[:, 1:]
    close(model.scores(batch, model.item_vectors())[:, 1:], scores)


# TiSASRec


def counted_intervals(times: Tensor, largest: int) -> Tensor:
    """In units of the shortest time above 0 between neighbours among the events so far."""
    found = torch.zeros(*times.shape, times.shape[1], dtype=torch.int64)
    for row, own in enumerate(times.tolist()):
        for i in range(len(own)):
            gaps = [b - a for a, b in itertools.pairwise(own[: i + 1]) if b > a]
            for j in range(i + 1):
                found[row, i, j] = min(largest, (own[i] - own[j]) // min(gaps, default=1))
    return found


def interval_attention(model: SeqRecModel, part: torch.nn.Module, queries: Tensor, x: Tensor, r: Tensor):
    """e_ij = q_i (k_j + P_j + T_ij) / sqrt(d), and likewise for the values; pair by pair."""
    L, D = x.shape[1:]
    keys, values = (
        (linear(x) + drop(positions.weight[:L]))[:, None] + drop(intervals.weight)[r]
        for linear, positions, intervals in (
            (part.key, model.position_keys, model.interval_keys),
            (part.value, model.position_values, model.interval_values),
        )
    )
    query, heads = part.query(queries), []
    for h in range(HEADS):
        own = slice(h * D // HEADS, (h + 1) * D // HEADS)
        scores = (query[:, :, None, own] * keys[..., own]).sum(-1) / math.sqrt(D / HEADS)
        weights = drop(scores.masked_fill(future(L), -torch.inf).softmax(-1))
        heads.append((weights[..., None] * values[..., own]).sum(2))
    return torch.cat(heads, dim=-1)


def test_tisasrec():
    model, batch = lively("tisasrec", max_interval=20), histories(LENGTHS)
    x = drop(model.items.weight[batch.items] * math.sqrt(16))
    r = counted_intervals(batch.times, 20)
    for block in model.stack:
        queries = normed(x, block.norm_queries, 1e-8)
        x = queries + interval_attention(model, block.attention, queries, x, r)
        x = normed(x, block.norm_inner, 1e-8)
        x = x + drop(block.contract(drop(F.relu(block.expand(x)))))
    agrees(model, batch, normed(x, model.norm, 1e-8))


def test_tisasrec_with_the_blocks_of_sasrec():
    model, batch = lively("tisasrec", max_interval=20, blocks="sasrec"), histories(LENGTHS)
    x = drop(normed(model.items.weight[batch.items], model.norm, 1e-8))
    r = counted_intervals(batch.times, 20)
    for layer in model.stack:
        mixed = interval_attention(model, layer.attention.attention, x, x, r)
        x = completed(layer, x, layer.attention.out(mixed))
    agrees(model, batch, x)


def test_the_penalty_of_tisasrec_is_half_the_squares_of_all_five_tables():
    model, batch = lively("tisasrec", max_interval=20, embedding_penalty=0.1), histories([4, 2])
    tables = [model.items, model.position_keys, model.position_values]
    tables += [model.interval_keys, model.interval_values]
    squares = sum(value**2 for table in tables for value in table.weight.flatten().tolist())
    assert float(model.losses(batch)["penalty"]) == pytest.approx(0.1 * squares / 2, rel=1e-5)


# FEARec

BANDS = [(2, 7), (0, 5)]
"""Of the 7 frequencies of 12 slots, 0.6 for each of the two layers, the high ones first."""


def banded(spectrum: Tensor, band: tuple[int, int]) -> Tensor:
    kept = torch.zeros_like(spectrum)
    kept[:, band[0] : band[1]] = spectrum[:, band[0] : band[1]]
    return torch.fft.irfft(kept, n=MAX_LENGTH, dim=1)


def frequency_attention(part: torch.nn.Module, x: Tensor, real: Tensor, band: tuple[int, int], lags: int):
    """0.9 of the values at the lags of the highest auto-correlation, and 0.1 of attention in time."""
    L = x.shape[1]
    signals = part.query_key_value(x) * real[..., None]
    query, key, value = F.pad(signals, (0, 0, 0, MAX_LENGTH - L)).chunk(3, dim=-1)
    spectra = [torch.fft.rfft(signal, dim=1) for signal in (query, key, value)]
    correlation = banded(spectra[0] * spectra[1].conj(), band).mean(2)
    best = correlation.mean(0).topk(lags).indices
    weights = correlation[:, best].softmax(1)
    mixed = sum(weights[:, n, None, None] * value.roll(-int(lag), 1) for n, lag in enumerate(best))
    query, key, value = (banded(spectrum, band)[:, :L] for spectrum in spectra)
    in_time = attended(query, key, value, future(L) | ~real[:, None])
    return part.out(0.9 * mixed[:, :L] + 0.1 * in_time)


def fearec(model: SeqRecModel, items: Tensor, lags: int) -> Tensor:
    real = items > 0
    x = drop(normed(model.items.weight[items] + model.positions.weight[: items.shape[1]], model.norm))
    for layer, band in zip([*model.layers, model.top], BANDS, strict=True):
        x = completed(layer, x, frequency_attention(layer.attention, x, real, band, lags))
    return x


def test_fearec():
    model, batch = lively("fearec", contrast="none"), histories(LENGTHS, parallel=False)
    hidden = fearec(model, batch.items, 2)
    close(model.encode(batch)[batch.valid], hidden[batch.valid])
    agrees(model, batch, hidden)


def same_target_world() -> tuple[Histories, SeqBatch, list[list[int]]]:
    """The last item of each user but one was another's target once; and what that one had before it."""
    rows = [[1, 2, 3, 4, 5], [6, 7, 5, 8], [9, 8, 10, 11, 12], [13, 14, 12, 40]]
    before = [[6, 7], [9], [13, 14], [13, 14, 12]]
    starts = torch.tensor([0, *itertools.accumulate(map(len, rows))])
    items = torch.tensor([item for row in rows for item in row])
    lengths = torch.tensor([len(row) - 1 for row in rows])
    padded = torch.tensor([row[:-1] + [0] * (5 - len(row)) for row in rows])
    targets = torch.zeros_like(padded)
    targets[torch.arange(4), lengths - 1] = torch.tensor([row[-1] for row in rows])
    times = torch.full_like(padded, SPRING)
    batch = SeqBatch(padded, times, lengths, targets, torch.arange(4))
    return Histories(items, SPRING + torch.arange(len(items)), starts), batch, before


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("contrast", ["us_x", "us", "un", "su"])
def test_the_contrasts_of_fearec(contrast, cosine):
    data, batch, before = same_target_world()
    catalog = small_catalog()
    weights = {"same_weight": 0.3, "other_weight": 0.7, "frequency_weight": 0.2}
    settings = {"contrast": contrast, "cosine": cosine, "temperature": 1.5, "lag_factor": 5.0}  # all 12 lags
    model = lively("fearec", type(catalog)(**{**vars(catalog), "histories": data}), **weights, **settings)
    z = again = newest(fearec(model, batch.items, MAX_LENGTH), batch)  # what stands for dropout is the same
    other = torch.stack([fearec(model, torch.tensor([row]), MAX_LENGTH)[0, -1] for row in before])
    expected = {"main": next_item_loss(z, model.items.weight, batch.targets[batch.targets > 0])}
    if contrast in ("us", "un"):
        expected["contrast_again"] = 0.3 * two_views(z, again, 1.5, cosine)
    if contrast != "un":
        first = again if contrast == "us_x" else z
        expected["contrast_other"] = 0.7 * two_views(first, other, 1.5, cosine)
    pair = (z, again) if contrast in ("us", "un") else (z, other)
    waves = torch.exp(-2j * math.pi / 16 * torch.arange(9)[:, None] * torch.arange(16)) / math.sqrt(16)
    expected["frequency"] = 0.2 * ((pair[0] - pair[1]).to(waves.dtype) @ waves.T).abs().mean()
    found = model.losses(batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        close(found[name], value)


# NOVA


def nova(model: SeqRecModel, items: Tensor, blocked: Tensor, masked: Tensor | None = None) -> Tensor:
    x = model.items.weight[items]
    if masked is not None:
        x = torch.where(masked[..., None], model.mask, x)
    x = drop(normed(x, model.norm))
    sides = [model.positions.weight[: items.shape[1]].expand_as(x)]
    for name, layer in model.norms.items():
        side = drop(normed(projected(model, name), layer))[items]
        sides.append(side if masked is None else side * ~masked[..., None])
    for layer in model.layers:
        part = layer.attention
        together = torch.stack([x, *sides], dim=2)
        shares = (together @ part.fusion.score.weight[0]).softmax(-1)
        query, key = part.query_key((shares[..., None] * together).sum(2)).chunk(2, dim=-1)
        x = completed(layer, x, part.out(attended(query, key, part.value(x), blocked)))
    return x


def test_nova():
    model, batch = lively("nova"), histories(LENGTHS)
    agrees(model, batch, nova(model, batch.items, future(9)))


@pytest.mark.parametrize("ratio", [1e-9, 0.4, 1 - 1e-9])
def test_nova_by_cloze(ratio):
    """After the history stands a mask for the target, and a share of the events are masked with it."""
    model = lively("nova", training="cloze", mask_ratio=ratio)
    batch = histories(LENGTHS, parallel=False)
    items, last = F.pad(batch.items, (0, 1)), torch.arange(10) == batch.lengths[:, None]
    shown = nova(model, items, ~((items > 0) | last)[:, None], last)
    close(model.last_hidden(batch), shown[last])
    wanted = torch.where(last, batch.targets.sum(1, keepdim=True), items)
    rng = torch.Generator()
    rng.set_state(model.rng.get_state())
    masked = ((torch.rand(items.shape, generator=rng) < ratio) | last) & (wanted > 0)
    least, most = {1e-9: (0, 0), 0.4: (1, 17), 1 - 1e-9: (18, 18)}[ratio]
    assert least <= int(masked.sum()) - len(LENGTHS) <= most
    hidden = nova(model, torch.where(masked, 0, items), ~(wanted > 0)[:, None], masked)
    close(model.losses(batch)["main"], next_item_loss(hidden[masked], model.items.weight, wanted[masked]))


# DIF-SR


@pytest.mark.parametrize("fusion", ["gate", "sum"])
def test_difsr(fusion):
    model, batch = lively("difsr", fusion=fusion), histories(LENGTHS, parallel=fusion == "sum")
    lists = [[c for c in row if c] for row in model.catalog.categories.tolist()]
    assert max(map(len, lists)) == 2
    per_item = torch.stack([sum((model.attributes.weight[c] for c in own), torch.zeros(32)) for own in lists])
    x = drop(normed(model.items.weight[batch.items], model.norm))
    attributes, positions = per_item[batch.items], model.positions.weight[:9].expand_as(x)
    for layer in model.layers:
        part = layer.attention
        query, key, value = part.query_key_value(x).chunk(3, dim=-1)
        pairs = [part.attribute(attributes), torch.cat([query, key], dim=-1), part.position(positions)]
        heads = []
        for h in range(HEADS):
            halves = [[half.chunk(HEADS, -1)[h] for half in pair.chunk(2, dim=-1)] for pair in pairs]
            scores = torch.stack([q @ k.transpose(1, 2) for q, k in halves])  # source, row, query, key
            fused = scores.sum(0)
            if fusion == "gate":
                rows = F.pad(scores * batch.valid[:, None], (0, MAX_LENGTH - 9))
                shares = part.fusion.energy(part.fusion.row(rows).relu()).softmax(0)
                fused = (shares * rows).sum(0)[..., :9]
            weights = (fused / math.sqrt(16 / HEADS)).masked_fill(future(9), -torch.inf).softmax(-1)
            heads.append(drop(weights, PA) @ value.chunk(HEADS, -1)[h])
        x = completed(layer, x, part.out(torch.cat(heads, dim=-1)))
    agrees(model, batch, x)
