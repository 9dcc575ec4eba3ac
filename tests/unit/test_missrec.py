"""MISSRec: clusters against brute force, interests as sets, and scores that do not factorise."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_training import interrupt_after, make_dataset
from torch import Tensor

from contract.catalogs import batch_of, histories, small_catalog, small_model
from hm4sr.models import missrec
from hm4sr.models.missrec import MISSRec
from hm4sr.nn.clustering import density_peaks, kmeans, nearest
from hm4sr.training.run import train_run
from hm4sr.training.settings import Experiment


def build(**settings: object) -> MISSRec:
    model = small_model("missrec", **settings)
    assert isinstance(model, MISSRec)
    return model


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(spread: float = 0.1) -> tuple[Tensor, Tensor]:
    """Sixty points around five centres far apart, and which centre each belongs to."""
    centres = 10 * torch.eye(5)
    belongs = torch.arange(60) % 5
    return centres[belongs] + spread * torch.randn(60, 5, generator=rng(3)), belongs


# Clusters


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 9))
def test_the_nearest_centroid_is_that_of_brute_force(seed, num_points, num_centroids):
    points = torch.randn(num_points, 3, generator=rng(seed))
    centroids = torch.randn(num_centroids, 3, generator=rng(seed + 1))
    for point, found in zip(points, nearest(points, centroids).tolist(), strict=True):
        distances = [math.dist(point.tolist(), centroid) for centroid in centroids.tolist()]
        assert distances[found] == pytest.approx(min(distances), abs=1e-5)


def test_kmeans_ends_at_a_fixed_point():
    points, _ = blobs(spread=4.0)
    centroids, assigned = kmeans(points, 7, 1_000, rng())
    assert torch.equal(assigned, nearest(points, centroids))
    for cluster in assigned.unique().tolist():
        torch.testing.assert_close(centroids[cluster], points[assigned == cluster].mean(0))


def test_kmeans_moves_each_centroid_to_the_mean_of_what_was_assigned_to_it():
    points, _ = blobs(spread=4.0)
    start = points[torch.randperm(60, generator=rng())[:7]]
    before = nearest(points, start)
    centroids, assigned = kmeans(points, 7, 1, rng())
    for cluster in range(7):
        members = points[before == cluster]
        expected = torch.stack([sum(members[:, d]) / len(members) for d in range(5)])
        torch.testing.assert_close(centroids[cluster], expected)
    assert torch.equal(assigned, nearest(points, centroids))


def test_a_cluster_that_loses_its_points_keeps_its_place():
    points = torch.ones(4, 2)  # all alike: the first centroid gets every point
    centroids, assigned = kmeans(points, 3, 5, rng())
    assert torch.equal(centroids, torch.ones(3, 2))
    assert not assigned.any()


def test_density_peaks_are_the_centres_of_dense_places():
    points, belongs = blobs()
    centroids, assigned = density_peaks(points, 5, 4)
    for centre in range(5):
        assert len(assigned[belongs == centre].unique()) == 1
    assert len(assigned.unique()) == 5
    assert all((centroid == points).all(1).any() for centroid in centroids)


def test_density_peaks_are_chosen_as_the_definition_says():
    points = torch.randn(20, 3, generator=rng(5))
    distance = [[math.dist(a, b) for b in points.tolist()] for a in points.tolist()]
    spread = [sum(d**2 for d in sorted(row)[1:4]) / 3 for row in distance]
    density = [math.exp(-s) for s in spread]
    scores = []
    for i in range(20):
        denser = [distance[i][j] for j in range(20) if density[j] > density[i]]
        scores.append(density[i] * (min(denser) if denser else max(distance[i])))
    best = sorted(range(20), key=lambda i: -scores[i])[:4]
    centroids, _ = density_peaks(points, 4, 3)
    assert {tuple(row) for row in centroids.tolist()} == {tuple(points[i].tolist()) for i in best}


@pytest.mark.parametrize("clustering", ["kmeans", "density-peaks"])
def test_every_feature_belongs_to_its_nearest_cluster_and_a_missing_one_to_none(clustering):
    model = build(clustering=clustering)
    present = torch.stack([model.catalog.features[name].present for name in ("image", "text")], dim=1)
    assert torch.equal(model.clusters > 0, present)
    assert len(model.centroids) - 1 == math.ceil(0.5 * int(present.sum()))
    assert not model.centroids[0].any()
    _, image, text = model.item_states().detach().chunk(3, dim=1)
    for m, vectors in enumerate((image, text)):
        for item in present[:, m].nonzero()[:, 0].tolist():
            distances = (model.centroids[1:] - vectors[item]).norm(dim=1)
            chosen = distances[model.clusters[item, m] - 1]
            assert float(chosen) == pytest.approx(float(distances.min()), abs=1e-5)


def test_clusters_follow_the_projections_from_epoch_to_epoch():
    model = build()
    before = model.centroids.clone()
    with torch.no_grad():
        for projection in model.projections.values():
            projection.linear.weight.mul_(3)
    assert torch.equal(model.centroids, before)
    model.start_epoch(2)
    assert model.centroids.norm() > 2 * before.norm()
    assert not model.centroids.requires_grad


# Interests


def test_interests_are_the_distinct_clusters_of_the_history():
    model, batch = build().eval(), histories([9, 2, 5])
    batch.items[2, :3] = batch.items[2, 0]
    memory, empty = model.interests(batch.items)
    for row, items in enumerate(batch.items.tolist()):
        expected = {c for item in items if item for c in model.clusters[item].tolist()} - {0}
        assert int((~empty[row]).sum()) == len(expected)
    assert memory.shape[:2] == empty.shape
    assert empty[:, -1].all()


def test_a_history_without_any_feature_has_no_interests_and_still_an_answer():
    catalog = small_catalog()
    features = {
        name: replace(given, present=given.present.clone()) for name, given in catalog.features.items()
    }
    for given_features in features.values():
        given_features.present[[1, 2]] = False
    model = build(catalog=replace(catalog, features=features)).eval()
    batch = batch_of(torch.tensor([[1, 2, 1, 3]]), torch.zeros(1, 3, dtype=torch.int64), torch.tensor([3]))
    _, empty = model.interests(batch.items)
    assert empty.all()
    with torch.no_grad():
        assert model.scores(batch, model.item_vectors())[:, 1:].isfinite().all()


def test_order_of_the_history_does_not_change_its_interests():
    model, batch = build().eval(), histories([6])
    shuffled = batch.items[:, [3, 0, 5, 1, 4, 2]]
    for one, other in zip(model.interests(batch.items), model.interests(shuffled), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("penalty", ["masked-mean", "official"])
def test_the_penalty_is_what_it_says_and_does_not_grow_with_the_batch(penalty):
    model, batch = build(penalty=penalty, interest_weight=1.0).eval(), histories([9, 2, 5], parallel=False)
    memory, empty = (part.detach() for part in model.interests(batch.items))
    expected = []
    for slots, missing in zip(memory, empty, strict=True):
        if penalty == "official":
            mean = slots.sum(0) * float((~missing).sum()) / len(missing)
        else:
            mean = slots[~missing].mean(0)
        expected.append(float(mean @ mean) / 16)
    given_penalty = float(model.losses(batch)["interests"].detach())
    assert given_penalty == pytest.approx(512 / 3 * sum(expected), rel=1e-4)


@pytest.mark.parametrize("layers", [2, 4])
def test_the_newest_event_alone_gives_what_all_positions_give_there(layers):
    model, batch = build(layers=layers).eval(), histories([6, 1, 4])
    states = model.item_states()[batch.items]
    expected = model.read(states, batch)[torch.arange(3), batch.lengths - 1]
    torch.testing.assert_close(model.read_newest(states, batch), expected)


# Scores


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("fusion", ["dynamic", "static"])
@pytest.mark.parametrize("modalities", [("image", "text"), ("text",), ("a", "b", "c")])
def test_scores_follow_the_formula(fusion, modalities):
    model = build(catalog=small_catalog(modalities=modalities), fusion=fusion).eval()
    phi = 0.0
    if model.phi is not None:
        phi = 2.5
        model.phi.data.fill_(phi)
    batch = histories([4, 2])
    with torch.no_grad():
        query, states = model.last_hidden(batch), model.item_states()
        scores = model.scores(batch, model.item_vectors())
    m = len(modalities)
    for row in range(2):
        for item in (1, 8, 40):
            x_id, *rest = (cosine(query[row], part) for part in states[item].chunk(m + 1))
            powers = [math.exp(phi * x) for x in rest]
            fused = sum(p * x for p, x in zip(powers, rest, strict=True)) / sum(powers)
            assert float(scores[row, item]) == pytest.approx((x_id + m * fused) / (1 + m) / 0.07, abs=1e-3)


def test_one_learned_number_weighs_the_modalities_where_there_are_several():
    assert build().phi.numel() == 1
    assert build(fusion="static").phi is None
    assert build(catalog=small_catalog(modalities=("text",))).phi is None


@pytest.mark.parametrize("chunk", [50, 10**9])
def test_the_loss_and_its_gradient_are_those_of_all_logits_whatever_the_chunk(monkeypatch, chunk):
    monkeypatch.setattr(missrec, "_CHUNK_ELEMENTS", chunk)
    model, batch = build(interest_weight=0.0).eval(), histories([9, 1, 2, 5], parallel=False)
    model.phi.data.fill_(1.5)
    model.losses(batch)["main"].backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    scores = model.scores(batch, model.item_vectors())
    targets = batch.targets[batch.targets > 0]
    expected = torch.nn.functional.cross_entropy(scores, targets)
    expected.backward()
    assert float(model.losses(batch)["main"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_sampled_loss_with_many_draws_is_the_full_one():
    catalog = replace(small_catalog(), target_counts=torch.arange(41))
    model, batch = build(catalog=catalog).eval(), histories([9, 1, 2, 5], parallel=False)
    model.phi.data.fill_(1.5)
    full = float(model.losses(batch)["main"].detach())
    model.negatives = 2_000
    assert float(model.losses(batch)["main"].detach()) == pytest.approx(full, rel=1e-3)


def test_clusters_are_saved_and_a_resumed_run_is_the_same_to_the_last_bit(tmp_path: Path):
    dataset = make_dataset(tmp_path / "walks")
    experiment = Experiment.build(
        {
            "data": {"path": str(dataset.path), "max_length": 8},
            "model": {"name": "missrec", "dim": 8, "inner": 16},
            "train": {"epochs": 3, "batch_targets": 64},
        },
        "test",
    )
    whole = train_run(experiment, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_run(experiment, tmp_path / "halved", on_epoch=interrupt_after(1))
    halved = train_run(experiment, tmp_path / "halved", resume=True)
    assert halved.report["test"] == whole.report["test"]
    assert [row["losses"] for row in halved.metrics()] == [row["losses"] for row in whole.metrics()]
    model, again = whole.load_model(dataset), halved.load_model(dataset)
    assert model.clusters[1:].any()
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), again.buffers(), strict=True))
    batch = histories([3], 25)
    assert torch.equal(model.scores(batch, model.item_vectors()), again.scores(batch, again.item_vectors()))
