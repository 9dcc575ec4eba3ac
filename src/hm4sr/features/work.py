"""Encoding in units of work, the same in one process and in many: equal batches, equal results."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from hm4sr.errors import UserError
from hm4sr.features.encoder import BUILTIN, Card, Encoded, ImageEncoder, Modality, TextEncoder
from hm4sr.features.pictures import PictureError, prepared, read_ahead
from hm4sr.features.settings import FeatureConfig

S = TypeVar("S")
Unit = Mapping[bytes, Any]
"""Content keys and their texts or paths of pictures, a few batches of them."""

UNIT_BATCHES = 8


@dataclass(frozen=True)
class Finished:
    """A part of the work that is done.

    Attributes:
        keys: of the texts or pictures that were encoded.
        encoded: what was made of them; None where there were none.
        failed: reasons of the pictures that could not be read.
    """

    keys: list[bytes] = field(default_factory=list)
    encoded: Encoded | None = None
    failed: dict[bytes, str] = field(default_factory=dict)


class Work(Protocol):
    """Encodes units of one modality."""

    card: Card
    batch_size: int

    def run(self, units: Iterable[Unit]) -> Iterator[Finished]:
        """Encode units in order; a batch never spans two of them."""
        ...


class TextWork:
    """Texts through a text encoder."""

    def __init__(self, encoder: TextEncoder):
        self._encoder, self.card, self.batch_size = encoder, encoder.card, encoder.batch_size

    def run(self, units: Iterable[Unit]) -> Iterator[Finished]:
        """Encode units of texts, each batch as soon as it is done."""
        for unit in units:
            keys = list(unit)
            for rows, encoded in self._encoder.encode(list(unit.values())):
                yield Finished([keys[row] for row in rows], encoded)


class PictureWork:
    """Pictures through an image encoder, read and decoded ahead of it in threads."""

    def __init__(self, encoder: ImageEncoder, readers: int):
        self._encoder, self._readers = encoder, readers
        self.card, self.batch_size = encoder.card, encoder.batch_size

    def run(self, units: Iterable[Unit]) -> Iterator[Finished]:
        """Encode units of pictures, each batch as soon as it is done; broken pictures are left out."""
        batch: list[tuple[bytes, NDArray[Any]]] = []
        failed: dict[bytes, str] = {}
        current = 0
        sources = ((number, key, path) for number, unit in enumerate(units) for key, path in unit.items())
        for (number, key, _), values in read_ahead(
            self._prepare, sources, self._readers, 2 * self.batch_size
        ):
            if number != current or len(batch) == self.batch_size:
                yield self._finish(batch, failed)
                batch, failed, current = [], {}, number
            if isinstance(values, PictureError):
                failed[key] = str(values)
            else:
                batch.append((key, values))
        if batch or failed:
            yield self._finish(batch, failed)

    def _prepare(self, source: tuple[int, bytes, Path]) -> NDArray[Any]:
        _, key, path = source
        return prepared(path, key, self._encoder.prepare)

    def _finish(self, batch: Sequence[tuple[bytes, NDArray[Any]]], failed: dict[bytes, str]) -> Finished:
        encoded = self._encoder.encode([values for _, values in batch]) if batch else None
        return Finished([key for key, _ in batch], encoded, failed)


def make_work(config: FeatureConfig, modality: Modality) -> Work:
    """The encoder that the settings name, ready for work; its weights are loaded with the first unit.

    Raises:
        UserError: the encoder cannot be used.
    """
    name = config.text if modality == "text" else config.image
    assert name is not None
    if name == BUILTIN:
        _refuse_layers(config, modality)
    options = (config.layer, config.levels)
    if modality == "text":
        if name == BUILTIN:
            from hm4sr.features.builtin import BuiltinText

            return TextWork(BuiltinText())
        from hm4sr.features.text import PretrainedText

        return TextWork(PretrainedText(name, config.pooling, config.precision, config.text_batch, *options))
    if name == BUILTIN:
        from hm4sr.features.builtin import BuiltinImage

        return PictureWork(BuiltinImage(config.image_batch), config.readers)
    from hm4sr.features.image import PretrainedImage

    image = PretrainedImage(name, config.pooling, config.precision, config.image_batch, *options)
    return PictureWork(image, config.readers)


def _refuse_layers(config: FeatureConfig, modality: Modality) -> None:
    usual = FeatureConfig.model_fields
    for setting in ("levels", "layer", "pooling"):
        if getattr(config, setting) != usual[setting].default:
            raise UserError(
                f"--{modality} {BUILTIN} has no layers: leave out --{setting}, or encode it in its own run."
            )


def split(sources: Mapping[bytes, S], size: int) -> list[dict[bytes, S]]:
    """Units of at most `size` sources, in order."""
    keys = list(sources)
    return [{key: sources[key] for key in keys[start : start + size]} for start in range(0, len(keys), size)]
