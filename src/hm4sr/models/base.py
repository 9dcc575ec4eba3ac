"""The contract of a model, and the registry of models."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from hm4sr.config import Config
from hm4sr.errors import UserError
from hm4sr.nn.losses import one_against_one, softmax_loss
from hm4sr.nn.projection import FrozenFeatures
from hm4sr.nn.ranks import Ranks
from hm4sr.nn.sampling import ItemView, draw_unseen, embed, sample_items, whole_catalogue
from hm4sr.nn.seen import seen_at_end
from hm4sr.nn.sharded_softmax import sharded_softmax_loss
from hm4sr.nn.shards import ShardedTable, sharded_tables
from hm4sr.types import Catalog, ItemFeatures, SeqBatch


class ModelConfig(Config):
    """Settings of a model; each model has a subclass of its own."""


class TransformerConfig(ModelConfig):
    """Settings of a model made of Transformer layers; the defaults are the paper's (5.1.4)."""

    dim: int = Field(64, gt=0)
    """Width of item and hidden vectors (D), of one modality where there are several."""
    layers: int = Field(2, gt=0)
    """Transformer layers."""
    heads: int = Field(2, gt=0)
    """Attention heads; must divide `dim`."""
    inner: int = Field(256, gt=0)
    """Width of the feed-forward part."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of inputs and residual branches."""
    attention_dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of attention weights."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> "TransformerConfig":
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide dim = {self.dim}")
        return self


def apply_preset(presets: dict[str, dict[str, Any]], values: Any) -> Any:
    """The settings that the key `preset` stands for ("paper" if left out); keys beside it win over it."""
    if isinstance(values, dict):
        return {**presets.get(values.get("preset", "paper"), {}), **values}
    return values


