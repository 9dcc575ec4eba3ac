"""The parts of the ID-based and time-aware baselines against the plainest way to compute them."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from contract.catalogs import SPRING, histories, prefix_of, small_catalog, small_model
from hm4sr.nn.frequency import FrequencyAttention, band_filter, circular_correlation, frequency_band
from hm4sr.nn.intervals import IntervalAttention, personal_intervals, present_intervals
from hm4sr.nn.losses import nt_xent, one_against_one
from hm4sr.nn.recurrence import linear_recurrence
from hm4sr.nn.sampling import draw_unseen


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


# LRURec


@pytest.mark.parametrize("length", [1, 2, 7, 50])
def test_the_recurrence_equals_a_loop_and_so_does_its_gradient(length):
    inputs = randn(3, length, 5, dtype=torch.complex128).requires_grad_()
    radius, angle = torch.linspace(0.5, 0.99, 5).double(), torch.linspace(0.1, 3, 5).double()
    decay = torch.polar(radius, angle).requires_grad_()
    weights = randn(3, length, 5, seed=1, dtype=torch.complex128)

    def looped() -> torch.Tensor:
        states = [inputs[:, 0]]
        for t in range(1, length):
            states.append(decay * states[-1] + inputs[:, t])
        return torch.stack(states, dim=1)

    expected, given = looped(), linear_recurrence(inputs, decay)
    torch.testing.assert_close(given, expected)
    wanted = torch.autograd.grad((expected * weights).real.sum(), (inputs, decay), allow_unused=True)
    found = torch.autograd.grad((given * weights).real.sum(), (inputs, decay))
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1], torch.zeros_like(decay) if wanted[1] is None else wanted[1])


def test_the_recurrence_equals_the_kernel_of_powers():
    inputs, decay = (
        randn(2, 9, 4, dtype=torch.complex64),
        torch.polar(torch.full((4,), 0.9), torch.arange(4.0)),
    )
    apart = torch.arange(9)[:, None] - torch.arange(9)
    kernel = torch.where((apart >= 0)[..., None], decay ** apart.clamp_min(0)[..., None], 0)
    expected = torch.einsum("tsn,bsn->btn", kernel, inputs)
    torch.testing.assert_close(linear_recurrence(inputs, decay), expected)


def test_lambda_starts_on_its_ring_and_gamma_keeps_the_variance():
    block = small_model("lrurec", dim=64).stack[0]
    radius = torch.exp(-torch.exp(block.nu))
    assert 0.8 <= radius.min() < 0.82
    assert 0.97 < radius.max() <= 0.99
    torch.testing.assert_close(torch.exp(block.gamma) ** 2, 1 - radius**2)
    angle = torch.exp(block.theta)
    assert 0 <= angle.min() < 0.5
    assert 5.8 < angle.max() < 2 * math.pi


def test_a_block_of_lrurec_follows_its_equations():
    model, x = small_model("lrurec").eval(), randn(2, 6, 16)
    block = model.stack[0]
    decay = torch.exp(torch.complex(-torch.exp(block.nu), torch.exp(block.theta)))
    w_in, b_in = block.into_states.weight.view(32, 2, 16), block.into_states.bias.view(32, 2)
    w_out = block.out_of_states.weight.view(16, 32, 2)
    state, expected = torch.zeros(2, 32, dtype=torch.complex64), []
    for t in range(6):
        pushed = torch.complex(x[:, t] @ w_in[:, 0].T + b_in[:, 0], x[:, t] @ w_in[:, 1].T + b_in[:, 1])
        state = decay * state + torch.exp(block.gamma) * pushed
        # the second half of the stored output weights is minus the imaginary part
        out = torch.complex(w_out[..., 0], -w_out[..., 1])
        expected.append((state @ out.T).real + block.out_of_states.bias)
    torch.testing.assert_close(block.recur(x), torch.stack(expected, dim=1), rtol=1e-4, atol=1e-5)


# TiSASRec


def test_intervals_of_a_history_counted_by_hand():
    times = SPRING + torch.tensor([[0, 60, 60, 90, 1000]])
    found = personal_intervals(times, largest=20)[0]
    # shortest intervals above 0 so far: none (1 s), 60, 60, 30, 30
    assert found[1, :2].tolist() == [1, 0]
    assert found[2, :3].tolist() == [1, 0, 0]
    assert found[3, :4].tolist() == [3, 1, 1, 0]
    assert found[4].tolist() == [20, 20, 20, 20, 0]  # 33, 31, 31 and 30, cut off
    whole = personal_intervals(times, largest=20, whole_row=True)[0]
    assert whole[1, :2].tolist() == [2, 0]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=12), st.integers(1, 300))
def test_intervals_equal_the_naive_ones(gaps, largest):
    times = SPRING + torch.tensor([gaps]).cumsum(1)
    found = personal_intervals(times, largest)[0]
    for i in range(len(gaps)):
        shortest = min((gap for gap in gaps[1 : i + 1] if gap > 0), default=1)
        for j in range(i + 1):
            apart = int(times[0, i] - times[0, j])
            assert int(found[i, j]) == min(largest, apart // shortest)


@pytest.mark.parametrize(
    ("largest", "occurring", "rows"), [(256, 3, 64), (256, 64, 64), (256, 65, 128), (70, 65, 71), (1, 2, 2)]
)
def test_only_intervals_that_occur_are_numbered(largest, occurring, rows):
    values = torch.randperm(largest + 1, generator=generator())[:occurring]
    intervals = values[torch.arange(3 * 5 * 5) % occurring].view(3, 5, 5)
    numbers, found = present_intervals(intervals, largest)
    assert torch.equal(found[numbers], intervals)
    assert len(found) == rows
    assert int(numbers.max()) == min(occurring, 75) - 1


@pytest.mark.parametrize("heads", [1, 2])
def test_interval_attention_equals_the_one_with_a_vector_for_each_pair(heads):
    dim, largest = 8, 6
    attention = IntervalAttention(dim, heads, 0.0, generator(), 0.125)
    queries, x = randn(3, 5, dim, seed=1), randn(3, 5, dim, seed=2)
    positions = (randn(3, 5, dim, seed=3), randn(3, 5, dim, seed=4))
    tables = (
        randn(largest + 1, dim, seed=5).requires_grad_(),
        randn(largest + 1, dim, seed=6).requires_grad_(),
    )
    intervals = torch.randint(0, largest + 1, (3, 5, 5), generator=generator(7))
    found = attention(queries, x, intervals, positions, tables)

    query = attention.query(queries)
    key = (attention.key(x) + positions[0])[:, None] + tables[0][intervals]  # B, L, L, D
    value = (attention.value(x) + positions[1])[:, None] + tables[1][intervals]
    parts = []
    for head in range(heads):
        own = slice(head * dim // heads, (head + 1) * dim // heads)
        scores = (query[:, :, None, own] * key[..., own]).sum(-1) / math.sqrt(dim / heads)
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
        parts.append((scores.softmax(-1)[..., None] * value[..., own]).sum(2))
    expected = torch.cat(parts, dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = randn(3, 5, dim, seed=8)
    for given_gradient, wanted in zip(
        torch.autograd.grad((found * weights).sum(), tables),
        torch.autograd.grad((expected * weights).sum(), tables),
        strict=True,
    ):
        torch.testing.assert_close(given_gradient, wanted, rtol=1e-4, atol=1e-4)


def test_a_later_event_changes_nothing_before_it_unless_the_unit_is_that_of_the_row():
    batch = histories([6, 6])
    for unit, same in (("prefix", True), ("row", False)):
        model = small_model("tisasrec", personal_unit=unit).eval()
        batch.times[:, 5] = batch.times[:, 4] + 1  # by far the shortest interval
        with torch.no_grad():
            difference = (model.encode(batch)[:, :5] - model.encode(prefix_of(batch, 5))).abs().max()
        assert (difference < 1e-5) == same


@pytest.mark.parametrize(("largest", "count"), [(512, 797_376), (2048, 993_984)])
def test_number_of_parameters_of_tisasrec_with_other_intervals(largest, count):
    catalog = small_catalog(10_672, max_length=50)
    with torch.device("meta"):
        model = small_model("tisasrec", catalog, dim=64, max_interval=largest)
    assert model.num_parameters() == count


def test_number_of_parameters_of_tisasrec_with_the_blocks_of_sasrec():
    catalog = small_catalog(10_672, max_length=50)
    with torch.device("meta"):
        model = small_model("tisasrec", catalog, dim=64, inner=256, blocks="sasrec")
    tables = 2 * 50 * 64 + 2 * 257 * 64  # positions and intervals, for keys and values
    assert model.num_parameters() == 786_368 - 50 * 64 + tables


def test_the_blocks_of_sasrec_begin_at_its_scale():
    model = small_model("tisasrec", small_catalog(500), dim=64, inner=256, blocks="sasrec")
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


def test_without_positions_and_intervals_the_blocks_are_those_of_sasrec():
    model, plain = small_model("tisasrec", blocks="sasrec").eval(), small_model("sasrec").eval()
    tables = (model.position_keys, model.position_values, model.interval_keys, model.interval_values)
    with torch.no_grad():
        for table in (*tables, plain.positions):
            table.weight.zero_()
        model.norm.weight.copy_(torch.linspace(0.5, 1.5, len(model.norm.weight)))
        model.norm.bias.copy_(torch.linspace(-1.0, 1.0, len(model.norm.bias)))
        plain.encoder.norm.load_state_dict(model.norm.state_dict())
        plain.items.weight.copy_(model.items.weight)
        for ours, theirs in zip(model.stack, plain.encoder.layers, strict=True):
            parts = ours.attention.attention
            theirs.attention.query_key_value.weight.copy_(
                torch.cat([parts.query.weight, parts.key.weight, parts.value.weight])
            )
            theirs.attention.out.weight.copy_(ours.attention.out.weight)
            theirs.expand.weight.copy_(ours.expand.weight)
            theirs.contract.weight.copy_(ours.contract.weight)
        batch = histories([9, 1, 5])
        torch.testing.assert_close(model.encode(batch), plain.encode(batch), rtol=1e-3, atol=1e-4)


def test_positions_and_prefixes_agree_with_the_blocks_of_sasrec():
    model, batch = small_model("tisasrec", blocks="sasrec").eval(), histories([9, 7])
    with torch.no_grad():
        for length in (1, 4, 7):
            expected = model.encode(prefix_of(batch, length))
            torch.testing.assert_close(model.encode(batch)[:, :length], expected, rtol=1e-4, atol=1e-5)


# FEARec


def test_bands_of_the_layers():
    assert [frequency_band(layer, 2, 0.6, 26) for layer in (0, 1)] == [(10, 26), (0, 16)]
    assert [frequency_band(layer, 2, 0.5, 26) for layer in (0, 1)] == [(13, 26), (0, 13)]
    assert [frequency_band(layer, 2, 1.0, 26) for layer in (0, 1)] == [(0, 26), (0, 26)]
    assert frequency_band(0, 1, 0.6, 26) == (0, 26)
    assert [frequency_band(layer, 4, 0.1, 24) for layer in range(4)] == [(18, 24), (12, 18), (6, 12), (0, 6)]


@pytest.mark.parametrize("length", [1, 2, 5, 12, 50])
def test_the_band_filter_equals_cutting_the_transform(length):
    signal = randn(length, 3)
    for low in range(length // 2 + 1):
        for high in range(low, length // 2 + 2):
            spectrum = torch.fft.rfft(signal, dim=0)
            spectrum[:low], spectrum[high:] = 0, 0
            expected = torch.fft.irfft(spectrum, n=length, dim=0)
            torch.testing.assert_close(
                band_filter(low, high, length) @ signal, expected, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize(("slots", "length"), [(1, 1), (1, 4), (3, 12), (6, 11), (8, 12), (12, 12)])
def test_circular_correlation_equals_that_of_the_transform(slots, length):
    query, key = randn(2, slots, 4), randn(2, slots, 4, seed=1)
    product = torch.fft.rfft(query, n=length, dim=1) * torch.fft.rfft(key, n=length, dim=1).conj()
    expected = torch.fft.irfft(product, n=length, dim=1).sum(2)
    torch.testing.assert_close(circular_correlation(query, key, length), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("silent", [False, True])
def test_frequency_attention_follows_the_transforms(training, silent):
    """Spelt out with transforms, rolls and slots up to the full length, head by head."""
    B, T, D, heads, band, num_lags, share = 3, 12, 8, 2, (2, 6), 2, 0.3
    lengths = torch.tensor([5, 12, 1])
    layer = FrequencyAttention(D, heads, 0.0, T, band, num_lags, share, True, silent, generator())
    layer.train(training)
    layer.query_key_value.weight.data *= 20
    x, real = randn(B, T, D), torch.arange(T) < lengths[:, None]
    at = torch.arange(T).expand(B, T)
    query, key, value = (
        part * real[..., None] if silent else part for part in layer.query_key_value(x).chunk(3, -1)
    )

    def banded(spectrum: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(spectrum)
        kept[:, band[0] : band[1]] = spectrum[:, band[0] : band[1]]
        return torch.fft.irfft(kept, n=T, dim=1)

    correlation = banded(torch.fft.rfft(query, dim=1) * torch.fft.rfft(key, dim=1).conj()).mean(2)
    mixed = torch.zeros(B, T, D)
    shared = correlation.mean(0).topk(num_lags).indices
    for row in range(B):
        lags = shared if training else correlation[row].topk(num_lags).indices
        weights = correlation[row, lags].softmax(0)
        for weight, lag in zip(weights, lags, strict=True):
            mixed[row] += weight * value[row].roll(-int(lag), 0)
    in_time = torch.zeros(B, T, D)
    query, key, value = (banded(torch.fft.rfft(part, dim=1)) for part in (query, key, value))
    for row in range(B):
        for head in range(heads):
            own = slice(head * D // heads, (head + 1) * D // heads)
            scores = query[row, :, own] @ key[row, :, own].T / math.sqrt(D / heads)
            blocked = torch.ones(T, T).triu(1).bool() | ~real[row]
            in_time[row, :, own] = scores.masked_fill(blocked, -torch.inf).softmax(-1) @ value[row, :, own]
    expected = layer.out((1 - share) * mixed + share * in_time)
    found = layer(x, real, at)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    last = layer(x, real, lengths[:, None] - 1)
    torch.testing.assert_close(last[:, 0], expected[torch.arange(B), lengths - 1], rtol=1e-3, atol=1e-5)
    if silent and not training:  # slots beyond the longest row may be left out
        few = layer(x[[0, 2], :5], real[[0, 2], :5], at[:2, :5])
        torch.testing.assert_close(few, expected[[0, 2], :5], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("max_length", [1, 4, 10])
def test_short_histories_have_as_many_lags_as_events(max_length):
    model = small_model("fearec", small_catalog(max_length=max_length), lag_factor=5.0)
    batch = histories([1, max_length], parallel=False)
    assert model.train().losses(batch)["main"].isfinite()
    assert model.eval().last_hidden(batch).isfinite().all()


def test_presets_of_fearec():
    assert small_model("fearec", preset="recbole").config.contrast == "none"
    assert small_model("fearec", preset="recbole", contrast="su").config.contrast == "su"
    script = small_model("fearec", preset="script").train()
    assert set(script.losses(histories([4, 2, 3], parallel=False))) == {"main", "contrast_other"}
    names = {"us": {"same", "other"}, "un": {"same"}, "su": {"other"}, "us_x": {"other"}, "none": set()}
    for kind, others in names.items():
        model = small_model("fearec", contrast=kind, frequency_weight=0.0).train()
        expected = {"main"} | {f"contrast_{name}".replace("same", "again") for name in others}
        assert set(model.losses(histories([4, 2, 3], parallel=False))) == expected


# NOVA


def fused(kind: str, gate: str = "softmax") -> tuple[torch.Tensor, torch.Tensor, torch.nn.Module]:
    model = small_model("nova", fusion=kind, gate=gate)
    fusion, vectors = model.layers[0].attention.fusion, randn(2, 3, 4, 16)
    return vectors, fusion(vectors), fusion


def test_fusions_of_nova_computed_by_hand():
    vectors, found, _ = fused("add")
    torch.testing.assert_close(
        found, vectors[:, :, 0] + vectors[:, :, 1] + vectors[:, :, 2] + vectors[:, :, 3]
    )
    vectors, found, fusion = fused("concat")
    for row in range(2):
        for place in range(3):
            by_hand = fusion.map.weight @ torch.cat(list(vectors[row, place])) + fusion.map.bias
            torch.testing.assert_close(found[row, place], by_hand)
    for gate in ("softmax", "sigmoid"):
        vectors, found, fusion = fused("gate", gate)
        scores = [(fusion.score.weight[0] @ vector).item() for vector in vectors[1, 2]]
        if gate == "softmax":
            shares = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
        else:
            shares = [1 / (1 + math.exp(-score)) for score in scores]
        by_hand = sum(share * vector for share, vector in zip(shares, vectors[1, 2], strict=True))
        torch.testing.assert_close(found[1, 2], by_hand)


def test_side_information_moves_attention_weights_but_no_values():
    model = small_model("nova", layers=1).eval()
    attention = model.layers[0].attention
    x, sides, blocked = randn(2, 4, 16), randn(2, 4, 3, 16, seed=1), torch.ones(4, 4).triu(1).bool()
    same_items = x[:, :1].expand(-1, 4, -1)  # whatever the weights, the mean of equal values is the same
    with torch.no_grad():
        torch.testing.assert_close(
            attention(same_items, sides, blocked), attention(same_items, sides * 2, blocked)
        )
        assert not torch.allclose(attention(x, sides, blocked), attention(x, sides * 50, blocked))


@pytest.mark.parametrize(("kind", "count"), [("gate", 884_928), ("add", 884_800), ("concat", 917_696)])
def test_number_of_parameters_of_nova_without_norms_of_the_modalities(kind, count):
    catalog = small_catalog(10_672, num_categories=0, missing=False, width=768, max_length=50)
    catalog.features["image"], catalog.features["text"] = [catalog.features["image"]] * 2
    with torch.device("meta"):
        model = small_model("nova", catalog, dim=64, inner=256, fusion=kind, normalise_sides=False)
    assert model.num_parameters() == count


@pytest.mark.parametrize("modalities", [(), ("text",), ("image", "text", "audio")])
def test_nova_runs_with_whatever_modalities_there_are(modalities):
    model = small_model("nova", small_catalog(modalities=modalities)).train()
    loss = model.losses(histories([5, 3, 1]))["main"]
    assert loss.isfinite()
    assert sorted(model.projections) == sorted(modalities)


def test_a_cloze_model_predicts_what_it_does_not_see():
    model, batch = small_model("nova", training="cloze"), histories([6, 3, 1], parallel=False)
    assert not model.parallel
    assert model.train().losses(batch)["main"].isfinite()
    model.eval()
    with torch.no_grad():
        hidden = model.last_hidden(batch)
        alone = model.last_hidden(prefix_of(histories([3], seed=0), 3))
        batch.items[1, 0] = batch.items[1, 0] % 40 + 1  # the oldest of three events
        changed = model.last_hidden(batch)
    assert hidden.shape == (3, 16)
    assert alone.isfinite().all()
    assert (changed[1] - hidden[1]).abs().max() > 1e-4
    torch.testing.assert_close(changed[[0, 2]], hidden[[0, 2]])


# Losses and draws


def test_nt_xent_by_hand():
    first, second = randn(3, 4), randn(3, 4, seed=1)
    views = [*first, *second]
    total = 0.0
    for anchor in range(6):
        logits = [float(views[anchor] @ views[other]) / 0.5 for other in range(6) if other != anchor]
        twin = float(views[anchor] @ views[(anchor + 3) % 6]) / 0.5
        total += math.log(sum(map(math.exp, logits))) - twin
    torch.testing.assert_close(float(nt_xent(first, second, 0.5)), total / 6, rtol=1e-4, atol=1e-5)
    unit = nt_xent(F.normalize(first, dim=1), F.normalize(second, dim=1), 0.5)
    torch.testing.assert_close(nt_xent(first, second, 0.5, cosine=True), unit)


def test_one_against_one_by_hand():
    hidden, positive, negative = (randn(4, 3, seed=seed) for seed in range(3))
    p, n = (hidden * positive).sum(1).sigmoid(), (hidden * negative).sum(1).sigmoid()
    expected = -(p.log() + (1 - n).log()).mean()
    torch.testing.assert_close(one_against_one(hidden, positive, negative, "bce"), expected)
    apart = ((hidden * positive).sum(1) - (hidden * negative).sum(1)).sigmoid()
    torch.testing.assert_close(one_against_one(hidden, positive, negative, "bpr"), -apart.log().mean())


def test_negatives_are_items_that_the_row_does_not_hold():
    batch = histories([9, 4, 7], num_items=30, seed=3)
    drawn = [draw_unseen(batch, 30, generator(seed)) for seed in range(40)]
    row = (batch.targets > 0).nonzero()[:, 0]
    for items in drawn:
        assert ((items >= 1) & (items <= 30)).all()
        held = (torch.cat([batch.items, batch.targets], dim=1)[row] == items[:, None]).any(1)
        assert not held.any()
    unseen = set(range(1, 31)) - {*batch.items[1].tolist(), *batch.targets[1].tolist()}
    assert {int(item) for items in drawn for item in items[row == 1]} == unseen


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gru4rec", {"loss": "bpr"}),
        ("gru4rec", {"layers": 2, "hidden": 24}),
        ("lrurec", {"second_gelu": True}),
        ("tisasrec", {"loss": "bce", "embedding_penalty": 5e-5}),
        ("tisasrec", {"blocks": "sasrec", "inner": 24}),
        ("ticoserec", {"loss": "bce", "mask_mode": "maximum"}),
    ],
)
def test_switches_train_every_parameter(name, settings):
    model = small_model(name, **settings).train()
    terms = model.losses(histories([9, 1, 2, 5, 9, 3, 8, 7]))
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_number_of_parameters_of_gru4rec_as_recbole_has_it():
    catalog = small_catalog(10_672, max_length=50)
    with torch.device("meta"):
        model = small_model("gru4rec", catalog, dim=64, hidden=128)
    assert model.num_parameters() == 765_056
