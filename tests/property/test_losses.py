"""Loss terms against torch's own cross-entropy and against loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hm4sr.nn import losses
from hm4sr.nn.losses import category_loss, in_batch_contrastive, softmax_loss

SEEDS = st.integers(0, 2**31)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def problem(seed: int, N: int, V: int, Q: int, distinct: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """History vectors, item vectors and targets; few distinct targets make duplicates."""
    rng = torch.Generator().manual_seed(seed)
    targets = torch.randint(1, min(V, distinct + 1), (N,), generator=rng)
    return drawn(seed, N, Q, scale=scale), drawn(seed + 1, V, Q, scale=scale), targets


def reference(hidden: Tensor, vectors: Tensor, targets: Tensor, score_padding: bool) -> Tensor:
    """In float64, by the library."""
    logits = hidden.double() @ vectors.double().T
    return F.cross_entropy(logits, targets) if score_padding else F.cross_entropy(logits[:, 1:], targets - 1)


@given(
    seed=SEEDS,
    N=st.integers(1, 40),
    V=st.integers(2, 60),
    Q=st.integers(1, 20),
    distinct=st.integers(1, 60),
    rows_at_a_time=st.integers(1, 50),
    score_padding=st.booleans(),
    upstream=st.floats(-3, 3),
)
def test_full_softmax_is_the_cross_entropy_without_padding(
    seed, N, V, Q, distinct, rows_at_a_time, score_padding, upstream
):
    hidden, vectors, targets = problem(seed, N, V, Q, distinct, scale=1.0)
    ours = [hidden.clone().requires_grad_(), vectors.clone().requires_grad_()]
    theirs = [hidden.double().requires_grad_(), vectors.double().requires_grad_()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_CHUNK_ELEMENTS", rows_at_a_time * V)
        actual = softmax_loss(*ours, targets, score_padding=score_padding)
        (actual * upstream).backward()
    expected = reference(*theirs, targets, score_padding)
    (expected * upstream).backward()
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-5, atol=1e-5)
    if not score_padding:
        assert not ours[1].grad[0].any()


@given(seed=SEEDS, N=st.integers(1, 30))
def test_the_size_of_the_chunks_changes_next_to_nothing(seed, N):
    hidden, vectors, targets = problem(seed, N, 50, 8, 50, scale=1.0)
    whole = softmax_loss(hidden, vectors, targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_CHUNK_ELEMENTS", 1)
        torch.testing.assert_close(softmax_loss(hidden, vectors, targets), whole, rtol=1e-6, atol=1e-6)


@given(seed=SEEDS, N=st.integers(1, 30), V=st.integers(2, 200), Q=st.integers(1, 64))
def test_bfloat16_is_close(seed, N, V, Q):
    """A number of bfloat16 is good to 2^-8 (half of it when rounded to nearest).

    Of a logit sum(h w), the rounding of h, of w and of the sum cost at most 3/2 2^-8 of sum(|h w|); the loss,
    a difference of a logit and an average of them, costs twice that, the rounded probability another 2^-8.
    The gradient is the probability's error, at most as large, times the vectors.
    """
    hidden, vectors, targets = problem(seed, N, V, Q, V, scale=0.5)
    spread = float((hidden.abs() @ vectors.abs().T).max())
    tolerance = 2**-8 * (3 * spread + 2)
    ours = [hidden.clone().requires_grad_(), vectors.clone().requires_grad_()]
    theirs = [hidden.double().requires_grad_(), vectors.double().requires_grad_()]
    actual = softmax_loss(*ours, targets, torch.bfloat16)
    assert actual.dtype == torch.float32
    expected = reference(*theirs, targets, score_padding=False)
    assert abs(actual.item() - expected.item()) < tolerance
    actual.backward()
    expected.backward()
    for a, b, other in zip(ours, theirs, reversed([hidden, vectors]), strict=True):
        assert a.grad.dtype == torch.float32
        assert float((a.grad.double() - b.grad).abs().max()) < 2 * tolerance * float(other.abs().max())


def test_scores_far_apart_stay_finite():
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    vectors = torch.tensor([[0.0], [1.0], [-1.0]])
    for dtype in (torch.float32, torch.bfloat16):
        loss = softmax_loss(hidden, vectors, torch.tensor([2, 2]), dtype)
        (gradient,) = torch.autograd.grad(loss, hidden)
        assert loss.isfinite()
        assert loss > 40
        torch.testing.assert_close(gradient, torch.tensor([[1.0], [0.0]]), rtol=0.02, atol=0.02)


@given(seed=SEEDS)
def test_no_gradient_is_needed_to_know_the_value(seed):
    hidden, vectors, targets = problem(seed, 5, 20, 4, 20, scale=1.0)
    with torch.no_grad():
        value = softmax_loss(hidden, vectors, targets)
    torch.testing.assert_close(value, softmax_loss(hidden.requires_grad_(), vectors, targets).detach())


def contrast_by_loop(
    queries: Tensor, keys: Tensor, ignored: Tensor, temperature: float, exclude: bool
) -> float:
    total = 0.0
    for i, query in enumerate(queries.double()):
        terms = []
        for j, key in enumerate(keys.double()):
            cosine = float(query @ key / (query.norm() * key.norm()))
            if i == j:
                positive = math.exp(cosine / temperature)
                terms.append(positive)
            elif not ignored[i, j]:
                terms.append(math.exp(cosine / temperature))
            elif not exclude:
                terms.append(math.exp(0))
        total -= math.log(positive / sum(terms))
    return total / len(queries)


@given(
    seed=SEEDS,
    N=st.integers(1, 12),
    D=st.integers(1, 8),
    distinct=st.integers(1, 12),
    temperature=st.floats(0.1, 2),
    exclude=st.booleans(),
)
def test_in_batch_contrastive_is_its_loop(seed, N, D, distinct, temperature, exclude):
    queries, keys = drawn(seed, N, D), drawn(seed + 1, N, D)
    targets = torch.randint(0, distinct, (N,), generator=torch.Generator().manual_seed(seed))
    same = targets[:, None] == targets
    actual = in_batch_contrastive(queries, keys, same, temperature, exclude)
    expected = contrast_by_loop(queries, keys, same, temperature, exclude)
    assert actual.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@given(seed=SEEDS, exclude=st.booleans())
def test_a_batch_of_one_target_has_nothing_to_contrast_when_it_is_excluded(seed, exclude):
    queries, keys = drawn(seed, 4, 3).requires_grad_(), drawn(seed + 1, 4, 3)
    loss = in_batch_contrastive(queries, keys, torch.ones(4, 4, dtype=torch.bool), 0.2, exclude)
    loss.backward()
    assert queries.grad.isfinite().all()
    assert (loss.item() == pytest.approx(0.0, abs=1e-6)) == exclude


@given(seed=SEEDS, N=st.integers(1, 20), C=st.integers(1, 9), data=st.data())
def test_category_loss_is_its_dense_version(seed, N, C, data):
    sets = data.draw(st.lists(st.sets(st.integers(1, C), max_size=C), min_size=N, max_size=N))
    width = max(1, max(map(len, sets)))
    categories = torch.tensor([sorted(row) + [0] * (width - len(row)) for row in sets])
    logits = drawn(seed, N, C, scale=2.0)
    total = 0.0
    for row, mine in zip(logits.double().tolist(), sets, strict=True):
        for number, logit in enumerate(row, start=1):
            probability = 1 / (1 + math.exp(-logit))
            total -= math.log(probability if number in mine else 1 - probability)
    assert category_loss(logits, categories).item() == pytest.approx(total / (N * C), rel=1e-5, abs=1e-6)


@given(seed=st.integers(0, 2**31 - 1))
def test_weights_of_one_over_the_probability_estimate_the_normaliser_without_bias(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    hidden, vectors = torch.randn(3, 4, generator=rng), torch.randn(12, 4, generator=rng)
    targets = torch.tensor([1, 5, 11])
    weights = torch.rand(12, generator=rng) * 3
    weights[0] = 0
    expected = []
    for row, target in enumerate(targets.tolist()):
        scores = (vectors @ hidden[row]).double()
        others = sum(float(weights[v]) * math.exp(scores[v]) for v in range(1, 12) if v != target)
        expected.append(math.log(others + math.exp(scores[target])) - float(scores[target]))
    loss = softmax_loss(hidden, vectors, targets, log_weights=weights.log())
    assert float(loss) == pytest.approx(sum(expected) / 3, rel=1e-5)
