"""Pretrained encoders: find the folder of a model, know it by content, load it without running foreign code.

Only safetensors are read: a pickle can execute code. `transformers` is imported when a model is loaded.
"""

import contextlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hm4sr.errors import UserError
from hm4sr.features.encoder import BUILTIN, Modality, Pooling, Precision
from hm4sr.features.sentence import is_sentence_model, model_folder, recipe_files, step_folders
from hm4sr.files import read_json, sha256

logger = logging.getLogger(__name__)

HUB_SECONDS = 10.0
"""How long the model hub may take to answer at all."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_READERS = {
    "text": ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model", "*.bpe.model"),
    "image": ("preprocessor_config.json", "processor_config.json"),
}
_READER_NAMES = {"text": "tokenizer", "image": "image processor"}
_FILES = re.compile(r"(\d+_\w+/)?([^/]+\.(json|txt|model)|model[^/]*\.safetensors)")
"""What is fetched from the hub: the model's own files, and those of sentence-transformers' steps."""


def find_model(name: str, modality: Modality) -> Path:
    """Folder of a model, given as a folder or as a name on the hub, with all files that loading needs.

    The folder may have the layout of sentence-transformers; see `model_folder`.

    Raises:
        UserError: there is no such model, the hub cannot be reached, a file is missing, the weights are
            pickles, or the model is of the other modality.
    """
    if not (_installed("transformers") and (modality == "text" or _installed("PIL"))):
        raise UserError(
            f"--{modality} {name} needs transformers and pillow: install them with "
            f"`pip install 'hm4sr[features]'`, or give `--{modality} {BUILTIN}`."
        )
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _from_hub(name, modality)
    _check_files(folder, name, modality)
    return folder


def content(folder: Path) -> dict[str, str]:
    """sha256 of the files that decide what the model in a folder computes."""
    if not is_sentence_model(folder):
        return _content(folder)
    steps = {str(file.relative_to(folder)): sha256(file) for file in recipe_files(folder)}
    return {**steps, **_content(model_folder(folder))}


def _content(folder: Path) -> dict[str, str]:
    names = {file.name for file in folder.iterdir() if file.suffix in {".json", ".txt", ".model"}}
    index = folder / _WEIGHTS[1]
    if (folder / _WEIGHTS[0]).is_file():
        names = (names - {index.name}) | {_WEIGHTS[0]}
    else:
        names |= set(read_json(index).get("weight_map", {}).values())
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise UserError(f"{folder} lacks {missing[0]}, which its index lists: download the model again.")
    return {name: sha256(folder / name) for name in sorted(names)}


def decide_pooling(folder: Path, pooling: Pooling, levels: bool) -> Pooling:
    """What "auto" means for a transformers model: CLIP's projection, or else the class token.

    With levels it is the class token always: a projection has another width than the layers.
    """
    if pooling != "auto":
        return pooling
    config = read_json(folder / "config.json")
    towers = {"text_config", "vision_config", "projection_dim"} <= config.keys()
    return "projection" if not levels and (towers or _projecting(config)) else "cls"


def decide_precision(precision: Precision) -> Precision:
    """What "auto" means on this machine."""
    import torch

    from hm4sr.runtime import choose_precision

    dtype = choose_precision(precision, torch.device("cpu"))
    return "bfloat16" if dtype == torch.bfloat16 else "float32"


def load_model(folder: Path, name: str, pooling: Pooling) -> Any:
    """The model in a folder, in float32, ready for inference.

    Raises:
        UserError: it cannot be loaded, or its weights do not fill it.
    """
    import torch

    with quiet():
        import transformers

        kind = _projecting(read_json(folder / "config.json")) if pooling == "projection" else None
        loader = getattr(transformers, kind or "", transformers.AutoModel)
        with _explained(name, "the model"):
            model, info = loader.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    # A pooler on top of [CLS] is often left out of a checkpoint, and is seldom used.
    missing = sorted(key for key in info["missing_keys"] if pooling == "pooler" or "pooler" not in key)
    if missing and all("pooler" in key for key in missing):
        raise UserError(f"encoder {name}: its weights have no pooler: give --pooling cls or mean.")
    if missing:
        raise UserError(
            f"encoder {name}: {len(missing)} of the model's tensors are not in its weights "
            f"(first: {missing[0]}): download the model again."
        )
    return model.eval().requires_grad_(False)


def load_reader(folder: Path, name: str, modality: Modality) -> Any:
    """Tokenizer or image processor of the model in a folder.

    Raises:
        UserError: it cannot be loaded.
    """
    with quiet():
        from transformers import AutoImageProcessor, AutoTokenizer

        with _explained(name, f"the {_READER_NAMES[modality]}"):
            if modality == "text":
                return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            # Pillow's own resampling everywhere, whether or not torchvision is there: the same vectors.
            setting = {"backend": "pil"} if _transformers_version() >= 5 else {"use_fast": False}
            return AutoImageProcessor.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True, **setting
            )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from writing warnings and progress bars; what was set before comes back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as hf

        before, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
        hf.set_verbosity_error()
        hf.disable_progress_bar()
        try:
            yield
        finally:
            hf.set_verbosity(before)
            if bars:
                hf.enable_progress_bar()


def _check_files(folder: Path, name: str, modality: Modality) -> None:
    option = f"--{modality} {name}"
    if is_sentence_model(folder):
        for step in step_folders(folder):
            if not (step / "config.json").is_file():
                raise UserError(f"{option}: {step} has no config.json: download the model again.")
    folder = model_folder(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{option}: {folder} has no config.json: give the folder of a transformers model.")
    if not any((folder / weights).is_file() for weights in _WEIGHTS):
        pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if pickles:
            raise UserError(
                f"{option}: {folder} has only {pickles[0]}, which could execute code when loaded: "
                "safetensors are needed, save the model with safe_serialization or take a newer release."
            )
        raise UserError(
            f"{option}: {folder} has no model.safetensors: give a folder with the model's weights."
        )
    if not (folder / _WEIGHTS[0]).is_file():
        _check_index(folder / _WEIGHTS[1], option)
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{option}: {folder} has an adapter beside the model, whose weights could execute code when "
            "loaded: merge it into the model, or remove adapter_config.json."
        )
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise UserError(
            f"{option}: {folder / 'config.json'} is not a model's configuration: download it again."
        )
    kinds = _kinds(config)
    if kinds and modality not in kinds:
        other = "image" if modality == "text" else "text"
        raise UserError(
            f"{option} is a model for {other}s ({config.get('model_type')}): give it to --{other}, and "
            f"a {'BERT' if modality == 'text' else 'ViT'}-type model to --{modality}."
        )
    if not any(True for pattern in _READERS[modality] for _ in folder.glob(pattern)):
        raise UserError(
            f"{option}: {folder} has no {_READER_NAMES[modality]} ({_READERS[modality][0]}): "
            "add the files that were published with the model."
        )


def _check_index(index: Path, option: str) -> None:
    """An index of parts may name any file; transformers would open one of another kind as a pickle."""
    about = read_json(index)
    parts = about.get("weight_map") if isinstance(about, dict) else None
    if not isinstance(parts, dict) or not parts:
        raise UserError(f"{option}: {index} names no weights: download the model again.")
    for part in map(str, parts.values()):
        if Path(part).name != part or not part.endswith(".safetensors"):
            raise UserError(
                f"{option}: {index} names {part!r}, which could execute code when loaded or lies elsewhere: "
                "safetensors beside it are needed, take a newer release."
            )


def _projecting(config: dict[str, Any]) -> str | None:
    """Class of a checkpoint that is one tower with its projection; transformers' AutoModel drops that."""
    names = [name for name in config.get("architectures") or [] if str(name).endswith("WithProjection")]
    return str(names[0]) if names else None


