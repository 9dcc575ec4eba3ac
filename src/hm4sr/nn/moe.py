"""The two levels of experts (paper section 4.2). Modalities stand side by side: "B L M D"."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hm4sr.nn.init import constant, linear, normal, uniform, zeros


class InteractiveMoE(nn.Module):
    """For each modality, experts that read all of them, routed by the modality's own vector (eq. 7-10).

    Args:
        modalities: M, the ID first.
        dim: width of one modality (D).
        experts: K.
        strength: start of alpha for each modality.
        rng: draws the weights.
        aware: let every gate know which modalities an item lacks, by a learned shift for each of them.
    """

    def __init__(
        self,
        modalities: int,
        dim: int,
        experts: int,
        strength: list[float],
        rng: torch.Generator,
        aware: bool = False,
    ):
        super().__init__()
        # Nearer to zero than a layer of D inputs would start it; all measured figures have it so.
        bound = 1 / math.sqrt(modalities * dim)
        self.experts = linear(modalities * dim, modalities * experts * dim, rng, std=None)
        self.gate_weight = uniform(modalities, dim, experts, bound=1 / math.sqrt(dim), rng=rng)
        self.gate_bias = uniform(modalities, experts, bound=bound, rng=rng)
        self.missing_shift = zeros(modalities - 1, modalities, experts) if aware else None
        self.strength = constant(strength)
        """alpha: how much of the other modalities each one takes up."""

    def gates(
        self, e: Float[Tensor, "B L M D"], missing: Bool[Tensor, "B L _"] | None = None
    ) -> Float[Tensor, "B L M K"]:
        """Weight of each expert (eq. 9)."""
        logits: Tensor = torch.einsum("blmd,mdk->blmk", e, self.gate_weight) + self.gate_bias
        if self.missing_shift is not None and missing is not None:
            logits = logits + torch.einsum("bln,nmk->blmk", missing.to(logits.dtype), self.missing_shift)
        return logits.softmax(-1)

    def forward(
        self,
        e: Float[Tensor, "B L M D"],
        missing: Bool[Tensor, "B L _"] | None = None,
        found: Float[Tensor, "B L E"] | None = None,
    ) -> Float[Tensor, "B L M D"]:
        """Add to each modality what its experts find in all of them.

        Args:
            e: vectors of the events.
            missing: which modalities beside the ID their items lack; None where all have all.
            found: what the experts find in `e`, where that is known already (E = M K D).
        """
        B, L, M, D = e.shape
        found = self.experts(e.flatten(2)) if found is None else found
        found = found.view(B, L, M, self.gate_weight.shape[2], D)
        mixed: Tensor = (self.gates(e, missing).unsqueeze(-2) @ found).squeeze(-2)
        return e + self.strength[:, None] * mixed


class TemporalMoE(nn.Module):
    """Experts that re-weight the features, routed by explicit time alone (eq. 14-16). No residual."""

    def __init__(self, width: int, time_width: int, experts: int, trainable: bool, rng: torch.Generator):
        super().__init__()
        self.gate = linear(time_width, experts, rng)
        weights = normal(experts, width, std=0.1, rng=rng)
        if trainable:
            self.experts = weights
        else:
            self.register_buffer("experts", weights.data)

    def gates(self, time: Float[Tensor, "B L T"]) -> Float[Tensor, "B L K"]:
        """Weight of each expert (eq. 14)."""
        weights: Tensor = self.gate(time).softmax(-1)
        return weights

    def forward(self, e: Float[Tensor, "B L M D"], time: Float[Tensor, "B L T"]) -> Float[Tensor, "B L M D"]:
        """Multiply the features by the experts that the time calls for."""
        return e * (self.gates(time) @ self.experts).view(e.shape)
