"""What a sentence-transformers folder says about its model: pooling, dense layers, normalisation.

modules.json                        the steps in order: Transformer, Pooling, Dense, Normalize
1_Pooling/config.json               how tokens become one vector
2_Dense/config.json, *.safetensors  a linear layer with an activation
sentence_bert_config.json           longest text; config_sentence_transformers.json: default prompt
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hm4sr.errors import UserError
from hm4sr.features.encoder import Pooling
from hm4sr.files import read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

_MODES: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")


@dataclass(frozen=True)
class Recipe:
    """The steps behind a sentence-transformers model's tokens.

    Attributes:
        pooling: how tokens become one vector.
        dense: folders of linear layers, in order.
        normalise: whether the vector is scaled to length 1.
        max_length: longest text in tokens; None leaves it to the model.
        lower: whether texts are put into lower case first.
        prompt: what is put in front of every text.
    """

    pooling: Pooling
    dense: tuple[Path, ...] = ()
    normalise: bool = False
    max_length: int | None = None
    lower: bool = False
    prompt: str = ""

    def worded(self, text: str) -> str:
        """A text as the model wants it."""
        return self.prompt + (text.lower() if self.lower else text)


def is_sentence_model(folder: Path) -> bool:
    """Whether a folder has the layout of sentence-transformers."""
    return (folder / "modules.json").is_file()


def model_folder(folder: Path) -> Path:
    """Where the transformers model itself lies: the folder, or that of its first module."""
    if not is_sentence_model(folder):
        return folder
    return folder / _modules(folder)[0][1]


def step_folders(folder: Path) -> list[Path]:
    """Folders of the steps that have settings of their own."""
    return [folder / path for kind, path in _modules(folder)[1:] if kind in ("Pooling", "Dense")]


def recipe_files(folder: Path) -> list[Path]:
    """The files that decide the steps, for the encoder's key."""
    files = [
        folder / name
        for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
    ]
    for step in step_folders(folder):
        files += [step / "config.json", step / "model.safetensors"]
    return [file for file in files if file.is_file()]


def read_recipe(folder: Path, name: str) -> Recipe:
    """Read the steps of a sentence-transformers folder.

    Raises:
        UserError: a step is unknown, or its files are missing.
    """
    modules = _modules(folder)
    pooling: Pooling = "projection" if modules[0][0] == "CLIPModel" else "mean"
    dense: list[Path] = []
    normalise = False
    for kind, path in modules[1:]:
        if kind == "Pooling":
            pooling = _pooling(read_json(folder / path / "config.json"), name)
        elif kind == "Dense":
            dense.append(folder / path)
        elif kind == "Normalize":
            normalise = True
        elif kind != "Dropout":
            raise UserError(
                f"encoder {name}: its step {kind!r} is not known: give --pooling mean or cls, which take the "
                "transformer alone."
            )
    about = _optional(model_folder(folder) / "sentence_bert_config.json")
    limit = about.get("max_seq_length")
    prompts = _optional(folder / "config_sentence_transformers.json")
    prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name")) or ""
    return Recipe(
        pooling,
        tuple(dense),
        normalise,
        max_length=int(limit) if limit else None,
        lower=bool(about.get("do_lower_case")),
        prompt=prompt,
    )


def load_dense(folder: Path, name: str) -> "nn.Module":
    """A dense step with its weights.

    Raises:
        UserError: its weights are pickled or do not fit, or its activation is unknown.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn

    about = read_json(folder / "config.json")
    activation = str(about.get("activation_function", "Tanh")).rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS:
        raise UserError(f"encoder {name}: the activation {activation!r} of {folder.name} is not known.")
    linear = nn.Linear(about["in_features"], about["out_features"], bias=about.get("bias", True))
    try:
        weights = load_file(folder / "model.safetensors")
        linear.load_state_dict({key.removeprefix("linear."): value for key, value in weights.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            f"encoder {name}: {folder.name} has no model.safetensors that fits its config.json: download the "
            "model again, or give --pooling mean."
        ) from error
    return nn.Sequential(linear, getattr(nn, activation)()).eval().requires_grad_(False)


def finish(vectors: "Tensor", dense: "list[nn.Module]", normalise: bool) -> "Tensor":
    """Dense steps and normalisation (n x F to n x F')."""
    import torch.nn.functional as F

    for step in dense:
        vectors = step(vectors)
    return F.normalize(vectors, dim=-1) if normalise else vectors


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Kind and subfolder of each step."""
    modules = read_json(folder / "modules.json")
    try:
        ordered = sorted(modules, key=lambda module: int(module["idx"]))
        steps = [(str(module["type"]).rsplit(".", 1)[-1], str(module["path"])) for module in ordered]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{folder / 'modules.json'} is not a list of modules: download it again.") from error
    if not steps or steps[0][0] not in ("Transformer", "CLIPModel"):
        raise UserError(f"{folder / 'modules.json'} does not begin with a Transformer: take another model.")
    for _, path in steps:
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise UserError(f"{folder / 'modules.json'} leads out of its folder: take another model.")
    return steps


def _pooling(about: dict[str, Any], name: str) -> Pooling:
    mode = about.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else list(mode or [])
    if not modes:
        modes = [new for old, new in _OLD_MODES.items() if about.get(old)]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise UserError(
            f"encoder {name}: its pooling ({' and '.join(modes) or 'none'}) is not known: give --pooling "
            "mean or cls."
        )
    return _MODES[modes[0]]


def _optional(file: Path) -> dict[str, Any]:
    values = read_json(file) if file.is_file() else {}
    return values if isinstance(values, dict) else {}
