import numpy as np
import pytest
from feature_kit import make_texts, noise
from PIL import Image, ImageDraw

from hm4sr.features.builtin import BuiltinImage, BuiltinText


def encode(texts: list[str]) -> np.ndarray:
    parts = list(BuiltinText().encode(texts))
    assert [row for rows, _ in parts for row in rows] == list(range(len(texts)))
    return np.concatenate([encoded.vectors for _, encoded in parts])


def describe(*pictures: Image.Image) -> np.ndarray:
    encoder = BuiltinImage(8)
    return encoder.encode([encoder.prepare(picture) for picture in pictures]).vectors


def drawn(shape: str, colour: str, shift: int = 0, stripes: bool = False) -> Image.Image:
    picture = Image.new("RGB", (96, 96), "#f6f5f2")
    draw = ImageDraw.Draw(picture)
    box = (20 + shift, 20, 76 + shift, 76)
    draw.ellipse(box, fill=colour) if shape == "disc" else draw.rectangle(box, fill=colour)
    if stripes:
        for x in range(20, 76, 8):
            draw.rectangle((x + shift, 20, x + shift + 3, 76), fill="white")
    return picture


def test_texts_give_the_same_vectors_alone_and_in_company() -> None:
    texts = make_texts(1500)
    together = encode(texts)
    assert together.shape == (1500, 256)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(encode([texts[1200]])[0], together[1200])


def test_texts_of_one_kind_are_closer_than_others() -> None:
    hair = ["shampoo for dry hair", "repairing hair shampoo, dry and damaged", "moisturising shampoos"]
    nails = ["red nail polish", "glitter nail lacquer polish", "nails: polish remover"]
    vectors = encode(hair + nails)
    similar = vectors @ vectors.T
    within = (similar[:3, :3].sum() + similar[3:, 3:].sum() - 6) / 12
    assert within > similar[:3, 3:].mean() + 0.2


@pytest.mark.parametrize("text", ["!!! ...", "\u6307\u7532\u6cb9", "a", "\ud800", "x" * 100_000])
def test_odd_texts_have_finite_vectors(text: str) -> None:
    vector = encode([text])[0]
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) > 0


def test_pictures_tell_shape_colour_and_pattern() -> None:
    same, other = drawn("disc", "#e4572e"), drawn("disc", "#e4572e", shift=3)
    vectors = describe(
        same,
        other,
        drawn("box", "#e4572e"),
        drawn("disc", "#1f3a7a"),
        drawn("disc", "#e4572e", stripes=True),
    )
    assert vectors.dtype == np.float32
    distances = np.linalg.norm(vectors - vectors[0], axis=1)
    assert distances[0] == 0
    assert (distances[2:] > 1.5 * distances[1]).all()


def test_one_colour_and_noise_have_finite_vectors() -> None:
    vectors = describe(
        Image.new("RGB", (8, 8)), Image.new("RGB", (900, 60), "white"), Image.fromarray(noise(50, 70))
    )
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors, axis=0)) == 3
