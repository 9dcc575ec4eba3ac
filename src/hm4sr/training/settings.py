"""What one training run is: an experiment file, typed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hm4sr.config import Config, override, read_toml
from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.features.store import feature_names
from hm4sr.models import get_model, registered_models
from hm4sr.models.base import ModelConfig, SeqRecModel
from hm4sr.runtime import Precision


class DataConfig(Config):
    """Which data, and how it is cut."""

    path: Path
    """Folder of the prepared data set; a relative one is looked up from the current folder."""
    features: tuple[str, ...] | None = None
    """Modalities beside the ID, by the names under features/; left out, all that were extracted."""
    drop_features: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """Modality to share of its items that are treated as if they lacked it, to study what is lost."""
    drop_seed: int = Field(0, ge=0)
    """Seed of the choice of those items; a smaller share is part of a larger one."""
    train_users: float = Field(1.0, gt=0, le=1)
    """Share of the users whose training events are learned from; all are judged, whole histories read."""
    time_noise_days: float = Field(0.0, ge=0, le=36_500)
    """Standard deviation, in days, of an error in the times that the model sees; the order stays."""
    change_seed: int = Field(0, ge=0)
    """Seed of the choice of those users and of those errors; a smaller share is part of a larger one."""
    max_length: int = Field(50, gt=0)
    """Events of a history that a model sees (L)."""
    window_context: int = Field(0, ge=0)
    """Events that a further window of a long training history repeats from the one before it."""

    @field_validator("features")
    @classmethod
    def _expect_each_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        # Twice would be the same model under another name, and so a rival of itself.
        if names is not None and len(set(names)) < len(names):
            raise ValueError("each modality is named once")
        return names


class TrainConfig(Config):
    """How a model is trained."""

    epochs: int = Field(100, gt=0)
    """Most epochs."""
    patience: int = Field(10, gt=0)
    """Epochs without a better validation score after which training stops."""
    monitor: str = "ndcg@20"
    """Validation metric that decides on the best epoch."""
    batch_targets: int = Field(1024, gt=0)
    """Targets of a step, roughly; of all processes together."""
    learning_rate: float = Field(1e-3, gt=0)
    """Step size of Adam."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty of Adam."""
    average: float | None = Field(None, ge=0, lt=1)
    """Share of the past that a moving average of the weights keeps in a step; the average is what is judged
    and kept. 0 keeps none; left out, it is 0.998, and 0 for a sampled loss, whose steps touch few weights."""
    loss: Literal["full", "sampled"] = "full"
    """Softmax over the whole catalogue, or over the batch's targets and `negatives` drawn items."""
    negatives: int = Field(4096, gt=0)
    """Items drawn for each step of the sampled softmax; item tables then get sparse updates."""
    validation_users: int = Field(0, ge=0)
    """Validate during training on this many users, drawn once; 0 takes all. Reports always take all."""
    parallel: bool | None = None
    """Learn at all positions of a history at once; left out, wherever that is exact for the model."""
    precision: Precision = "auto"
    """Number format of the large matrix products: auto takes bfloat16 where the hardware multiplies it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    threads: int = Field(0, ge=0, le=1024)
    """Processor threads of a process; 0 leaves the choice to torch."""
    compile: bool = False
    """Compile the losses with torch.compile, which needs a C++ compiler and pays on long runs, if it does."""
    shard_items: bool = False
    """Spread the item table over the processes: each keeps, and moves, its share of the rows."""
    save_minutes: float = Field(10.0, gt=0)
    """Minutes between two states saved within an epoch; a shorter epoch has one at its end alone."""

    @property
    def average_decay(self) -> float:
        """The share of the past that the average of the weights keeps; 0 for no average."""
        if self.average is None:
            return 0.998 if self.loss == "full" else 0.0
        return self.average


class EvaluateConfig(Config):
    """What is measured."""

    ks: tuple[Annotated[int, Field(gt=0)], ...] = Field((5, 10, 20), min_length=1)
    """Cut-offs of NDCG, MRR and Hit."""


class Experiment(Config):
    """One run: data, model, training, evaluation and seed."""

    data: DataConfig
    model: dict[str, Any]
    """`name`, and the settings of that model."""
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    seed: int = Field(1, ge=0, lt=2**31)
    """Seed of all generators."""

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> "Experiment":
        """Read a TOML file and apply `key=value` overrides.

        Raises:
            UserError: the file, a key or a value is wrong; the message names it.
        """
        return cls.build(override(read_toml(path), overrides), str(path))

    @classmethod
    def build(cls, values: dict[str, Any], where: str) -> "Experiment":
        """Check nested values, the model's settings included."""
        experiment = cls.parse(values, where)
        experiment.model_settings(where)
        known = {f"{name}@{k}" for name in ("ndcg", "mrr", "hit") for k in experiment.evaluate.ks}
        if experiment.train.monitor not in known:
            raise UserError(
                f"{where}: train.monitor = {experiment.train.monitor!r} is not measured: "
                f"take one of {', '.join(sorted(known))}, or add its cut-off to evaluate.ks."
            )
        if experiment.train.loss == "sampled" and experiment.train.weight_decay:
            raise UserError(
                f"{where}: train.weight_decay would touch every item: set it to 0 for a sampled loss."
            )
        experiment._check_sharding(where)
        if experiment.data.window_context >= experiment.data.max_length:
            raise UserError(f"{where}: data.window_context must be less than data.max_length: lower it.")
        return experiment

    def _check_sharding(self, where: str) -> None:
        if not self.train.shard_items:
            return
        if not self.model_class.shardable:
            able = ", ".join(name for name, model in registered_models().items() if model.shardable)
            raise UserError(
                f"{where}: train.shard_items = true, but {self.model['name']} needs its whole item table in "
                f"every process: leave it out, or take one of {able}."
            )
        if self.train.compile:
            raise UserError(
                f"{where}: train.compile is not made for train.shard_items: set one of them to false."
            )

    @property
    def model_class(self) -> type[SeqRecModel]:
        """The model that `model.name` names."""
        if "name" not in self.model:
            raise UserError(
                "the key 'model.name' is missing: add for example name = \"hm4sr\" under [model]."
            )
        name = self.model["name"]
        if not isinstance(name, str):
            raise UserError(f'model.name = {name!r} is no name: write for example name = "hm4sr".')
        return get_model(name)

    def modalities(self, dataset: Dataset) -> tuple[str, ...]:
        """Names of the features that the model reads from a data set."""
        if not self.model_class.multimodal:
            return ()
        return tuple(feature_names(dataset)) if self.data.features is None else self.data.features

    def model_settings(self, where: str = "model") -> ModelConfig:
        """The model's own settings, checked."""
        values = {key: value for key, value in self.model.items() if key != "name"}
        return self.model_class.Config.parse(values, f"{where} [model]")

    def resolved(self) -> dict[str, Any]:
        """Plain values with every default spelt out, for the run folder."""
        settings = self.model_settings().model_dump(mode="json")
        return {**self.model_dump(mode="json"), "model": {"name": self.model["name"], **settings}}
