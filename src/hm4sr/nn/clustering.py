"""Clusters of item vectors."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CHUNK_ELEMENTS = 8_000_000
"""Distances alive at a time: 32 MB in float32."""


def nearest(points: Float[Tensor, "N D"], centroids: Float[Tensor, "K D"]) -> Int[Tensor, "N"]:
    """Number of the nearest centroid of each point (Euclidean; the first of those that tie)."""
    # |x - c|^2 / 2 without the part that is the same for all c
    half_squares = centroids.square().sum(1) / 2
    chunks = torch.split(points, max(1, _CHUNK_ELEMENTS // len(centroids)))
    return torch.cat([torch.addmm(half_squares, chunk, centroids.T, alpha=-1).argmin(1) for chunk in chunks])


def kmeans(
    points: Float[Tensor, "N D"], num_clusters: int, passes: int, rng: torch.Generator
) -> tuple[Float[Tensor, "K D"], Int[Tensor, "N"]]:
    """Lloyd's algorithm from random points on: assign to the nearest centroid, move it to their mean.

    It ends before `passes` where nothing changes any more. A cluster that loses all its points keeps its
    place.

    Returns:
        the centroids, and the number of the nearest one of each point.
    """
    start = torch.randperm(len(points), generator=rng, device=points.device)[:num_clusters]
    centroids = points[start]
    assigned = nearest(points, centroids)
    for _ in range(passes):
        counts = torch.bincount(assigned, minlength=num_clusters)[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, assigned, points)
        centroids = torch.where(counts > 0, sums / counts.clamp_min(1), centroids)
        before, assigned = assigned, nearest(points, centroids)
        if torch.equal(before, assigned):
            break
    return centroids, assigned


def density_peaks(
    points: Float[Tensor, "N D"], num_clusters: int, neighbours: int
) -> tuple[Float[Tensor, "K D"], Int[Tensor, "N"]]:
    """Density peaks clustering with nearest neighbours, DPC-KNN (Du et al., Knowl.-Based Syst. 2016).

    A point is dense if its nearest neighbours are near: rho = exp(-mean squared distance). Centroids are the
    points with the largest rho delta, delta being the distance to the nearest denser point (for the densest
    one, to the farthest point).

    Returns:
        the centroids, and the number of the nearest one of each point.
    """
    neighbours = min(neighbours, len(points) - 1)
    numbers = torch.arange(len(points), device=points.device)
    chunks = torch.split(numbers, max(1, _CHUNK_ELEMENTS // len(points)))
    spread = torch.cat(
        [
            torch.cdist(points[rows], points)
            .topk(neighbours + 1, largest=False)
            .values[:, 1:]
            .square()
            .mean(1)
            for rows in chunks
        ]
    )
    delta = torch.empty_like(spread)
    for rows in chunks:
        distance = torch.cdist(points[rows], points)
        denser = spread < spread[rows, None]
        nearest_denser = distance.masked_fill(~denser, torch.inf).amin(1)
        delta[rows] = torch.where(denser.any(1), nearest_denser, distance.amax(1))
    chosen = (torch.log(delta) - spread).topk(num_clusters).indices
    centroids = points[chosen]
    return centroids, nearest(points, centroids)
