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
    """One modality's vectors as a constant: not part of the state that is saved, without a gradient."""

    features: Tensor
    missing: Tensor

    def __init__(self, features: ItemFeatures):
        super().__init__()
        device = torch.empty(0).device
        self.register_buffer("features", features.vectors.to(device), persistent=False)
        self.register_buffer("missing", ~features.present.to(device), persistent=False)
        self._converted: Tensor | None = None

    def rows(self, dtype: torch.dtype, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U F"]:
        """The vectors of some items, or of the whole catalogue, in a number format."""
        return self._features_in(dtype) if items is None else self.features[items].to(dtype)

    def _features_in(self, dtype: torch.dtype) -> Tensor:
        """The features in another number format, converted once."""
        if self._converted is None or self._converted.dtype != dtype:
            self._converted = self.features.to(dtype)
        return self._converted


class FeatureProjection(FrozenFeatures):
    """x = W f + b for every item of the catalogue; a learned stand-in where f is missing (eq. 4-5)."""

    def __init__(self, features: ItemFeatures, dim: int, rng: torch.Generator, learn_missing: bool = True):
        super().__init__(features)
        self.linear = linear(features.vectors.shape[1], dim, rng)
        absent = not bool(features.present[1:].all())
        self.stand_in = normal(dim, std=0.02, rng=rng) if learn_missing and absent else None

    def forward(self, dtype: torch.dtype, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U D"]:
        """Project the given items, or the whole catalogue.

        Args:
            dtype: number format of the product; the result is float32.
            items: item numbers.
        """
        if items is not None:
            x, missing = self._project(self.features[items].to(dtype)), self.missing[items]
        elif torch.is_grad_enabled() or self.features.dtype == dtype:
            x, missing = self._project(self._features_in(dtype)), self.missing
        else:  # a chunk at a time, so that large half-width tables are never widened whole
            chunks = [self._project(chunk.to(dtype)) for chunk in torch.split(self.features, _CHUNK_ROWS)]
            x, missing = torch.cat(chunks), self.missing
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
        x = self._project(features.vectors.to(device, torch.float32))
        stand_in = self.stand_in
        if stand_in is None and mean_if_missing:
            stand_in = self(torch.float32)[1:].mean(0)
        return x if stand_in is None else torch.where(features.present.to(device)[:, None], x, stand_in)

    def _project(self, features: Float[Tensor, "U F"]) -> Float[Tensor, "U D"]:
        if features.dtype == torch.float32:
            plain: Tensor = self.linear(features)
            return plain
        product = _FrozenProduct.apply(features, self.linear.weight)  # type: ignore[no-untyped-call]
        x: Tensor = product + self.linear.bias
        return x


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
