import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_kit import make_bert, make_texts, make_vit, noise
from PIL import Image

from hm4sr.errors import UserError
from hm4sr.features import pretrained
from hm4sr.features.image import PretrainedImage
from hm4sr.features.text import PretrainedText

MODELS = Path(__file__).parents[3] / "shared" / "models"

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vit(tmp_path_factory.mktemp("models") / "vit")


def encode_texts(encoder: PretrainedText, texts: list[str]) -> np.ndarray:
    result = np.full((len(texts), 32), np.nan, dtype=np.float32)
    for rows, encoded in encoder.encode(texts):
        result[rows] = encoded.vectors
    return result


def encode_pictures(encoder: PretrainedImage, pictures: list[Image.Image]) -> np.ndarray:
    return encoder.encode([encoder.prepare(picture) for picture in pictures]).vectors


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_texts_agree_with_transformers_one_by_one(bert: Path, pooling: str) -> None:
    texts = [*make_texts(30), "", "soap " * 100]
    vectors = encode_texts(PretrainedText(str(bert), pooling, "float32", 7), texts)
    model = transformers.AutoModel.from_pretrained(bert).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    for text, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            hidden = model(
                **tokenizer(text, truncation=True, max_length=24, return_tensors="pt")
            ).last_hidden_state
        expected = hidden[0, 0] if pooling == "cls" else hidden[0].mean(0)
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_batch_size_and_company_do_not_change_texts(bert: Path) -> None:
    texts = make_texts(40)
    first = encode_texts(PretrainedText(str(bert), "cls", "float32", 40), texts)
    second = encode_texts(PretrainedText(str(bert), "cls", "float32", 3), texts[::-1])[::-1]
    np.testing.assert_allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pictures_agree_with_transformers_one_by_one(vit: Path, pooling: str) -> None:
    sizes = [(32, 32), (50, 20), (8, 8), (9, 200), (8, 30)]
    pictures = [Image.fromarray(noise(*size, seed=row)) for row, size in enumerate(sizes)]
    vectors = encode_pictures(PretrainedImage(str(vit), pooling, "float32", 8), pictures)
    model = transformers.AutoModel.from_pretrained(vit).eval()
    for picture, vector in zip(pictures, vectors, strict=True):
        pixels = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32) / 127.5 - 1
        with torch.inference_mode():
            hidden = model(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden[0] if pooling == "cls" else hidden[1:].mean(0), atol=1e-5)


def test_batch_size_does_not_change_pictures(vit: Path) -> None:
    encoder = PretrainedImage(str(vit), "cls", "float32", 8)
    pictures = [Image.fromarray(noise(40, 30, seed=seed)) for seed in range(9)]
    alone = np.concatenate([encode_pictures(encoder, [picture]) for picture in pictures])
    np.testing.assert_allclose(encode_pictures(encoder, pictures), alone, atol=1e-5)


