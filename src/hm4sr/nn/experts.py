"""Experts of the text-based baselines: whitening experts with a noisy gate, and gated feed-forward parts."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hm4sr.nn.dropout import Dropout
from hm4sr.nn.init import linear, normal, zeros

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
        rng: source of the weights, of dropout and of the noise.
        positions: P, if every position of a sequence has a bias of its own.
        own_masks: each expert drops other elements of the feature, which costs K times as much.
    """

    def __init__(
        self,
        width: int,
        dim: int,
        experts: int,
        dropout: float,
        rng: torch.Generator,
        positions: int | None = None,
        own_masks: bool = False,
    ):
        super().__init__()
        self.own_masks = own_masks
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
        return self.route(
            (x @ self.gate.to(x.dtype)).float(), (x @ self.noise.to(x.dtype)).float() if self.training else None
        )

    def route(
        self, logits: Float[Tensor, "U K"], spread: Float[Tensor, "U K"] | None
    ) -> Float[Tensor, "U K"]:
        """Softmax of the gate's logits, with noise of standard deviation softplus(spread) + 0.01 in training."""
        if self.training and spread is not None:
            noise = torch.randn(logits.shape, generator=self.dropout.rng, device=logits.device)
            logits = logits + noise * (F.softplus(spread) + _LEAST_NOISE)
        return logits.softmax(-1)

    def mix(self, gates: Float[Tensor, "U K"], x: Float[Tensor, "U F"]) -> Float[Tensor, "U D"]:
        """sum_k g_k drop(x) W_k, all experts in one product."""
        K, width, D = self.weight.shape
        weight = self.weight.to(x.dtype)
        if self.own_masks and self.training:
            found = (self.dropout(x.expand(K, *x.shape)) @ weight).transpose(0, 1)
        else:
            found = (self.dropout(x) @ weight.transpose(0, 1).reshape(width, K * D)).view(-1, K, D)
        return (gates[..., None] * found).sum(1)

    def shifts(self) -> Float[Tensor, "... D"]:
        """b_k W_k: K x D, or K x P x D."""
        if self.bias.ndim == 2:
            return (self.bias[:, None] @ self.weight)[:, 0].float()
        return (self.bias @ self.weight).float()


class GatedFeedForward(nn.Module):
    """sum_k g_k FFN_k(x) with g a softmax over all K experts; they act as one wide feed-forward part."""

    def __init__(self, dim: int, inner: int, experts: int, rng: torch.Generator):
        super().__init__()
        self.gate = linear(dim, experts, rng)
        self.expand = linear(dim, experts * inner, rng)
        self.contract = linear(experts * inner, dim, rng, bias=False)
        self.bias = zeros(experts, dim)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Weight the experts' hidden layers, so that one product sums their outputs."""
        gates = self.gate(x).softmax(-1)
        hidden = F.gelu(self.expand(x)).unflatten(-1, (len(self.bias), -1))
        out: Tensor = self.contract((gates[..., None] * hidden).flatten(-2)) + gates @ self.bias
        return out
