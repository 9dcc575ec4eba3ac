"""Dropout whose masks come from a generator that is passed in, eight elements a draw."""

import torch
from torch import Tensor, nn

_LEVELS = 256


class Dropout(nn.Module):
    """Zeroes elements with probability `p` and scales the rest, in training only.

    One 64-bit draw serves eight elements, so `p` is rounded to a multiple of 1/256; the scale uses the
    rounded value, so the expectation is exact. Drawing a float for each element took a sixth of a step.
    """

    def __init__(self, p: float, rng: torch.Generator):
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {p}")
        self.dropped = min(round(p * _LEVELS), _LEVELS - 1)
        self.scale = _LEVELS / (_LEVELS - self.dropped)
        self.rng = rng

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input."""
        if not self.training or self.dropped == 0:
            return x
        return x * self.mask(x.shape, x.device, x.dtype)

    def mask(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
        """A fresh mask of zeros and `scale`."""
        count = shape.numel()
        words = torch.empty((count + 7) // 8, dtype=torch.int64, device=device)
        if not words.is_meta:
            words.random_(-(2**63), None, generator=self.rng)
        keep = words.view(torch.uint8)[:count] >= self.dropped
        return keep.view(shape).to(dtype).mul_(self.scale)

    def extra_repr(self) -> str:
        """Shown by `print(model)`."""
        return f"p={self.dropped / _LEVELS}"
