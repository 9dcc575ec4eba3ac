"""Pictures through a pretrained encoder: ViT and its kin, the image tower of CLIP.

The paper takes [CLS] of the last layer of a ViT (5.1.1).
"""

import inspect
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hm4sr.errors import UserError
from hm4sr.features.encoder import Card, Encoded, Pooling, Precision
from hm4sr.features.pretrained import content, decide_pooling, decide_precision, find_model, load_reader
from hm4sr.features.sentence import model_folder

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 2
"""Counts changes of this module that change vectors; part of the cache's keys."""

_CLASS_TOKENS = ("cls_token", "class_embedding")


class PretrainedImage:
    """An image model from a folder or the hub.

    Args:
        name: folder, or name on the hub.
        pooling: from patches to one vector; see `hm4sr.features.settings.FeatureConfig`.
        precision: of the arithmetic.
        batch_size: pictures in a batch.
        layer: whose states are pooled.
        levels: whether the class token after each layer is kept.

    Raises:
        UserError: the model cannot be used; see `hm4sr.features.pretrained.find_model`.
    """

    def __init__(
        self,
        name: str,
        pooling: Pooling,
        precision: Precision,
        batch_size: int,
        layer: int = -1,
        levels: bool = False,
    ):
        self.name, self.batch_size, self.layer, self.levels = name, batch_size, layer, levels
        folder = find_model(name, "image")
        self.folder = model_folder(folder)
        self.pooling = decide_pooling(self.folder, pooling, levels)
        if self.pooling == "last":
            raise UserError(f"--image {name}: the last patch stands for nothing: give --pooling cls or mean.")
        self.precision = decide_precision(precision)
        self.card = Card.of(
            name,
            content(folder),
            modality="image",
            pooling=self.pooling,
            layer=layer,
            levels=levels,
            precision=self.precision,
            version=VERSION,
        )
        self._tower: Any = None
        self._processor: Any = None
        self._lock = threading.Lock()

    def prepare(self, picture: "Image") -> NDArray[np.float32]:
        """Pixel values of an RGB picture (3 x height x width), by the model's own image processor."""
        with self._lock:
            if self._processor is None:
                self._processor = load_reader(self.folder, self.name, "image")
        values = self._processor(images=picture, return_tensors="np")["pixel_values"]
        return np.asarray(values[0], dtype=np.float32)

    def encode(self, prepared: Sequence[NDArray[Any]]) -> Encoded:
        """What is made of a batch."""
        self._load()
        # Processors that do not crop give pictures of different sizes, which cannot share a tensor.
        shapes: dict[tuple[int, ...], list[int]] = {}
        for row, values in enumerate(prepared):
            shapes.setdefault(values.shape, []).append(row)
        parts = [self._encode(np.stack([prepared[row] for row in rows])) for rows in shapes.values()]
        if len(parts) == 1:
            return parts[0]
        back = np.argsort([row for rows in shapes.values() for row in rows])
        levels = [part.levels for part in parts if part.levels is not None]
        return Encoded(
            np.concatenate([part.vectors for part in parts])[back],
            np.concatenate(levels)[back] if levels else None,
            parts[0].start,
        )

    def _encode(self, pixels: NDArray[np.float32]) -> Encoded:
        """Pixel values (n x 3 x height x width) to what is made of them."""
        import torch

        from hm4sr.features.tower import pool

        patches = self._num_patches(pixels.shape)
        inputs = {"pixel_values": torch.from_numpy(pixels), **self._arguments(pixels.shape)}
        states = self._tower.run(inputs, patches)
        # Class, distillation and register tokens stand in front of the patches.
        tokens = states.hidden.shape[1]
        mask = (torch.arange(tokens) >= tokens - patches).expand(len(pixels), tokens)
        encoded: Encoded = self._tower.encoded(pool(states, self.pooling, mask, self.name), states)
        return encoded

    def _arguments(self, shape: tuple[int, ...]) -> dict[str, bool]:
        """Ask for interpolated positions where the pictures differ from those of the training."""
        model = self._tower.model
        trained = _pair(getattr(model.config, "image_size", shape[2:]))
        accepts = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        return {"interpolate_pos_encoding": True} if accepts and trained != tuple(shape[2:]) else {}

    def _num_patches(self, shape: tuple[int, ...]) -> int:
        height, width = _pair(self._tower.model.config.patch_size)
        return (shape[2] // height) * (shape[3] // width)

    def _load(self) -> None:
        if self._tower is not None:
            return
        from hm4sr.features.tower import Tower

        tower = Tower(
            self.folder,
            self.name,
            "image",
            self.pooling,
            self.layer,
            self.levels,
            self.precision == "bfloat16",
        )
        model = tower.model
        if getattr(model, "main_input_name", "pixel_values") != "pixel_values" or not hasattr(
            model.config, "patch_size"
        ):
            raise UserError(
                f"--image {self.name} is not a ViT-type model: give one that cuts pictures into patches."
            )
        named = [name.rsplit(".", 1)[-1] for name, _ in model.named_parameters()]
        if not any(name in _CLASS_TOKENS for name in named):
            if self.pooling == "cls":
                raise UserError(f"--image {self.name} has no class token: give --pooling mean.")
            if self.levels:
                raise UserError(f"--image {self.name} has no class token: leave out --levels.")
        self._tower = tower


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return int(height), int(width)
