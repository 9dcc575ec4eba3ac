"""Layers, levels, poolings; CLIP; sentence-transformers: each against transformers, one input at a time."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_kit import make_bert, make_clip, make_sentence_model, make_texts, make_vit, noise
from PIL import Image

from hm4sr.errors import UserError
from hm4sr.features.encoder import Encoded
from hm4sr.features.image import PretrainedImage
from hm4sr.features.text import PretrainedText

transformers = pytest.importorskip("transformers")

TEXTS = [*make_texts(9), "soap"]
SIZES = [(32, 32), (50, 20), (8, 8), (9, 90)]
PICTURES = [Image.fromarray(noise(*size, seed=row)) for row, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "bert": make_bert(folder / "bert"),
        "vit": make_vit(folder / "vit"),
        "clip": make_clip(folder / "clip"),
        "clip text": make_clip(folder / "clip-text", "text"),
        "clip image": make_clip(folder / "clip-image", "image"),
        "sentence": make_sentence_model(folder / "sentence"),
    }


def encode(name: Path, pooling: str = "auto", precision: str = "float32", **options: Any) -> Encoded:
    """Texts in the order of TEXTS."""
    parts = list(PretrainedText(str(name), pooling, precision, 4, **options).encode(TEXTS))
    back = np.argsort([row for rows, _ in parts for row in rows])
    levels = [part.levels for _, part in parts if part.levels is not None]
    return Encoded(
        np.concatenate([part.vectors for _, part in parts])[back],
        np.concatenate(levels)[back] if levels else None,
        parts[0][1].start,
    )


def look(name: Path, pooling: str = "auto", precision: str = "float32", **options: Any) -> Encoded:
    encoder = PretrainedImage(str(name), pooling, precision, 4, **options)
    return encoder.encode([encoder.prepare(picture) for picture in PICTURES])


def tokens(folder: Path, text: str, limit: int = 24) -> dict[str, torch.Tensor]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return dict(tokenizer(text, truncation=True, max_length=limit, return_tensors="pt"))


def pixels(picture: Image.Image, resample: Image.Resampling = Image.Resampling.BILINEAR) -> torch.Tensor:
    values = np.asarray(picture.resize((32, 32), resample), dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(values.transpose(2, 0, 1)[None].copy())


@functools.cache
def bert_states(folder: Path) -> list[tuple[torch.Tensor, ...]]:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return [model(**tokens(folder, text), output_hidden_states=True).hidden_states for text in TEXTS]


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
@pytest.mark.parametrize("layer", [-1, 2, -2, 1, 0, -3])
def test_every_layer_of_a_text_model(models: dict[str, Path], pooling: str, layer: int) -> None:
    vectors = encode(models["bert"], pooling, layer=layer).vectors
    for states, vector in zip(bert_states(models["bert"]), vectors, strict=True):
        hidden = states[layer][0]
        expected = {"cls": hidden[0], "mean": hidden.mean(0), "max": hidden.amax(0), "last": hidden[-1]}[
            pooling
        ]
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("layer", [-1, -2, 0])
def test_levels_of_a_text_model_come_from_the_same_pass(models: dict[str, Path], layer: int) -> None:
    encoded = encode(models["bert"], "mean", layer=layer, levels=True)
    assert encoded.levels is not None
    assert (encoded.levels.dtype, encoded.levels.shape) == (np.float16, (len(TEXTS), 2, 32))
    for row, states in enumerate(bert_states(models["bert"])):
        np.testing.assert_allclose(encoded.vectors[row], states[layer][0].mean(0), atol=1e-5)
        np.testing.assert_allclose(encoded.start, states[0][0, 0], atol=1e-5)
        for level in (1, 2):
            np.testing.assert_allclose(
                encoded.levels[row, level - 1], states[level][0, 0], rtol=2e-3, atol=5e-3
            )


def test_levels_of_a_picture_model(models: dict[str, Path]) -> None:
    encoded = look(models["vit"], levels=True)
    early = look(models["vit"], "mean", layer=1).vectors
    model = transformers.AutoModel.from_pretrained(models["vit"]).eval()
    assert encoded.levels is not None
    for row, picture in enumerate(PICTURES):
        with torch.inference_mode():
            output = model(pixels(picture), output_hidden_states=True)
        np.testing.assert_allclose(encoded.vectors[row], output.last_hidden_state[0, 0], atol=1e-5)
        np.testing.assert_allclose(encoded.start, output.hidden_states[0][0, 0], atol=1e-5)
        np.testing.assert_allclose(
            encoded.levels[row, 0], output.hidden_states[1][0, 0], rtol=2e-3, atol=5e-3
        )
        np.testing.assert_allclose(early[row], output.hidden_states[1][0, 1:].mean(0), atol=1e-5)


def test_the_pooler_of_a_bert(models: dict[str, Path]) -> None:
    model = transformers.AutoModel.from_pretrained(models["bert"]).eval()
    vectors = encode(models["bert"], "pooler").vectors
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.inference_mode():
            expected = model(**tokens(models["bert"], text)).pooler_output[0]
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "clip text"])
def test_texts_through_clip(models: dict[str, Path], kind: str) -> None:
    whole = transformers.CLIPTextModelWithProjection.from_pretrained(models["clip text"]).eval()
    if kind == "clip":
        whole = transformers.CLIPTextModelWithProjection.from_pretrained(models["clip"]).eval()
    projected, pooled = encode(models[kind]).vectors, encode(models[kind], "pooler").vectors
    mean = encode(models[kind], "mean").vectors
    assert (projected.shape[1], pooled.shape[1]) == (24, 32)
    for row, text in enumerate(TEXTS):
        with torch.inference_mode():
            output = whole(
                **{key: value for key, value in tokens(models[kind], text, 16).items() if "type" not in key}
            )
            inner = whole.text_model(tokens(models[kind], text, 16)["input_ids"])
        np.testing.assert_allclose(projected[row], output.text_embeds[0], atol=1e-4)
        np.testing.assert_allclose(pooled[row], inner.pooler_output[0], atol=1e-4)
        np.testing.assert_allclose(mean[row], inner.last_hidden_state[0].mean(0), atol=1e-4)


@pytest.mark.parametrize("kind", ["clip", "clip image"])
def test_pictures_through_clip(models: dict[str, Path], kind: str) -> None:
    whole = transformers.CLIPVisionModelWithProjection.from_pretrained(models[kind]).eval()
    projected, hidden = look(models[kind]), look(models[kind], levels=True)
    assert hidden.levels is not None
    assert (projected.vectors.shape[1], hidden.vectors.shape[1], hidden.levels.shape[1]) == (24, 48, 3)
    for row, picture in enumerate(PICTURES):
        with torch.inference_mode():
            values = pixels(picture, Image.Resampling.BICUBIC)
            output = whole(values)
        np.testing.assert_allclose(projected.vectors[row], output.image_embeds[0], atol=1e-3)
        np.testing.assert_allclose(hidden.vectors[row], output.last_hidden_state[0, 0], atol=1e-3)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_the_steps_of_a_sentence_model(tmp_path: Path, old: bool, dense: bool) -> None:
    folder = make_sentence_model(tmp_path / "model", old, dense)
    vectors = encode(folder).vectors
    model = transformers.AutoModel.from_pretrained(folder).eval()
    torch.manual_seed(4)
    weight, bias = torch.randn(20, 32), torch.randn(20)
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.inference_mode():
            expected = model(**tokens(folder, text, 16)).last_hidden_state[0].mean(0)
        if dense:
            expected = torch.tanh(weight @ expected + bias)
        np.testing.assert_allclose(vector, torch.nn.functional.normalize(expected, dim=0), atol=1e-5)
    assert encode(folder, "cls").vectors.shape[1] == 32


def test_a_sentence_model_may_lie_in_subfolders_and_have_a_prompt(tmp_path: Path) -> None:
    plain = make_sentence_model(tmp_path / "plain", dense=False)
    nested = make_sentence_model(tmp_path / "nested", dense=False)
    inner = nested / "0_Transformer"
    inner.mkdir()
    for file in list(nested.iterdir()):
        if file.is_file() and file.name != "modules.json":
            file.rename(inner / file.name)
    modules = json.loads((nested / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (nested / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_array_equal(encode(nested).vectors, encode(plain).vectors)
    key = PretrainedText(str(nested), "auto", "float32", 4).card.key
    about = {"prompts": {"item": "rose cream "}, "default_prompt_name": "item"}
    (nested / "config_sentence_transformers.json").write_text(json.dumps(about))
    assert PretrainedText(str(nested), "auto", "float32", 4).card.key != key
    prompted = encode(nested).vectors[TEXTS.index("soap")]
    [(_, alone)] = PretrainedText(str(plain), "auto", "float32", 4).encode(["rose cream soap"])
    np.testing.assert_allclose(prompted, alone.vectors[0], atol=1e-6)


def test_the_key_follows_every_step(models: dict[str, Path], tmp_path: Path) -> None:
    folder = make_sentence_model(tmp_path / "model")
    before = PretrainedText(str(folder), "auto", "float32", 4).card.key
    assert before == PretrainedText(str(models["sentence"]), "auto", "float32", 4).card.key
    weights = bytearray((folder / "2_Dense" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "2_Dense" / "model.safetensors").write_bytes(weights)
    assert PretrainedText(str(folder), "auto", "float32", 4).card.key != before
    keys = {
        PretrainedText(str(models["bert"]), "cls", "float32", 4, layer, levels).card.key
        for layer in (-1, 1)
        for levels in (False, True)
    }
    assert len(keys) == 4


def test_bfloat16_stays_close(models: dict[str, Path]) -> None:
    for exact, coarse in (
        (encode(models["bert"]), encode(models["bert"], precision="bfloat16")),
        (look(models["vit"]), look(models["vit"], precision="bfloat16")),
        (look(models["clip"]), look(models["clip"], precision="bfloat16")),
    ):
        assert not np.array_equal(exact.vectors, coarse.vectors)
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (exact.vectors, coarse.vectors))
        assert (a * b).sum(1).min() > 0.99


def test_what_a_model_lacks_is_said(models: dict[str, Path], tmp_path: Path) -> None:
    odd = make_sentence_model(tmp_path / "odd")
    (odd / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": ["mean", "max"]}))
    strange = make_sentence_model(tmp_path / "strange")
    modules = json.loads((strange / "modules.json").read_text())
    modules[2]["type"] = "somewhere.LSTM"
    (strange / "modules.json").write_text(json.dumps(modules))
    outside = make_sentence_model(tmp_path / "outside")
    modules[0]["path"] = "../bert"
    (outside / "modules.json").write_text(json.dumps(modules))
    dense = make_sentence_model(tmp_path / "dense")
    (dense / "2_Dense" / "model.safetensors").unlink()
    poolerless = tmp_path / "poolerless"
    config = transformers.AutoConfig.from_pretrained(models["bert"])
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(poolerless)
    (poolerless / "vocab.txt").write_text((models["bert"] / "vocab.txt").read_text())
    half = make_sentence_model(tmp_path / "half")
    (half / "1_Pooling" / "config.json").unlink()
    cases: list[tuple[Any, Path, str, dict[str, Any], str]] = [
        (encode, half, "auto", {}, "1_Pooling has no config.json"),
        (encode, models["bert"], "auto", {"layer": 3}, "has 2 layers: --layer 3"),
        (encode, models["bert"], "auto", {"layer": -4}, "has 2 layers: --layer -4"),
        (encode, models["bert"], "projection", {}, "has no projection"),
        (encode, poolerless, "pooler", {}, "no pooler"),
        (encode, models["clip"], "auto", {"levels": True}, "leave out --levels|--pooling mean"),
        (encode, models["clip"], "mean", {"levels": True}, "leave out --levels"),
        (look, models["clip"], "projection", {"levels": True}, "48 wide and its vectors 24"),
        (look, models["vit"], "last", {}, "last patch"),
        (encode, models["sentence"], "auto", {"levels": True}, "32 wide and its vectors 20"),
        (encode, odd, "auto", {}, r"pooling \(mean and max\) is not known"),
        (encode, strange, "auto", {}, "step 'LSTM' is not known"),
        (encode, outside, "auto", {}, "leads out of its folder"),
        (encode, dense, "auto", {}, "2_Dense has no model.safetensors"),
    ]
    for function, folder, pooling, options, sentence in cases:
        with pytest.raises(UserError, match=sentence) as caught:
            function(folder, pooling, **options)
        assert "\n" not in str(caught.value)
