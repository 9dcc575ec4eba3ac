"""Tiny encoders with random weights, tiny data sets, and pictures of all sorts."""

import json
from pathlib import Path

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
    about = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random pixels (height x width x channels, uint8)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
