"""Stored hidden states of frozen encoders, and small networks beside them (IISAN, section 3)."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hm4sr.errors import UserError
from hm4sr.nn.init import linear, zeros
from hm4sr.nn.projection import mean_present
from hm4sr.types import ItemFeatures

LevelRule = Literal["even", "all", "last"]
_GATE_TEMPERATURE = 0.1


def chosen_levels(rule: LevelRule, blocks: Mapping[str, int]) -> dict[str, list[int]]:
    """Which blocks (1..J) of each encoder are read, as many of each, the last one always.

    Args:
        rule: every second block, all of them, or the last half.
        blocks: J of each modality; a deeper encoder is read at wider steps than the shallowest one.
    """
    shallowest = min(blocks.values())
    count = shallowest if rule == "all" else max(1, shallowest // 2)
    if rule == "last":
        return {name: list(range(J - count + 1, J + 1)) for name, J in blocks.items()}
    return {name: [(i * J) // count for i in range(1, count + 1)] for name, J in blocks.items()}


class CachedLevels(nn.Module):
    """One modality's hidden states as a constant: the common start, then the chosen blocks.

    Args:
        features: with the hidden states of an encoder.
        blocks: which of them (1..J).
        center: give the states of each block minus their mean over the items that have them, in units of
            the root mean square of what is left of the last block, and the start in these units. An encoder's
            states share a large common part, and differ from encoder to encoder in scale.
    """

    start: Tensor
    levels: Tensor

    def __init__(self, features: ItemFeatures, blocks: list[int], center: bool):
        super().__init__()
        assert features.levels is not None
        assert features.start is not None
        device = torch.empty(0).device
        levels, start = features.levels[:, [block - 1 for block in blocks]], features.start
        if center and not levels.is_meta:
            start = (start / _center(levels, features.present)).to(start.dtype)
        self.register_buffer("levels", levels.to(device), persistent=False)
        self.register_buffer("start", start.to(device), persistent=False)

    def forward(self, items: Int[Tensor, "U"]) -> list[Float[Tensor, "#U F"]]:
        """States of the items at the start (one row for all) and after each chosen block, in float32."""
        levels = self.levels[items].float()
        return [self.start.float()[None], *levels.unbind(1)]


def _center(levels: Float[Tensor, "V J F"], present: Bool[Tensor, "V"]) -> Float[Tensor, ""]:
    """In place: minus the mean of the present rows, over the last block's root mean square without it.

    That is returned.
    """
    for block in levels.unbind(1):
        block -= mean_present(block, present)
    left = levels[present, -1]
    scale: Tensor = torch.linalg.vector_norm(left, dtype=torch.float64) / math.sqrt(max(1, left.numel()))
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    levels /= scale
    return scale


def stored_levels(
    features: Mapping[str, ItemFeatures], rule: LevelRule, model: str, center: bool
) -> dict[str, CachedLevels]:
    """The levels of every modality, by name; `center` as in `CachedLevels`.

    Raises:
        UserError: the hidden states of one were not kept.
    """
    for name, given in features.items():
        if given.levels is None or given.start is None:
            raise UserError(
                f"model.name = {model!r} reads the hidden states of the encoders, which features {name!r} "
                "lack: extract them with `hm4sr features DATASET --levels`, or leave that modality out of "
                "data.features."
            )
    blocks = {name: given.levels.shape[1] for name, given in features.items() if given.levels is not None}
    return {
        name: CachedLevels(features[name], chosen, center)
        for name, chosen in chosen_levels(rule, blocks).items()
    }


class Adapter(nn.Module):
    """x + W_up relu(W_down x), small at the start."""

    def __init__(self, width: int, inner: int, rng: torch.Generator):
        super().__init__()
        self.down = linear(width, inner, rng, std=0.01)
        self.up = linear(inner, width, rng, std=0.01)

    def forward(self, x: Float[Tensor, "U F"]) -> Float[Tensor, "U F"]:
        """Same shape as the input."""
        out: Tensor = x + self.up(self.down(x).relu())
        return out


class IntraModalTower(nn.Module):
    """s <- A_i(g_i H_i + (1 - g_i) s) along the levels of one modality, from s = 0."""

    def __init__(self, width: int, inner: int, levels: int, rng: torch.Generator):
        super().__init__()
        self.gates = zeros(levels)
        self.adapters = nn.ModuleList(Adapter(width, inner, rng) for _ in range(levels))

    def forward(self, levels: list[Float[Tensor, "#U F"]]) -> Float[Tensor, "U F"]:
        """What is left at the last level."""
        state = torch.zeros_like(levels[-1])
        for gate, level, adapter in zip(self.mixture(), levels, self.adapters, strict=True):
            state = adapter(gate * level + (1 - gate) * state)
        return state

    def mixture(self) -> Float[Tensor, "J"]:
        """g: how much of each level enters; one half at the start."""
        return (self.gates / _GATE_TEMPERATURE).sigmoid()


class InterModalTower(nn.Module):
    """s <- A_i(s + sum_m g_im H_im) along the levels of all modalities, from s = 0.

    With two modalities g is (sigmoid, 1 - sigmoid) of one number, with more a softmax. The first modality
    gives the width; others of another width are mapped to it.
    """

    def __init__(self, widths: list[int], inner: int, levels: int, rng: torch.Generator):
        super().__init__()
        self.gates = zeros(levels, len(widths) - 1)
        self.adapters = nn.ModuleList(Adapter(widths[0], inner, rng) for _ in range(levels))
        self.maps = nn.ModuleList(
            nn.Identity() if width == widths[0] else linear(width, widths[0], rng, std=None, bias=False)
            for width in widths
        )

    def mixture(self, present: Bool[Tensor, "U M"]) -> Float[Tensor, "J U M"]:
        """g: the share of each modality; what an item lacks has none."""
        logits = F.pad(self.gates / _GATE_TEMPERATURE, (0, 1))
        shares = logits.softmax(1)[:, None] * present
        return shares / shares.sum(2, keepdim=True).clamp_min(1e-9)

    def forward(
        self, levels: list[list[Float[Tensor, "_ _"]]], present: Bool[Tensor, "U M"]
    ) -> Float[Tensor, "U F"]:
        """What is left at the last level; `levels` holds a list for each modality."""
        state: Tensor = torch.zeros((), device=present.device)
        for shares, adapter, *level in zip(self.mixture(present), self.adapters, *levels, strict=True):
            mapped = [shares[:, m, None] * fit(level[m]) for m, fit in enumerate(self.maps)]
            state = adapter(state + torch.stack(mapped).sum(0))
        return state
