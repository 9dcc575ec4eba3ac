"""UniSRec's whitening experts and TedRec's products in the frequency domain, against plain loops."""

import cmath
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contract.catalogs import histories, rows_of, small_catalog, small_model, widened
from hm4sr.models.tedrec import SpectralFusion, TedRec
from hm4sr.models.unisrec import UniSRec
from hm4sr.nn.attention import SequenceEncoder
from hm4sr.nn.experts import EventExperts, NoisyDenseMoE
from hm4sr.nn.frequency import fourier_matrices, spectral_product
from hm4sr.types import ItemFeatures

WIDTH, DIM, EXPERTS, POSITIONS = 6, 4, 3, 5


def randomised(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    module.requires_grad_(False)


def adaptor(dropout: float = 0.0, noise: float = 1.0, own: bool = False, dim: int = DIM) -> NoisyDenseMoE:
    made = NoisyDenseMoE(WIDTH, dim, EXPERTS, dropout, noise, own, torch.Generator().manual_seed(2))
    randomised(made)
    return made


def expected_mixture(moe: NoisyDenseMoE, x: Tensor, bias: Tensor) -> Tensor:
    """sum_k g_k (x - b_k) W_k, with g the softmax of x W_g."""
    gates = [math.exp(float(x @ moe.gate[:, k])) for k in range(EXPERTS)]
    parts = [gates[k] / sum(gates) * ((x - bias[k]) @ moe.weight[k]) for k in range(EXPERTS)]
    return torch.stack(parts).sum(0)


def test_the_adaptor_is_a_mixture_of_whitening_experts():
    moe, x = adaptor().eval(), torch.randn(7, WIDTH)
    for row, found in zip(x, moe(x), strict=True):
        torch.testing.assert_close(found, expected_mixture(moe, row, moe.bias), rtol=1e-4, atol=1e-4)


def test_the_gate_starts_even_and_all_experts_take_part():
    moe = NoisyDenseMoE(WIDTH, DIM, EXPERTS, 0.2, 1.0, False, torch.Generator().manual_seed(2)).eval()
    assert torch.equal(moe.gates(torch.randn(2, WIDTH)), torch.full((2, EXPERTS), 1 / EXPERTS))


def test_the_noise_of_the_gate_has_the_learned_size_in_training_alone():
    moe, x = adaptor().train(), torch.randn(1, WIDTH)
    logits = (x @ moe.gate).expand(20_000, -1)
    spread = (x @ moe.noise).expand(20_000, -1)
    odds = moe.route(logits, spread).log()
    differences = (odds[:, 0] - odds[:, 1]) - (logits[:, 0] - logits[:, 1])
    sizes = torch.nn.functional.softplus(spread[0]) + 0.01
    assert float(differences.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(differences.std()) == pytest.approx(float((sizes[0] ** 2 + sizes[1] ** 2) ** 0.5), rel=0.03)
    assert torch.equal(moe.eval().route(logits, spread), logits.softmax(-1))


@pytest.mark.parametrize("own", [False, True])
def test_dropout_leaves_the_mean_and_drops_for_all_experts_or_for_each(own):
    moe = adaptor(dropout=0.5, noise=0.0, own=own, dim=1).train()
    x = torch.ones(20_000, WIDTH)
    gates = torch.eye(EXPERTS)[:, None].expand(-1, 20_000, -1)
    state = moe.dropout.rng.get_state()
    found = []
    for gate in gates:  # the same draws, seen through one expert at a time
        moe.dropout.rng.set_state(state)
        found.append(moe.mix(gate, x)[:, 0])
    for expert, values in enumerate(found):
        assert float(values.mean()) == pytest.approx(float(moe.weight[expert].sum()), abs=0.1)
    centred = [values - values.mean() for values in found]
    covariance = float((centred[0] * centred[1]).mean())
    shared = float((moe.weight[0] * moe.weight[1]).sum())  # p / (1 - p) = 1
    assert covariance == pytest.approx(0.0 if own else shared, abs=0.2)
    assert abs(shared) > 0.5


def test_an_item_without_text_is_its_id_alone():
    catalog = small_catalog(modalities=("text",))
    model = small_model("unisrec", catalog).eval()
    assert isinstance(model, UniSRec)
    missing = ~catalog.features["text"].present
    same = (model.item_states() == model.items.weight).all(1)
    assert torch.equal(same, missing)


def test_the_cosine_decides_and_the_length_of_an_item_does_not():
    model, batch = small_model("unisrec", small_catalog(modalities=("text",))).eval(), histories([4, 2])
    with torch.no_grad():
        query = model.encode(batch)
        torch.testing.assert_close(query.norm(dim=-1), torch.full(query.shape[:2], 1 / 0.07))
        torch.testing.assert_close(model.item_vectors()[1:].norm(dim=1), torch.ones(40))
        assert model.scores(batch, model.item_vectors())[:, 1:].abs().max() <= 1 / 0.07 + 1e-4


def events(catalog_rows: int = 9) -> tuple[EventExperts, ItemFeatures]:
    present = torch.ones(catalog_rows, dtype=torch.bool)
    present[[0, 3]] = False
    features = ItemFeatures(torch.randn(catalog_rows, WIDTH) * present[:, None], present)
    rng = torch.Generator().manual_seed(2)
    made = EventExperts(features, NoisyDenseMoE(WIDTH, DIM, EXPERTS, 0.0, 1.0, False, rng, POSITIONS))
    randomised(made)
    return made.eval(), features


def test_each_position_has_a_bias_of_its_own_and_padding_passes_the_experts_as_zeros():
    made, features = events()
    items = torch.tensor([[1, 2, 3, 0, 0], [5, 0, 0, 0, 0]])
    found = made(torch.float32, items)
    for b in range(2):
        for p in range(POSITIONS):
            expected = expected_mixture(made.moe, features.vectors[items[b, p]], made.moe.bias[:, p])
            torch.testing.assert_close(found[b, p], expected, rtol=1e-4, atol=1e-4)


def circular_convolution(x: Tensor, y: Tensor) -> Tensor:
    P = len(x)
    return torch.stack([sum(x[s] * y[(t - s) % P] for s in range(P)) for t in range(P)])


def filtered(x: list[float], spectrum: list[complex]) -> list[float]:
    """Inverse transform of spectrum times transform, both orthonormal, from their definitions."""
    P = len(x)
    waves = [[cmath.exp(-2j * cmath.pi * f * t / P) for t in range(P)] for f in range(P)]
    half = len(spectrum)
    whole = [spectrum[f] if f < half else spectrum[P - f].conjugate() for f in range(P)]
    whole[0] = complex(whole[0].real)
    if P % 2 == 0:
        whole[P // 2] = complex(whole[P // 2].real)
    given = [sum(waves[f][t] * x[t] for t in range(P)) / math.sqrt(P) for f in range(P)]
    out = [sum(whole[f] * given[f] * waves[f][t].conjugate() for f in range(P)) for t in range(P)]
    return [value.real / math.sqrt(P) for value in out]


@pytest.mark.parametrize("length", [5, 8, 50])
def test_the_product_of_spectra_is_the_circular_convolution_over_the_root_of_the_length(length):
    fusion = SpectralFusion(length, DIM, torch.Generator().manual_seed(0))
    ids, texts = torch.randn(2, length, DIM), torch.randn(2, length, DIM)
    found = fusion.inverse @ spectral_product(fusion.waves @ ids, fusion.waves @ texts)
    for row in range(2):
        expected = circular_convolution(ids[row], texts[row]) / math.sqrt(length)
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 5, 8, 50, 333])
def test_the_matrices_are_the_fast_transform_and_its_inverse(length):
    waves, inverse = fourier_matrices(length)
    x = torch.randn(3, length, DIM)
    spectrum = torch.fft.rfft(x, dim=1, norm="ortho")
    expected = torch.cat([spectrum.real, spectrum.imag], 1)
    torch.testing.assert_close(waves @ x, expected, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(inverse @ expected, x, rtol=1e-4, atol=2e-6)
    # What no real signal has is ignored by both: imaginary parts at the ends.
    other = spectrum + torch.randn_like(spectrum)
    given = inverse @ torch.cat([other.real, other.imag], 1)
    torch.testing.assert_close(
        given, torch.fft.irfft(other, n=length, dim=1, norm="ortho"), rtol=1e-4, atol=2e-6
    )


@pytest.mark.parametrize("length", [5, 6])
def test_fusion_adds_both_products_through_gates_of_their_own(length):
    fusion = SpectralFusion(length, DIM, torch.Generator().manual_seed(0))
    randomised(fusion)
    ids, texts = torch.randn(1, length, DIM), torch.randn(1, length, DIM)
    found = fusion(ids, texts)[0]
    spectra = torch.view_as_complex(fusion.filter)
    a = torch.tensor([filtered(ids[0, :, d].tolist(), spectra[:, d].tolist()) for d in range(DIM)]).T
    b = circular_convolution(ids[0], texts[0]) / math.sqrt(length)
    for t in range(length):
        gates = [
            torch.sigmoid(x[t] @ gate.weight[0] + gate.bias)
            for x, gate in zip((a, b), fusion.gates, strict=True)
        ]
        torch.testing.assert_close(found[t], 2 * (gates[0] * a[t] + gates[1] * b[t]), rtol=1e-4, atol=1e-4)


def test_fusion_stays_in_float32_under_autocast():
    fusion = SpectralFusion(50, DIM, torch.Generator().manual_seed(0))
    ids, texts = torch.randn(2, 50, DIM), torch.randn(2, 50, DIM)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fusion(ids, texts)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, fusion(ids, texts))


@pytest.mark.parametrize("length", [1, 4, 5])
def test_positions_beyond_the_events_are_one_vector_whether_they_are_given_or_not(length):
    fusion = SpectralFusion(5, DIM, torch.Generator().manual_seed(0))
    randomised(fusion)
    ids, texts, rest = torch.randn(2, length, DIM), torch.randn(2, 5, DIM), torch.randn(DIM)
    whole = torch.cat([ids, rest.expand(2, 5 - length, DIM)], 1)
    torch.testing.assert_close(fusion(ids, texts, rest), fusion(whole, texts)[:, :length])


@pytest.mark.parametrize("zero_pad", [False, True])
def test_a_batch_is_fused_as_if_it_were_padded_to_the_declared_length(zero_pad):
    model = tedrec(zero_pad=zero_pad)
    randomised(model.fusion)
    model.blank.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(2))
    P = model.catalog.max_length
    batch = histories([4, 2, 1])
    L = batch.items.shape[1]
    assert L < P
    states = model.item_states()[batch.items]
    items = F.pad(batch.items, (0, P - L))
    ids = torch.where(
        (items > 0)[..., None], F.pad(states, (0, 0, 0, P - L)), 0.0 if zero_pad else model.blank
    )
    texts = torch.stack([adaptor(torch.float32, items) for adaptor in model.adaptors.values()]).sum(0)
    texts = texts * (items > 0)[..., None] if zero_pad else texts
    expected = model.fusion(ids, texts)[:, :L] + model.positions.weight[:L]
    torch.testing.assert_close(model._fuse(states, batch), expected, rtol=1e-4, atol=1e-5)


