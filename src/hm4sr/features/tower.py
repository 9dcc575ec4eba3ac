"""One tower of a pretrained model, run so that its layers can be seen: the last, an earlier one, or all.

The states are caught where they leave a block, so that nothing but what is asked for is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hm4sr.errors import UserError
from hm4sr.features.encoder import Encoded, Modality, Pooling
from hm4sr.features.pretrained import load_model, quiet
from hm4sr.runtime import keep_freed_memory

_EAGER_TOKENS = 512
"""Up to here plain attention in bfloat16 is faster on a processor than the fused kernel, and closer."""

_TOWERS = {"text": "text_model", "image": "vision_model"}
_PROJECTIONS = {"text": "text_projection", "image": "visual_projection"}


@dataclass(frozen=True)
class States:
    """What one pass gives.

    Attributes:
        hidden: states of the wanted layer (n x T x F, float32).
        pooled: what the model's own pooler or projection makes of the last layer (n x P); None without one.
        levels: first token after each block (n x J x F), where wanted.
        start: first token before the first block (n x F), where levels are wanted.
    """

    hidden: Tensor
    pooled: Tensor | None
    levels: Tensor | None
    start: Tensor | None


class Tower:
    """The text or the image part of a model, in float32 or with its linear layers in bfloat16.

    Args:
        folder: of the transformers model.
        name: as the user wrote it, for messages.
        modality: which tower.
        pooling: "pooler" and "projection" need parts that other poolings do not.
        layer: whose states are given as `hidden`: 0 what enters the first block, J or -1 the last layer.
        levels: whether the first token is kept after each block.
        bfloat16: whether linear layers multiply in bfloat16.

    Raises:
        UserError: the model cannot be loaded, or lacks what is asked for.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        modality: Modality,
        pooling: Pooling,
        layer: int,
        levels: bool,
        bfloat16: bool,
    ):
        self.name, self.modality, self.pooling, self.bfloat16 = name, modality, pooling, bfloat16
        keep_freed_memory()
        model = load_model(folder, name, pooling)
        self._projection = self._find_projection(model)
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        self.model: Any = getattr(model, _TOWERS[modality], model)
        self._caught: dict[int, Tensor] = {}
        self._layer: int | None = None
        self._levels = 0
        if layer != -1 or levels:
            self._watch(layer, levels)
        if bfloat16:
            for module in (self.model, self._projection):
                _halve(module)

    def run(self, inputs: Mapping[str, Any], tokens: int) -> States:
        """One pass over a batch, whose rows are `tokens` long."""
        with quiet(), torch.inference_mode():
            if self.bfloat16 and self.modality == "image":
                self.model.set_attn_implementation("eager" if tokens <= _EAGER_TOKENS else "sdpa")
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                output = self.model(**inputs)
                pooled = getattr(output, "pooler_output", None)
                if self._projection is not None:
                    pooled = self._projection(pooled)
        hidden = output.last_hidden_state if self._layer is None else self._caught[self._layer]
        levels = start = None
        if self._levels:
            levels = torch.stack([self._caught[k][:, 0].float() for k in range(1, self._levels + 1)], dim=1)
            start = self._caught[0][:, 0].float()
        self._caught.clear()
        return States(hidden.float(), None if pooled is None else pooled.float(), levels, start)

    def encoded(self, vectors: Tensor, states: States) -> Encoded:
        """Vectors of a batch, with the levels where they are wanted.

        Raises:
            UserError: the levels do not have the vectors' width, or the first level is not one for all.
        """
        if states.levels is None or states.start is None:
            return Encoded(vectors.numpy())
        if states.levels.shape[-1] != vectors.shape[-1]:
            raise UserError(
                f"encoder {self.name}: its layers are {states.levels.shape[-1]} wide and its vectors "
                f"{vectors.shape[-1]}: give --pooling cls with --levels."
            )
        if not torch.allclose(states.start, states.start[:1].expand_as(states.start), atol=1e-4):
            raise UserError(
                f"encoder {self.name}: its first token enters the first layer differently for each input: "
                "leave out --levels."
            )
        with np.errstate(over="ignore"):
            levels = states.levels.numpy().astype(np.float16)
        return Encoded(vectors.numpy(), levels, states.start[0].numpy())

    def _watch(self, layer: int, levels: bool) -> None:
        """Catch what leaves (or enters) the wanted blocks; blocks that nobody needs are dropped."""
        blocks = self._blocks()
        count = len(blocks)
        if not -count - 1 <= layer <= count:
            raise UserError(
                f"encoder {self.name} has {count} layers: --layer {layer} is none of 0..{count} or "
                f"-1..-{count + 1}."
            )
        wanted = layer % (count + 1)
        self._layer = wanted if wanted < count else None  # the last layer has its norm behind it
        self._levels = count if levels else 0
        if self._layer is not None and not levels:
            del blocks[max(wanted, 1) :]
        catch = set(range(count + 1)) if levels else {wanted} & set(range(count))
        if 0 in catch:
            blocks[0].register_forward_pre_hook(self._catch_input, with_kwargs=True)
        for number in sorted(catch - {0}):
            blocks[number - 1].register_forward_hook(self._catcher(number))

    def _catch_input(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._caught[0] = args[0] if args else kwargs["hidden_states"]

    def _catcher(self, number: int) -> Any:
        whole = number == self._layer

        def catch(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            self._caught[number] = states if whole else states[:, :1].clone()

        return catch

    def _blocks(self) -> nn.ModuleList:
        count = getattr(self.model.config, "num_hidden_layers", None)
        for module in self.model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise UserError(
            f"encoder {self.name}: its layers cannot be told apart: leave out --layer and --levels."
        )

    def _find_projection(self, model: Any) -> nn.Module | None:
        if self.pooling != "projection":
            return None
        projection = getattr(model, _PROJECTIONS[self.modality], None)
        if not isinstance(projection, nn.Module):
            raise UserError(f"encoder {self.name} has no projection: give --pooling cls or mean.")
        return projection


def pool(states: States, pooling: Pooling, mask: Tensor, name: str) -> Tensor:
    """States of tokens to one vector each (n x F).

    Args:
        states: of one pass.
        pooling: how; "auto" has been decided before.
        mask: the tokens that count (n x T), those of a row without gaps.
        name: of the encoder, for messages.

    Raises:
        UserError: the model has no pooler.
    """
    hidden = states.hidden
    if pooling in ("pooler", "projection"):
        if states.pooled is None:
            raise UserError(f"encoder {name} has no pooler: give --pooling cls or mean.")
        return states.pooled
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        positions = torch.arange(mask.shape[1]).expand_as(mask)
        last = positions.masked_fill(mask == 0, -1).amax(1).clamp_min(0)
        return hidden[torch.arange(len(hidden)), last]
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    if pooling == "max":
        return hidden.masked_fill(weights == 0, -torch.inf).amax(1)
    return (hidden * weights).sum(1) / weights.sum(1).clamp_min(1.0)


def _halve(module: nn.Module | None) -> None:
    """Keep the weights of linear layers in bfloat16, or each pass would convert them anew."""
    for part in module.modules() if module is not None else ():
        if isinstance(part, nn.Linear):
            part.to(torch.bfloat16)
