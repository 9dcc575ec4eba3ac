"""Experts of the text-based baselines: whitening experts with a noisy gate, and gated feed-forward parts."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import linear, normal, zeros
from hm4sr.nn.projection import FrozenFeatures
from hm4sr.types import ItemFeatures

_LEAST_NOISE = 0.01


class NoisyDenseMoE(nn.Module):
    """sum_k g_k (drop(x) - b_k) W_k: parametric whitening by several experts (UniSRec, section 2.1; TedRec).

    All experts take part; the gate is a softmax of x W_g, to which training adds noise of the learned
    standard deviation softplus(x W_n) + 0.01.

    Args:
        width: F, of a frozen feature.
        dim: D, of the result.
        experts: K.
        dropout: of the feature.
        gate_noise: scale of the noise; 0 for none.
        own_masks: each expert drops other elements of the feature, which costs K times as much.
        rng: source of the weights, of dropout and of the noise.
        positions: P, if every position of a sequence has a bias of its own.
    """

    def __init__(
        self,
        width: int,
        dim: int,
        experts: int,
        dropout: float,
        gate_noise: float,
        own_masks: bool,
        rng: torch.Generator,
        positions: int | None = None,
    ):
        super().__init__()
        self.gate_noise, self.own_masks = gate_noise, own_masks
        self.weight = normal(experts, width, dim, std=0.02, rng=rng)
        self.bias = zeros(experts, width) if positions is None else zeros(experts, positions, width)
        self.gate = zeros(width, experts)
        self.noise = zeros(width, experts)
        self.dropout = Dropout(dropout, rng)

    def forward(self, x: Float[Tensor, "U F"]) -> Float[Tensor, "U D"]:
        """Map features that stand at no position."""
        gates = self.gates(x)
        return self.mix(gates, x) - gates @ self.shifts()

    def gates(self, x: Float[Tensor, "U F"]) -> Float[Tensor, "U K"]:
        """Weight of each expert."""
        logits = (x @ self.gate.to(x.dtype)).float()
        return self.route(logits, (x @ self.noise.to(x.dtype)).float() if self.training else logits)

    def route(self, logits: Float[Tensor, "U K"], spread: Float[Tensor, "U K"]) -> Float[Tensor, "U K"]:
        """Softmax of the logits, in training with noise of standard deviation softplus(spread) + 0.01."""
        if self.training:
            noise = torch.randn(logits.shape, generator=self.dropout.rng, device=logits.device)
            logits = logits + self.gate_noise * noise * (F.softplus(spread) + _LEAST_NOISE)
        return logits.softmax(-1)

    def mix(self, gates: Float[Tensor, "U K"], x: Float[Tensor, "U F"]) -> Float[Tensor, "U D"]:
        """sum_k g_k drop(x) W_k, all experts in one product."""
        K, width, D = self.weight.shape
        weight = self.weight.to(x.dtype)
        if self.own_masks and self.training:
            found = (self.dropout(x.expand(K, *x.shape)) @ weight).transpose(0, 1)
        else:
            found = (self.dropout(x) @ weight.transpose(0, 1).reshape(width, K * D)).view(-1, K, D)
        with torch.autocast(x.device.type, enabled=False):
            return torch.bmm(gates.float()[:, None], found.float())[:, 0]

    def shifts(self) -> Float[Tensor, "... D"]:
        """b_k W_k: K x D, or K x P x D."""
        if self.bias.ndim == 2:
            return (self.bias[:, None] @ self.weight)[:, 0].float()
        return (self.bias @ self.weight).float()


class FeatureExperts(FrozenFeatures):
    """One modality of the catalogue and the whitening experts that it passes."""

    def __init__(self, features: ItemFeatures, moe: NoisyDenseMoE):
        super().__init__(features)
        self.moe = moe


class ItemExperts(FeatureExperts):
    """Items through whitening experts; nothing where an item lacks the modality."""

    def forward(self, dtype: torch.dtype, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U D"]:
        """Map the given items, or the whole catalogue; `dtype` is the number format of the products."""
        missing = self.missing if items is None else self.missing[items]
        z: Tensor = self.moe(self.rows(dtype, items))
        return z.masked_fill(missing[:, None], 0.0)


class EventExperts(FeatureExperts):
    """Events of histories through whitening experts with a bias for each of `positions`.

    Where an event lacks the modality, or there is no event, the experts read zeros.
    """

    def forward(self, dtype: torch.dtype, items: Int[Tensor, "B P"]) -> Float[Tensor, "B P D"]:
        """Map histories of exactly P positions; `dtype` is the number format of the large product.

        The features of real events alone are read, for most of a batch of short histories is padding.
        """
        moe, present = self.moe, ~self.missing[items]
        K, _, D = moe.weight.shape
        x = self.rows(dtype, items[present])
        found = moe.gates(x)
        gates = found.new_zeros(*items.shape, K)
        gates[present] = found
        nothing = torch.zeros_like(gates[~present])
        gates[~present] = moe.route(nothing, nothing)
        mapped = found.new_zeros(*items.shape, D)
        mapped[present] = moe.mix(found, x).float()
        return mapped - torch.einsum("bpk,kpd->bpd", gates, moe.shifts()).float()


class GatedFeedForward(nn.Module):
    """sum_k g_k FFN_k(x) with g a softmax over all K experts; they act as one wide feed-forward part."""

    def __init__(self, dim: int, inner: int, experts: int, rng: torch.Generator):
        super().__init__()
        self.inner = inner
        self.gate = linear(dim, experts, rng)
        self.expand = linear(dim, experts * inner, rng)
        self.contract = linear(experts * inner, dim, rng, bias=False)
        self.bias = zeros(experts, dim)

    def gates(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... K"]:
        """Weight of each expert."""
        weights: Tensor = self.gate(x).softmax(-1)
        return weights

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Weight the experts' hidden layers, so that one product sums their outputs."""
        gates = self.gates(x)
        hidden = F.gelu(self.expand(x)).view(*gates.shape, self.inner)
        out: Tensor = self.contract((gates[..., None] * hidden).flatten(-2)) + gates @ self.bias
        return out
