"""Texts through a pretrained encoder: BERT and its kin, sentence-transformers, the text tower of CLIP.

The paper takes [CLS] of the last layer of a BERT (5.1.1).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hm4sr.errors import UserError
from hm4sr.features.encoder import Card, Encoded, Pooling, Precision
from hm4sr.features.pretrained import (
    content,
    decide_pooling,
    decide_precision,
    find_model,
    load_reader,
    quiet,
)
from hm4sr.features.sentence import Recipe, finish, is_sentence_model, load_dense, model_folder, read_recipe

if TYPE_CHECKING:
    from torch import nn

VERSION = 2
"""Counts changes of this module that change vectors; part of the cache's keys."""

DEFAULT_LENGTH = 512
"""Longest text, in tokens, for models that state no maximum."""


class PretrainedText:
    """A text model from a folder or the hub.

    Args:
        name: folder, or name on the hub.
        pooling: from tokens to one vector; see `hm4sr.features.settings.FeatureConfig`.
        precision: of the arithmetic.
        batch_size: texts in a batch.
        layer: whose states are pooled.
        levels: whether [CLS] after each layer is kept.

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
        folder = find_model(name, "text")
        self.folder = model_folder(folder)
        if pooling == "auto" and is_sentence_model(folder):
            self.recipe = read_recipe(folder, name)
            steps = {"steps": "sentence-transformers"}
        else:
            self.recipe = Recipe(decide_pooling(self.folder, pooling, levels))
            steps = {}
        self.precision = decide_precision(precision)
        self.card = Card.of(
            name,
            content(folder),
            modality="text",
            pooling=self.recipe.pooling,
            layer=layer,
            levels=levels,
            precision=self.precision,
            version=VERSION,
            **steps,
        )
        self._tower: Any = None
        self._tokenizer: Any = None
        self._dense: list[nn.Module] = []

    def encode(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Encoded]]:
        """Yield positions in `texts` and what was made of them, the longest texts first."""
        from hm4sr.features.tower import pool

        self._load()
        prompted = [self.recipe.worded(text) for text in texts]
        tokens = self._tokenizer(prompted, truncation=True, max_length=self.max_length, padding=False)
        lengths = np.array([len(ids) for ids in tokens["input_ids"]])
        order = np.argsort(-lengths, kind="stable")
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size].tolist()
            batch = {name: [values[row] for row in rows] for name, values in tokens.items()}
            with quiet():
                inputs = self._tokenizer.pad(batch, return_tensors="pt")
            mask = inputs["attention_mask"]
            states = self._tower.run(inputs, mask.shape[1])
            vectors = pool(states, self.recipe.pooling, mask, self.name)
            yield rows, self._tower.encoded(finish(vectors, self._dense, self.recipe.normalise), states)

    @property
    def max_length(self) -> int:
        """Longest text, in tokens, that the model can read."""
        model = self._tower.model
        limits = [
            self.recipe.max_length,
            self._tokenizer.model_max_length,
            getattr(model.config, "max_position_embeddings", None),
        ]
        table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
        if table is not None:
            # RoBERTa and its kin count positions from padding_idx + 1.
            limits.append(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
        known = [int(limit) for limit in limits if limit is not None and 0 < limit < 1_000_000]
        return min(known, default=DEFAULT_LENGTH)

    def _load(self) -> None:
        if self._tower is not None:
            return
        from hm4sr.features.tower import Tower

        tokenizer = load_reader(self.folder, self.name, "text")
        tokenizer.padding_side = "right"
        pooling = self.recipe.pooling
        leading = tokenizer.cls_token_id in tokenizer("a")["input_ids"][:1]
        if pooling == "cls" and not leading:
            raise UserError(f"--text {self.name} has no [CLS] token in front of a text: give --pooling mean.")
        if self.levels and not leading:
            raise UserError(f"--text {self.name} has no [CLS] token in front of a text: leave out --levels.")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tower = Tower(
            self.folder, self.name, "text", pooling, self.layer, self.levels, self.precision == "bfloat16"
        )
        if getattr(tower.model, "main_input_name", "input_ids") != "input_ids":
            raise UserError(f"--text {self.name} does not read texts: give a BERT-type model.")
        self._dense = [load_dense(folder, self.name) for folder in self.recipe.dense]
        self._tokenizer, self._tower = tokenizer, tower