def test_the_key_follows_content_and_settings(bert: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(bert, moved)
    key = PretrainedText(str(bert), "cls", "float32", 8).card.key
    assert PretrainedText(str(moved), "cls", "float32", 64).card.key == key
    assert PretrainedText(str(moved), "mean", "float32", 8).card.key != key
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert PretrainedText(str(moved), "cls", "float32", 8).card.key != key


def test_nothing_is_written_to_the_terminal(bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encode_texts(PretrainedText(str(bert), "cls", "float32", 8), make_texts(3))
    assert capfd.readouterr() == ("", "")


def changed(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_folders_that_cannot_be_used(bert: Path, vit: Path, tmp_path: Path) -> None:
    def copy(source: Path, name: str, *without: str) -> str:
        shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns(*without))
        return str(tmp_path / name)

    pickled = copy(bert, "pickled", "*.safetensors")
    (Path(pickled) / "pytorch_model.bin").write_bytes(b"never opened")
    cut = copy(bert, "cut")
    (Path(cut) / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes()[:1000])
    deeper = copy(bert, "deeper")
    changed(Path(deeper), num_hidden_layers=3)
    unknown = copy(bert, "unknown")
    changed(Path(unknown), model_type="never-heard-of")
    listed = copy(bert, "listed")
    (Path(listed) / "config.json").write_text("[1]")
    cases = [
        ("text", copy(bert, "bare", "config.json"), "no config.json"),
        ("text", copy(bert, "weightless", "*.safetensors"), "no model.safetensors"),
        ("text", pickled, "only pytorch_model.bin.*safetensors are needed"),
        ("text", copy(bert, "wordless", "vocab.txt", "tokenizer*"), "no tokenizer"),
        ("image", copy(vit, "blind", "preprocessor*"), "no image processor"),
        ("text", cut, "the model cannot be loaded"),
        ("text", deeper, "tensors are not in its weights"),
        ("text", unknown, "cannot be loaded"),
        ("text", listed, "not a model's configuration"),
        ("text", str(vit), "a model for images.*--image"),
        ("image", str(bert), "a model for texts.*--text"),
        ("text", str(tmp_path / "nowhere"), "no such folder"),
    ]

    def use(modality: str, folder: str) -> None:
        if modality == "text":
            encode_texts(PretrainedText(folder, "cls", "float32", 8), ["a"])
        else:
            encode_pictures(PretrainedImage(folder, "cls", "float32", 8), [Image.new("RGB", (9, 9))])

    for modality, folder, sentence in cases:
        with pytest.raises(UserError, match=sentence) as caught:
            use(modality, folder)
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(".")


def test_a_text_model_without_a_class_token_needs_mean_pooling(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gpt"
    shutil.copytree(
        bert, folder, ignore=shutil.ignore_patterns("model.safetensors", "config.json", "tokenizer.json")
    )
    torch.manual_seed(3)
    config = transformers.GPT2Config(vocab_size=60, n_positions=24, n_embd=32, n_layer=1, n_head=2)
    transformers.GPT2Model(config).save_pretrained(folder)
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "soap": 1, "hair": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[UNK]"
    )
    fast.save_pretrained(folder)
    with pytest.raises(UserError, match="--pooling mean"):
        encode_texts(PretrainedText(str(folder), "cls", "float32", 8), ["soap"])
    vectors = encode_texts(PretrainedText(str(folder), "mean", "float32", 8), ["soap hair soap", "soap"])
    assert np.isfinite(vectors).all()


def test_an_unreachable_hub_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError("not cached")),
    )
    with pytest.raises(UserError, match="hub was not reachable: give the folder of a model, or `builtin`"):
        PretrainedText("google-bert/bert-base-uncased", "cls", "float32", 8)


def test_a_model_from_the_hub_is_used_from_its_local_copy(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(bert))
    encoder = PretrainedText("some/bert", "cls", "float32", 8)
    assert (encoder.folder, encoder.card.name) == (bert, "some/bert")


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, bert: Path) -> None:
    monkeypatch.setattr(pretrained, "_installed", lambda package: package != "transformers")
    with pytest.raises(UserError, match=r"pip install 'hm4sr\[features\]'"):
        PretrainedText(str(bert), "cls", "float32", 8)


@pytest.mark.slow
@pytest.mark.skipif(not MODELS.is_dir(), reason="the pretrained encoders in ../shared/models are not here")
def test_bfloat16_stays_close_to_float32() -> None:
    texts = make_texts(16)
    pictures = [Image.fromarray(noise(60, 40, seed=seed)) for seed in range(4)]
    for name, sources in (("minilm-l6", texts), ("dinov2-small", pictures)):
        both = []
        for precision in ("float32", "bfloat16"):
            if name == "minilm-l6":
                [(rows, encoded)] = PretrainedText(str(MODELS / name), "cls", precision, 16).encode(sources)
                vectors = encoded.vectors[np.argsort(rows)]
            else:
                vectors = encode_pictures(PretrainedImage(str(MODELS / name), "cls", precision, 16), sources)
            both.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        assert (both[0] * both[1]).sum(1).min() > 0.999