class SeqRecModel(nn.Module):
    """A sequential recommender whose score is a dot product of a history's and an item's vector.

    A subclass implements `encode`, and `item_vectors` if an item's vector is more than a row of the table
    `items`; training, evaluation and serving follow from them. A model whose score does not factorise
    overrides `scores`.

    Attributes:
        parallel: whether one causal pass over all positions is exact; otherwise it is trained on prefixes.
            Where that depends on the settings, an instance says otherwise than its class does.
        multimodal: whether it reads the frozen features of the catalogue.
        shardable: whether it can learn with its item table spread over processes (`shard_items`): it then
            reads `items` by lookups and the catalogue by `view`, `vectors_of` and `item_vectors` alone.
        score_tables: tables of the size of its scores that `scores` has alive at a time.
        reads_histories: whether it reads the catalogue's training histories; they are left out otherwise.
        epoch_buffers: buffers that `start_epoch` fills and that are not saved with the weights; a state
            within an epoch holds them.
        item_tables: attributes whose rows are items; a sampled softmax moves those alone that it looked at.
        matmul_dtype: number format of the large matrix products in training; the trainer sets it.
        negatives: items drawn for the softmax of a step, beside the batch's own; 0 takes the whole catalogue.
        bounds: where the item table is sharded, rank r keeps the rows bounds[r]..bounds[r + 1]; else None.
        here: those of this process; all of them where nothing is sharded.
    """

    Config: ClassVar[type[ModelConfig]]
    name: ClassVar[str]
    parallel: bool = True
    multimodal: ClassVar[bool] = False
    shardable: ClassVar[bool] = False
    score_tables: ClassVar[int] = 1
    reads_histories: ClassVar[bool] = False
    epoch_buffers: ClassVar[tuple[str, ...]] = ()
    item_tables: ClassVar[tuple[str, ...]] = ("items",)
    items: nn.Embedding

    def __init__(self, config: Any, catalog: Catalog, rng: torch.Generator):
        super().__init__()
        self.config = config
        self.catalog = catalog
        self.rng = rng
        self.matmul_dtype = torch.float32
        self.negatives = 0
        self.bounds: list[int] | None = None
        self.here = slice(None)
        self._fixed: dict[str, Tensor] = {}
        """What `fix_items` computed, by name: "items", and what a subclass adds. Empty while weights move."""

    @contextmanager
    def fixed_items(self) -> Iterator[Float[Tensor, "V Q"]]:
        """Within this context the item vectors are computed once, and given: for judging and serving.

        A model that encodes a history from its own item vectors would project the whole catalogue anew for
        every batch.
        """
        try:
            yield self.fix_items()
        finally:
            self._fixed = {}

    @torch.no_grad()
    def fix_items(self) -> Float[Tensor, "V Q"]:
        """Compute the item vectors once and for all; for a model that will not be trained any more."""
        self._fixed = {name: table.detach() for name, table in self.tables_to_fix().items()}
        return self._fixed["items"]

    def tables_to_fix(self) -> dict[str, Tensor]:
        """What `fix_items` keeps, by name: "items", their vectors, and what else all events read alike."""
        return {"items": self.item_vectors()}

    def train(self, mode: bool = True) -> "SeqRecModel":
        """Switch dropout on or off; training makes the item vectors change again."""
        if mode:
            self._fixed = {}
        return super().train(mode)

    def items_now(self) -> Float[Tensor, "V Q"]:
        """The item vectors, computed unless they are fixed."""
        return self._fixed["items"] if self._fixed else self.item_vectors()

    def vectors_of(self, items: Int[Tensor, "*N"]) -> Float[Tensor, "*N Q"]:
        """Vectors of the items of histories: those that are fixed, or as they are now."""
        if self.bounds is not None:
            return embed(items, self.item_vectors)
        return F.embedding(items, self.items_now())

    def shard_items(self, ranks: Ranks) -> None:
        """Keep the rows of one rank of the item table, and what belongs to them; forget the others.

        `item_vectors()` and what is fixed are those of these rows from then on. For a `shardable` model.
        """
        assert self.shardable, f"{self.name} reads its whole item table"
        self.items = table = ShardedTable(self.items, ranks)
        self.bounds, self.here = table.bounds, table.here
        for module in self.modules():
            if isinstance(module, FrozenFeatures):
                module.here = table.here

    def encode(self, batch: SeqBatch) -> Float[Tensor, "B L Q"]:
        """Vector of each history: position l stands for the events 0..l."""
        raise NotImplementedError

    def item_vectors(self, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U Q"]:
        """Vectors of the given item numbers; of the whole catalogue (U = V, row 0 is padding) if left out.

        They are the rows of the table `items`, for a model that does not say otherwise. Where that is
        sharded, "whole" means the rows that this process keeps.
        """
        return rows_of(self.items, items)

    def view(self, batch: SeqBatch, table: Callable[..., Tensor] | None = None) -> ItemView:
        """The items that a training step looks at: the whole catalogue, or the batch's and a sample.

        Args:
            batch: its targets are learned.
            table: gives the rows of some items, or of all, in place of `item_vectors`.
        """
        table = table or self.item_vectors
        if not self.negatives:
            if self.bounds is not None:
                targets = batch.at_targets(batch.targets)
                return ItemView(table(), batch.items, targets, bounds=self.bounds, look_up=table)
            return whole_catalogue(batch, table())
        rows, view = sample_items(batch, self.catalog, self.negatives, self.rng)
        return view(table(rows))

    def main_loss(
        self,
        hidden: Float[Tensor, "N Q"],
        view: ItemView,
        score_padding: bool = False,
        raised: Int[Tensor, "N S"] | None = None,
        by: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the batch's targets, in the order of `batch.at_targets`.

        Args:
            hidden: what is known before each target.
            view: the items of the softmax.
            score_padding: whether padding is one of them.
            raised: rows of the view whose scores are raised by `by`, each once in a row; 0 is none.
            by: a number.
        """
        dtype = self.matmul_dtype
        if view.bounds is not None:
            return sharded_softmax_loss(
                hidden, view.vectors, view.bounds, view.targets, dtype, score_padding, "targets", raised, by
            )
        weights = view.log_weights
        if weights is not None and score_padding:  # row 0 was drawn by nobody, and stands for itself
            weights = torch.cat([weights.new_zeros(1), weights[1:]])
        return softmax_loss(
            hidden, view.vectors, view.targets, dtype, score_padding, weights, "targets", raised, by
        )

    def one_negative_loss(self, batch: SeqBatch, kind: Literal["bce", "bpr"]) -> Float[Tensor, ""]:
        """Each target against one item that its row does not hold, as several authors train their models."""
        hidden = self.hidden_at_targets(batch)
        positives = self.item_vectors(batch.at_targets(batch.targets))
        negatives = self.item_vectors(draw_unseen(batch, self.catalog.num_items, self.rng))
        return one_against_one(hidden, positives, negatives, kind, "targets")

    def last_hidden(self, batch: SeqBatch) -> Float[Tensor, "B Q"]:
        """Vector of each whole history."""
        return batch.at_end(self.encode(batch))

    def scores(self, batch: SeqBatch, candidates: Float[Tensor, "V Q"]) -> Float[Tensor, "B V"]:
        """Score of every item after each whole history; padding gets minus infinity.

        Args:
            batch: histories.
            candidates: what `item_vectors` returned; see also `fixed_items`.
        """
        scores = self.last_hidden(batch) @ candidates.T
        if bias := self.seen_bias():
            items = seen_at_end(batch)
            scores.scatter_add_(1, items, scores.new_full((1, 1), bias).expand(items.shape))
        scores[:, 0] = -torch.inf
        return scores

    def losses(self, batch: SeqBatch) -> dict[str, Float[Tensor, ""]]:
        """Terms of the training loss by name, each already weighted; their sum is minimised.

        Where several processes learn a batch together, this one has some of its rows, and each term is its
        part of the term of the whole batch (see `nn.ranks`; the losses of `nn.losses` see to that).
        """
        return {"main": self.main_loss(self.hidden_at_targets(batch), self.view(batch))}

    def hidden_at_targets(self, batch: SeqBatch) -> Float[Tensor, "N Q"]:
        """What is known before each target, encoded in `mixed_precision`, given in float32."""
        with self.mixed_precision():
            return batch.at_targets(self.encode(batch)).float()

    def mixed_precision(self) -> torch.autocast:
        """A context in which linear layers multiply in `matmul_dtype`; nothing changes in float32."""
        device = next(self.parameters()).device.type
        low = self.matmul_dtype != torch.float32
        return torch.autocast(device, dtype=self.matmul_dtype if low else None, enabled=low)

    def start_epoch(self, epoch: int) -> None:
        """Called before each training epoch (1..), for what is refreshed once an epoch; nothing by default.

        What it computes belongs in buffers, so that it is saved with the weights, or in `epoch_buffers`. It
        may set plain attributes that follow from the number of the epoch alone: training that is resumed
        within an epoch calls it once more before it takes back what was saved.
        """

    def new_item_vectors(self, features: Mapping[str, ItemFeatures]) -> Float[Tensor, "U Q"] | None:
        """Vectors of items that came after training, from their modalities alone; None if that is impossible.

        A model that gives them encodes histories from `items_now`, so that such items can stand in histories.

        Args:
            features: vectors of each modality that the catalogue has.
        """
        return None

    def append_items(self, vectors: Float[Tensor, "U Q"], features: Mapping[str, ItemFeatures]) -> None:
        """Put further items behind the fixed ones, for serving alone: the weights stay as they are.

        Args:
            vectors: what `new_item_vectors` gave; row 0, padding, is left out.
            features: what they were made of.
        """
        self._fixed["items"] = torch.cat([self.items_now(), vectors[1:]])

    def seen_bias(self) -> float:
        """What is added to the score of every item that stands in the history; nothing by default."""
        return 0.0

    def blocks(self) -> dict[str, slice]:
        """Columns of a vector (Q) that belong to each modality alone, "id" first.

        Empty, the default, where the parts of a score cannot be told apart.
        """
        return {}

    def gates(self, batch: SeqBatch) -> dict[str, Float[Tensor, "B L K"]]:
        """Weights that a mixture of experts gives its experts at each event, by the name of the gate.

        Empty, the default, for models without experts.
        """
        return {}

    def num_parameters(self) -> int:
        """Trainable parameters, those kept by other processes included; frozen features do not count."""
        here = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        return here + sum(
            table.num_embeddings * table.embedding_dim - table.weight.numel()
            for table in sharded_tables(self).values()
        )


def rows_of(table: nn.Embedding, items: Int[Tensor, "U"] | None = None) -> Float[Tensor, "U D"]:
    """The rows of some items, or the whole table."""
    rows: Tensor = table.weight if items is None else table(items)
    return rows


def require_features(catalog: Catalog, name: str) -> None:
    """For a model that is nothing without frozen features.

    Raises:
        UserError: the catalogue has none.
    """
    if not catalog.features:
        raise UserError(
            f"model.name = {name!r} reads item features, and data.features names none: extract them with "
            "`hm4sr features`, or name them."
        )


_MODELS: dict[str, type[SeqRecModel]] = {}


def register(name: str) -> Callable[[type[SeqRecModel]], type[SeqRecModel]]:
    """Make a model known by name."""

    def enter(model: type[SeqRecModel]) -> type[SeqRecModel]:
        if name in _MODELS:
            raise ValueError(f"a model named {name!r} exists already")
        model.name = name
        _MODELS[name] = model
        return model

    return enter


def registered_models() -> dict[str, type[SeqRecModel]]:
    """All models by name."""
    return dict(sorted(_MODELS.items()))


def get_model(name: str) -> type[SeqRecModel]:
    """The model of that name.

    Raises:
        UserError: there is none.
    """
    if name not in _MODELS:
        close = difflib.get_close_matches(name, _MODELS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known models are {', '.join(sorted(_MODELS))}."
        raise UserError(f"model.name = {name!r} is not a model; {hint}")
    return _MODELS[name]
