"""Pictures through a pretrained ViT-type encoder; the paper takes [CLS] of the last layer (5.1.1)."""

import inspect
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hm4sr.errors import UserError
from hm4sr.features.encoder import Card, Pooling, Precision, Vectors
from hm4sr.features.pretrained import content, find_model, load_model, load_reader, quiet

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Counts changes of this module that change vectors; part of the cache's keys."""

_CLASS_TOKENS = ("cls_token", "class_embedding")


class PretrainedImage:
    """A ViT-type model from a folder or the hub.

    Args:
        name: folder, or name on the hub.
        pooling: "cls" takes the class token of the last layer, "mean" averages the patch tokens.
        precision: of the arithmetic; see `hm4sr.features.extract.FeatureConfig`.
        batch_size: pictures in a batch.

    Raises:
        UserError: the model cannot be used; see `hm4sr.features.pretrained.find_model`.
    """

    def __init__(self, name: str, pooling: Pooling, precision: Precision, batch_size: int):
        self.name, self.pooling, self.precision, self.batch_size = name, pooling, precision, batch_size
        self.folder = find_model(name, "image")
        self.card = Card.of(
            name,
            content(self.folder),
            modality="image",
            pooling=pooling,
            precision=precision,
            version=VERSION,
        )
        self._model: Any = None
        self._processor: Any = None
        self._lock = threading.Lock()

    def prepare(self, picture: "Image") -> NDArray[np.float32]:
        """Pixel values of an RGB picture (3 x height x width), by the model's own image processor."""
        with self._lock:
            if self._processor is None:
                self._processor = load_reader(self.folder, self.name, "image")
        values = self._processor(images=picture, return_tensors="np")["pixel_values"]
        return np.asarray(values[0], dtype=np.float32)

    def encode(self, prepared: Sequence[NDArray[Any]]) -> Vectors:
        """Vectors of a batch (n x F)."""
        self._load()
        vectors: Vectors | None = None
        # Processors that do not crop give pictures of different sizes, which cannot share a tensor.
        shapes: dict[tuple[int, ...], list[int]] = {}
        for row, values in enumerate(prepared):
            shapes.setdefault(values.shape, []).append(row)
        for rows in shapes.values():
            part = self._encode(np.stack([prepared[row] for row in rows]))
            if vectors is None:
                vectors = np.empty((len(prepared), part.shape[1]), dtype=np.float32)
            vectors[rows] = part
        assert vectors is not None
        return vectors

    def _encode(self, pixels: NDArray[np.float32]) -> Vectors:
        """Pixel values (n x 3 x height x width) to vectors (n x F)."""
        import torch

        with quiet(), torch.inference_mode():
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
                hidden = self._model(
                    torch.from_numpy(pixels), **self._arguments(pixels.shape)
                ).last_hidden_state
            hidden = hidden.float()
            if self.pooling == "cls":
                vectors = hidden[:, 0]
            else:
                # Class, distillation and register tokens stand in front of the patches.
                vectors = hidden[:, hidden.shape[1] - self._num_patches(pixels.shape) :].mean(1)
        result: Vectors = vectors.numpy()
        return result

    def _arguments(self, shape: tuple[int, ...]) -> dict[str, bool]:
        """Ask for interpolated positions where the pictures differ from those of the training."""
        trained = _pair(getattr(self._model.config, "image_size", shape[2:]))
        accepts = "interpolate_pos_encoding" in inspect.signature(self._model.forward).parameters
        return {"interpolate_pos_encoding": True} if accepts and trained != tuple(shape[2:]) else {}

    def _num_patches(self, shape: tuple[int, ...]) -> int:
        height, width = _pair(self._model.config.patch_size)
        return (shape[2] // height) * (shape[3] // width)

    def _load(self) -> None:
        if self._model is not None:
            return
        model = load_model(self.folder, self.name)
        model = getattr(model, "vision_model", model)
        if getattr(model, "main_input_name", "pixel_values") != "pixel_values" or not hasattr(
            model.config, "patch_size"
        ):
            raise UserError(
                f"--image {self.name} is not a ViT-type model: give one that cuts pictures into patches."
            )
        named = [name.rsplit(".", 1)[-1] for name, _ in model.named_parameters()]
        if self.pooling == "cls" and not any(name in _CLASS_TOKENS for name in named):
            raise UserError(f"--image {self.name} has no class token: give --pooling mean.")
        self._model = model


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return int(height), int(width)
