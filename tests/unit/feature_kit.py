"""Tiny encoders with random weights, tiny data sets, and pictures of all sorts."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from hm4sr.data.dataset import Dataset, save_dataset

WORDS = [
    "red",
    "blue",
    "green",
    "lip",
    "nail",
    "polish",
    "hair",
    "brush",
    "shampoo",
    "soap",
    "cream",
    "rose",
    "dry",
]


def make_dataset(path: Path, texts: list[str | None], images: list[str | None] | None = None) -> Dataset:
    """A prepared data set with one user and the given items; pictures lie beside it in `pictures/`."""
    count = len(texts)
    items = pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(count)],
            "title": texts,
            "brand": [None] * count,
            "categories": [["c"]] * count,
            "text": texts,
            "image": images or [None] * count,
        },
        schema_overrides={"title": pl.String, "brand": pl.String, "text": pl.String, "image": pl.String},
    )
    events = pl.DataFrame({"user": [0, 0, 0], "item": [1, 1, 1], "time": [1, 2, 3]})
    users = pl.DataFrame({"user_id": ["u"], "events": [3], "train_end": [1], "valid_end": [2]})
    rules = {"image_root": str(path.parent / "pictures")}
    return save_dataset(path, events, users, items, rules, {})


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Different texts of 1 to 40 known words."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(1, 41))) + f" {row}" for row in range(count)]


def make_bert(folder: Path) -> Path:
    """A BERT with two layers, 32 wide, that reads at most 24 tokens."""
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *map(str, range(10))]
    vocabulary += [f"##{digit}" for digit in range(10)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    about = {"tokenizer_class": "BertTokenizer", "model_max_length": 24, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def make_vit(folder: Path) -> Path:
    """A ViT with two layers, 32 wide, for pictures of 32 x 32 pixels in patches of 8."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(2)
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.5,
    )
    ViTModel(config).save_pretrained(folder)
    about = preprocessor("ViTImageProcessor", resample=2)
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder


def preprocessor(kind: str, **more: Any) -> dict[str, Any]:
    """Settings of an image processor that resizes to 32 x 32 and scales to -1..1."""
    return {
        "image_processor_type": kind,
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        **more,
    }


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random pixels (height x width x channels, uint8)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def make_sentence_model(folder: Path, old: bool = True, dense: bool = True) -> Path:
    """The BERT above with the steps of a sentence-transformers model: mean, dense to 20, length 1."""
    from safetensors.torch import save_file

    make_bert(folder)
    steps = ["Transformer", "Pooling", *(["Dense"] if dense else []), "Normalize"]
    package = "sentence_transformers.models" if old else "sentence_transformers.sentence_transformer.modules"
    modules = [
        {"idx": n, "name": str(n), "path": "" if n == 0 else f"{n}_{step}", "type": f"{package}.{step}"}
        for n, step in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    (folder / "1_Pooling").mkdir()
    flags = {
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
    }
    pooling = flags if old else {"pooling_mode": "mean"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    if dense:
        (folder / "2_Dense").mkdir()
        about = {"in_features": 32, "out_features": 20, "bias": True, "activation_function": "torch.nn.Tanh"}
        (folder / "2_Dense" / "config.json").write_text(json.dumps(about))
        torch.manual_seed(4)
        weights = {"linear.weight": torch.randn(20, 32), "linear.bias": torch.randn(20)}
        save_file(weights, folder / "2_Dense" / "model.safetensors")
    return folder


def make_clip(folder: Path, tower: str | None = None) -> Path:
    """A CLIP whose towers are 32 (texts) and 48 wide (pictures), projected to 24; or one tower alone."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    text = {
        "vocab_size": len(WORDS) + 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 3,
        "projection_dim": 24,
    }
    vision = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 24,
    }
    torch.manual_seed(5)
    whole = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    if tower is None:
        model = transformers.CLIPModel(whole)
    elif tower == "image":
        model = transformers.CLIPVisionModelWithProjection(whole.vision_config)
    else:
        model = transformers.CLIPTextModelWithProjection(whole.text_config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    ids = {"[PAD]": 0, "[BOS]": 1, "[UNK]": 2, "[EOS]": 3, **{word: 4 + n for n, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="[BOS]",
        eos_token="[EOS]",
        unk_token="[UNK]",
        pad_token="[PAD]",
        model_max_length=16,
    ).save_pretrained(folder)
    about = preprocessor("CLIPImageProcessor", do_center_crop=False)
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )
