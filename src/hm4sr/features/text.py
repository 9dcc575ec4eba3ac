"""Texts through a pretrained BERT-type encoder; the paper takes [CLS] of the last layer (5.1.1)."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hm4sr.errors import UserError
from hm4sr.features.encoder import Card, Pooling, Precision, Vectors
from hm4sr.features.pretrained import content, find_model, load_model, load_reader, quiet

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Counts changes of this module that change vectors; part of the cache's keys."""

WINDOW = 16384
"""Texts that are tokenised and sorted by length together: bounds the memory of long catalogues."""

DEFAULT_LENGTH = 512
"""Longest text, in tokens, for models that state no maximum."""


class PretrainedText:
    """A BERT-type model from a folder or the hub.

    Args:
        name: folder, or name on the hub.
        pooling: "cls" takes the first token of the last layer, "mean" averages the real tokens.
        precision: of the arithmetic; see `hm4sr.features.extract.FeatureConfig`.
        batch_size: texts in a batch.

    Raises:
        UserError: the model cannot be used; see `hm4sr.features.pretrained.find_model`.
    """

    def __init__(self, name: str, pooling: Pooling, precision: Precision, batch_size: int):
        self.name, self.pooling, self.precision, self.batch_size = name, pooling, precision, batch_size
        self.folder = find_model(name, "text")
        self.card = Card.of(
            name, content(self.folder), modality="text", pooling=pooling, precision=precision, version=VERSION
        )
        self._model: Any = None
        self._tokenizer: Any = None

    def encode(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """Yield positions in `texts` and their vectors (n x F), the longest texts of each window first."""
        import torch

        self._load()
        for start in range(0, len(texts), WINDOW):
            window = list(texts[start : start + WINDOW])
            tokens = self._tokenizer(window, truncation=True, max_length=self.max_length, padding=False)
            lengths = np.array([len(ids) for ids in tokens["input_ids"]])
            order = np.argsort(-lengths, kind="stable")
            for first in range(0, len(order), self.batch_size):
                rows = order[first : first + self.batch_size].tolist()
                batch = {name: [values[row] for row in rows] for name, values in tokens.items()}
                with quiet(), torch.inference_mode():
                    inputs = self._tokenizer.pad(batch, return_tensors="pt")
                    with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
                        hidden = self._model(**inputs).last_hidden_state
                    vectors = self._pool(hidden.float(), inputs["attention_mask"])
                yield [start + row for row in rows], vectors.numpy()

    @property
    def max_length(self) -> int:
        """Longest text, in tokens, that the model can read."""
        limits = [
            self._tokenizer.model_max_length,
            getattr(self._model.config, "max_position_embeddings", None),
        ]
        table = getattr(getattr(self._model, "embeddings", None), "position_embeddings", None)
        if table is not None:
            # RoBERTa and its kin count positions from padding_idx + 1.
            limits.append(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
        known = [int(limit) for limit in limits if limit is not None and 0 < limit < 1_000_000]
        return min(known, default=DEFAULT_LENGTH)

    def _pool(self, hidden: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        """Hidden states (n x T x F) and mask of real tokens (n x T) to vectors (n x F)."""
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp_min(1.0)

    def _load(self) -> None:
        if self._model is not None:
            return
        tokenizer = load_reader(self.folder, self.name, "text")
        tokenizer.padding_side = "right"
        if self.pooling == "cls" and tokenizer.cls_token_id not in tokenizer("a")["input_ids"][:1]:
            raise UserError(f"--text {self.name} has no [CLS] token in front of a text: give --pooling mean.")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = load_model(self.folder, self.name)
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        model = getattr(model, "text_model", model)
        if getattr(model, "main_input_name", "input_ids") != "input_ids":
            raise UserError(f"--text {self.name} does not read texts: give a BERT-type model.")
        self._tokenizer, self._model = tokenizer, model
