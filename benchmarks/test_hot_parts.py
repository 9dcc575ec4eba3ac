"""Micro-benchmarks of the hot parts, at the size of Amazon Games: `pytest benchmarks`.

One batch of 1,024 targets, 10,672 items, 64-wide vectors of three modalities.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hm4sr.data.batches import TrainingBatches, make_batch, training_windows
from hm4sr.data.dataset import EventLog
from hm4sr.evaluation.ranking import target_ranks
from hm4sr.features.synthetic import SyntheticConfig, synthesize
from hm4sr.nn.attention import SequenceEncoder
from hm4sr.nn.dropout import Dropout
from hm4sr.nn.losses import category_loss, in_batch_contrastive, softmax_loss
from hm4sr.nn.moe import InteractiveMoE, TemporalMoE
from hm4sr.nn.projection import FeatureProjection
from hm4sr.runtime import choose_precision, keep_freed_memory
from hm4sr.types import ItemFeatures

N, V, D, M, LENGTH, WIDTH = 1024, 10_673, 64, 3, 16, 768
LOW = choose_precision("auto", torch.device("cpu"))

keep_freed_memory()


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(1)


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> EventLog:
    sizes = {"users": 5_000, "items": 2_000, "events": 50_000, "modalities": ()}
    folder: Path = tmp_path_factory.mktemp("bench") / "data"
    return synthesize(SyntheticConfig.parse(sizes, "benchmarks"), folder).events


def forward_and_backward(function, *inputs):
    """Run a function of tensors and its gradient; autocast as in training."""

    def run():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        with torch.autocast("cpu", dtype=LOW, enabled=LOW is not torch.float32):
            out = function(*leaves)
        out.float().sum().backward()
        return leaves[0].grad

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_softmax_over_the_catalogue(benchmark, rng, dtype):
    hidden, vectors = torch.randn(N, M * D, generator=rng), torch.randn(V, M * D, generator=rng) * 0.1
    targets = torch.randint(1, V, (N,), generator=rng)
    run = forward_and_backward(lambda h, v: softmax_loss(h, v, targets, dtype), hidden, vectors)
    assert benchmark(run).isfinite().all()


def test_plain_softmax_for_comparison(benchmark, rng):
    hidden, vectors = torch.randn(N, M * D, generator=rng), torch.randn(V, M * D, generator=rng) * 0.1
    targets = torch.randint(1, V, (N,), generator=rng)
    run = forward_and_backward(lambda h, v: F.cross_entropy(h @ v.T, targets), hidden, vectors)
    assert benchmark(run).isfinite().all()


def test_projection_of_the_catalogue(benchmark, rng):
    present = torch.arange(V) > 0
    features = ItemFeatures(torch.randn(V, WIDTH, generator=rng), present)
    project = FeatureProjection(features, D, rng)
    run = forward_and_backward(lambda scale: project(LOW) * scale, torch.ones(1))
    assert benchmark(run).isfinite().all()


def test_encoder_of_one_modality(benchmark, rng):
    encoder = SequenceEncoder(D, 2, 2, 4 * D, 0.5, 0.5, rng).train()
    assert benchmark(forward_and_backward(encoder, torch.randn(N // LENGTH, LENGTH, D, generator=rng))).any()


def test_last_position_of_the_encoder(benchmark, rng):
    encoder = SequenceEncoder(D, 2, 2, 4 * D, 0.5, 0.5, rng).eval()
    x, last = torch.randn(N // LENGTH, LENGTH, D, generator=rng), torch.full((N // LENGTH,), LENGTH)
    with torch.inference_mode():
        assert benchmark(encoder.newest, x, last).isfinite().all()


def test_both_mixtures_of_experts(benchmark, rng):
    interactive = InteractiveMoE(M, D, 4, [0.0, 1.0, 1.0], rng)
    temporal = TemporalMoE(M * D, 2 * D, 4, True, rng)
    x = torch.randn(N // LENGTH, LENGTH, M, D, generator=rng)
    time = torch.randn(N // LENGTH, LENGTH, 2 * D, generator=rng)
    assert benchmark(forward_and_backward(lambda e: temporal(interactive(e), time), x)).isfinite().all()


def test_contrast_within_the_batch(benchmark, rng):
    queries, keys = torch.randn(2, N, D, generator=rng)
    same = torch.eye(N, dtype=torch.bool)
    run = forward_and_backward(lambda q, k: in_batch_contrastive(q, k, same, 0.2), queries, keys)
    assert benchmark(run).isfinite().all()


def test_category_prediction(benchmark, rng):
    logits, categories = torch.randn(N, 190, generator=rng), torch.randint(0, 191, (N, 3), generator=rng)
    assert benchmark(forward_and_backward(lambda x: category_loss(x, categories), logits)).any()


def test_dropout_mask(benchmark, rng):
    mask = Dropout(0.5, rng).mask
    assert benchmark(mask, torch.Size([N, 4 * D]), torch.device("cpu"), torch.float32).any()


def test_an_epoch_of_batches(benchmark, log):
    batches = TrainingBatches(log, training_windows(log, 50, True), N)

    def epoch():
        groups = batches.epoch(np.random.default_rng(1))
        return sum(int((make_batch(log, windows).targets > 0).sum()) for windows in groups)

    assert benchmark(epoch) == batches.num_targets


def test_ranks_of_a_chunk(benchmark, rng):
    scores = torch.randn(384, V, generator=rng)
    assert benchmark(target_ranks, scores, torch.randint(1, V, (384,), generator=rng)).min() >= 1