def test_experts_are_mixed_in_float32_under_autocast():
    moe = NoisyDenseMoE(WIDTH, DIM, EXPERTS, 0.0, 0.0, False, torch.Generator().manual_seed(0)).eval()
    gates, x = torch.rand(7, EXPERTS), torch.randn(7, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = (x @ moe.weight.transpose(0, 1).reshape(WIDTH, -1)).view(-1, EXPERTS, DIM)
        mixed = moe.mix(gates, x)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, (gates[..., None] * found.float()).sum(1))


def tedrec(**settings: object) -> TedRec:
    model = small_model("tedrec", **settings)
    assert isinstance(model, TedRec)
    return model.eval()


@pytest.mark.parametrize("zero_pad", [False, True])
def test_padding_takes_part_in_the_transform_unless_it_is_silenced(zero_pad):
    model, batch = tedrec(zero_pad=zero_pad), rows_of(histories([4, 9]), [0])
    with torch.no_grad():
        before = model.last_hidden(batch)
        model.blank += 1.0
        after = model.last_hidden(batch)
    assert torch.allclose(before, after, atol=1e-6) is zero_pad


def test_the_vector_of_padding_is_random_and_never_learns():
    model, batch = tedrec(), histories([4, 9], parallel=False)
    start = model.blank.clone()
    assert start.abs().min() > 0
    optimizer = torch.optim.Adam(model.train().parameters(), lr=0.1, weight_decay=0.1)
    for columns in (0, 2):
        optimizer.zero_grad()
        model.losses(widened(batch, columns))["main"].backward()
        optimizer.step()
    assert torch.equal(model.blank, start)
    assert not model.items.weight[0].any()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_newest_event_alone_gives_what_all_positions_give_there(layers, bias):
    encoder = SequenceEncoder(8, layers, 2, 16, 0.0, 0.0, torch.Generator().manual_seed(0), bias)
    x, lengths = torch.randn(3, 6, 8), torch.tensor([6, 1, 4])
    expected = encoder(x)[torch.arange(3), lengths - 1]
    torch.testing.assert_close(encoder.newest(x, lengths), expected)


@pytest.mark.parametrize("name", ["unisrec", "tedrec"])
def test_noise_of_the_gates_comes_from_the_models_generator(name):
    model, batch = (
        small_model(name, dropout=0.0, attention_dropout=0.0).train(),
        histories([4, 2], parallel=False),
    )
    state = model.rng.get_state()
    first = model.losses(batch)["main"]
    assert not torch.equal(model.losses(batch)["main"], first)
    model.rng.set_state(state)
    torch.manual_seed(1)
    assert torch.equal(model.losses(batch)["main"], first)