def _kinds(config: dict[str, Any]) -> set[str]:
    """What a model reads, as far as its configuration tells; an empty set if it does not."""
    kinds = set()
    if "vocab_size" in config or "text_config" in config:
        kinds.add("text")
    if {"num_channels", "patch_size", "vision_config"} & config.keys():
        kinds.add("image")
    return kinds


def _from_hub(name: str, modality: Modality) -> Path:
    """Folder of a model from the hub: the local copy where it is complete, or else downloaded."""
    if not _HUB_NAME.fullmatch(name):
        raise UserError(
            f"--{modality} {name}: there is no such folder: give the folder of a model, its name on the hub, "
            f"or `{BUILTIN}`."
        )
    with quiet():
        import huggingface_hub as hub
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

        with contextlib.suppress(OSError, ValueError, UserError):
            folder = Path(hub.snapshot_download(name, local_files_only=True))
            _check_files(folder, name, modality)
            return folder
        try:
            # One question without retries first: where there is no network the user hears of it at once.
            info = hub.HfApi().model_info(name, timeout=HUB_SECONDS)
            if not any(file.rfilename in _WEIGHTS for file in info.siblings or []):
                raise UserError(
                    f"--{modality} {name}: the hub has no model.safetensors for it, and other weights could "
                    "execute code when loaded: take a model with safetensors."
                )
            files = [file.rfilename for file in info.siblings or [] if _FILES.fullmatch(file.rfilename)]
            return Path(hub.snapshot_download(name, allow_patterns=files))
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise UserError(
                f"--{modality} {name}: there is no such folder, and the model hub shows no public model "
                f"of that name: check it, log in with `hf auth login` if the model is private, or "
                f"give `{BUILTIN}`."
            ) from error
        except UserError:
            raise
        except Exception as error:  # httpx, requests, OSError: each release of the hub's client has its own
            reason = (
                f"answered {error.response.status_code}"
                if isinstance(error, HfHubHTTPError)
                else "was not reachable"
            )
            raise UserError(
                f"--{modality} {name}: there is no such folder, and the model hub {reason}: "
                f"give the folder of a model, or `{BUILTIN}`, which needs no download."
            ) from error


@contextlib.contextmanager
def _explained(name: str, part: str) -> Iterator[None]:
    """Turn whatever loading raises into one sentence: damaged files fail in dozens of ways."""
    try:
        yield
    except (KeyboardInterrupt, MemoryError, UserError):
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
        raise UserError(
            f"encoder {name}: {part} cannot be loaded ({first}): give the folder of a whole BERT- or "
            "ViT-type model."
        ) from error


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _transformers_version() -> int:
    import transformers

    return int(transformers.__version__.split(".")[0])
