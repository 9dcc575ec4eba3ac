"""Linear maps of frozen item features."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hm4sr.nn.init import linear, normal
from hm4sr.types import ItemFeatures

_CHUNK_ROWS = 65_536


def by_rows(
    function: Callable[[Int[Tensor, "U"]], Tensor], num_rows: int, device: torch.device
) -> Float[Tensor, "V Q"]:
    """What `function` makes of the items 0..V-1, some at a time, so that what lies between is never whole."""
    items = torch.arange(num_rows, device=device)
    return torch.cat([function(chunk) for chunk in torch.split(items, _CHUNK_ROWS)])


def presence(features: Mapping[str, ItemFeatures]) -> Bool[Tensor, "V M"]:
    """Which modalities each item has, in the order of their names."""
    columns = [given.present for _, given in sorted(features.items())]
    return torch.stack(columns, dim=1).to(torch.empty(0).device)


class FrozenFeatures(nn.Module):
    """One modality's vectors as a constant: not part of the state that is saved, without a gradient.

    Attributes:
        here: the items that stand for the whole catalogue in this process, where item tables are sharded.
    """

    features: Tensor
    missing: Tensor

    def __init__(self, features: ItemFeatures):
        super().__init__()
        device = torch.empty(0).device
        self.register_buffer("features", features.vectors.to(device), persistent=False)
        self.register_buffer("missing", ~features.present.to(device), persistent=False)
        self._converted: Tensor | None = None
        self.here = slice(None)

    def rows(self, dtype: torch.dtype, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U F"]:
        """The vectors of some items, or of the whole catalogue, in a number format."""
        if items is None:
            return self._features_in(dtype)
        return self._convert(self.features[items], self.missing[items], dtype)

    def _features_in(self, dtype: torch.dtype) -> Tensor:
        """The features in another number format, converted once for each device."""
        made = self._converted
        if made is None or (made.dtype, made.device) != (dtype, self.features.device):
            made = self._converted = self._convert(self.features[self.here], self.missing[self.here], dtype)
        return made

    def _convert(
        self, features: Float[Tensor, "U F"], missing: Bool[Tensor, "U"], dtype: torch.dtype
    ) -> Float[Tensor, "U F"]:
        return features.to(dtype)


class FeatureProjection(FrozenFeatures):
    """x = W f + b for every item of the catalogue; a learned stand-in where f is missing (eq. 4-5).

    Args:
        features: vectors of one modality.
        dim: width of the projection (D).
        rng: source of the weights.
        learn_missing: whether a missing f has a stand-in; otherwise zeros are projected.
        center: project f minus the mean of all f. The bias can express the same; but the vectors of a
            pretrained encoder share a large common part, and without it the rest is learned sooner.
    """

    mean: Tensor | None

    def __init__(
        self,
        features: ItemFeatures,
        dim: int,
        rng: torch.Generator,
        learn_missing: bool = True,
        center: bool = False,
    ):
        super().__init__(features)
        mean = None
        if center:
            mean = mean_present(features.vectors, features.present).to(self.features.device)
        self.register_buffer("mean", mean, persistent=False)
        self.linear = linear(features.vectors.shape[1], dim, rng)
        absent = not bool(features.present[1:].all())
        self.stand_in = normal(dim, std=0.02, rng=rng) if learn_missing and absent else None

    def forward(self, dtype: torch.dtype, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U D"]:
        """Project the given items, or the whole catalogue.

        Args:
            dtype: number format of the product; the result is float32.
            items: item numbers.
        """
        missing = self.missing[self.here if items is None else items]
        if items is not None:
            x = self._project(self.rows(dtype, items))
        elif torch.is_grad_enabled() or (self.mean is None and self.features.dtype == dtype):
            x = self._project(self._features_in(dtype))
        else:  # a chunk at a time, so that large tables are never converted whole
            pairs = zip(
                torch.split(self.features[self.here], _CHUNK_ROWS),
                torch.split(missing, _CHUNK_ROWS),
                strict=True,
            )
            x = torch.cat([self._project(self._convert(*pair, dtype)) for pair in pairs])
        if self.stand_in is not None:
            x = torch.where(missing[:, None], self.stand_in, x)
        return x

    def new(self, features: ItemFeatures, mean_if_missing: bool) -> Float[Tensor, "U D"]:
        """Project items that were not there in training.

        Args:
            features: their vectors.
            mean_if_missing: where a modality is missing and no stand-in was learned, because none of the
                items of the training lacked it, give the mean of the catalogue.
        """
        device = self.linear.weight.device
        vectors, present = features.vectors.to(device), features.present.to(device)
        x = self._project(self._convert(vectors, ~present, torch.float32))
        stand_in = self.stand_in
        if stand_in is None and mean_if_missing:
            stand_in = self(torch.float32)[1:].mean(0)
        return x if stand_in is None else torch.where(present[:, None], x, stand_in)

    def _convert(
        self, features: Float[Tensor, "U F"], missing: Bool[Tensor, "U"], dtype: torch.dtype
    ) -> Float[Tensor, "U F"]:
        if self.mean is None:
            return features.to(dtype)
        return (features.float() - self.mean).masked_fill(missing[:, None], 0.0).to(dtype)

    def _project(self, features: Float[Tensor, "U F"]) -> Float[Tensor, "U D"]:
        if features.dtype == torch.float32:
            plain: Tensor = self.linear(features)
            return plain
        product = _FrozenProduct.apply(features, self.linear.weight)  # type: ignore[no-untyped-call]
        x: Tensor = product + self.linear.bias
        return x


def mean_present(vectors: Float[Tensor, "V F"], present: Bool[Tensor, "V"]) -> Float[Tensor, "F"]:
    """Mean of the vectors that are there, in float32."""
    chunks = (torch.split(whole, _CHUNK_ROWS) for whole in (vectors, present))
    sums = [there.double() @ rows.double() for rows, there in zip(*chunks, strict=True)]
    total: Tensor = torch.stack(sums).sum(0)
    return (total / present.sum().clamp_min(1)).float()


class _FrozenProduct(torch.autograd.Function):
    """features @ weight.T in the features' number format, float32 outside."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return (features @ weight.to(features.dtype).T).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (features,) = ctx.saved_tensors
        return None, (gradient.to(features.dtype).T @ features).float()
