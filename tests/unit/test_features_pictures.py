import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from feature_kit import noise, png_header
from PIL import Image

from hm4sr.features import pictures
from hm4sr.features.pictures import PictureError, picture_key, read_ahead, read_picture


def read(path: Path) -> Image.Image:
    before = path.read_bytes()
    try:
        return read_picture(path, picture_key(path))
    finally:
        assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    kind = {"CMYK": "jpg", "YCbCr": "jpg", "I": "tif", "F": "tif"}.get(mode, "png")
    path = tmp_path / f"picture.{kind}"
    if mode == "I;16":
        Image.fromarray(np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)).save(path)
    else:
        Image.fromarray(noise(30, 20)).convert(mode).save(path)
    picture = read(path)
    assert (picture.mode, picture.size) == ("RGB", (30, 20))
    assert np.asarray(picture).std() > 20


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    palette = Image.new("P", (9, 9), 0)
    palette.putpalette([200, 0, 0])
    palette.save(tmp_path / "clear.gif", transparency=0)
    for name in ("clear.png", "clear.gif"):
        assert read(tmp_path / name).getpixel((4, 4)) == (255, 255, 255)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (10, 10), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    red, _, blue = read(tmp_path / "moving.gif").getpixel((5, 5))
    assert red > 240
    assert blue < 15


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_exif_turns_the_picture_and_damaged_exif_does_not_lose_it(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    picture = read(tmp_path / "turned.png")
    assert picture.size == (16, 32)
    assert np.asarray(picture)[:16].min() == 255
    Image.fromarray(pixels).save(tmp_path / "odd.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read(tmp_path / "odd.jpg").size == (32, 16)


def test_a_wrong_extension_is_fine(tmp_path: Path) -> None:
    Image.fromarray(noise(20, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg").size == (20, 20)


@pytest.mark.parametrize(("size", "expected"), [((1, 1), (8, 8)), ((3, 10), (9, 30)), ((2000, 2), (128, 8))])
def test_tiny_and_thin_pictures_get_a_workable_size(
    tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").size == expected


def icon_of(png: bytes) -> bytes:
    """An ICO that says 16 x 16 and holds any PNG: Pillow decodes that one when the file is opened."""
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(png), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + png


def test_broken_pictures_have_a_reason(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(whole, "JPEG")
    contents = {
        "empty.jpg": (b"", "empty"),
        "cut.jpg": (whole.getvalue()[:900], "damaged"),
        "page.jpg": (b"<html>not found</html>", "not a picture"),
        "bomb.png": (png_header(60_000, 60_000), f"limit of {pictures.MAX_PIXELS:,}"),
        "large.png": (png_header(9_000, 9_000), "9,000 x 9,000 pixels exceed the limit"),
        "bomb.ico": (icon_of(png_header(60_000, 60_000)), "not a picture"),
        "drawing.eps": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
            "not a picture",
        ),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PictureError, match=reason):
            read(tmp_path / name)
    with pytest.raises(PictureError, match="no such file"):
        picture_key(tmp_path / "absent.jpg")
    with pytest.raises(PictureError, match="no such file"):
        picture_key(tmp_path)
    with pytest.raises(PictureError, match="no such file"):
        picture_key(Path("a\0b"))


def test_a_file_beyond_the_limit_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(noise(20, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "MAX_BYTES", 100)
    with pytest.raises(PictureError, match="limit of 100"):
        picture_key(tmp_path / "a.png")


def test_a_file_that_changes_between_the_readings(tmp_path: Path) -> None:
    Image.fromarray(noise(20, 20)).save(tmp_path / "a.png")
    with pytest.raises(PictureError, match="has changed"):
        read_picture(tmp_path / "a.png", hashlib.sha256(b"").digest())


def test_reading_ahead_keeps_the_order_and_stays_close() -> None:
    started: list[int] = []

    def half(value: int) -> int:
        started.append(value)
        if value % 5 == 0:
            raise PictureError(f"{value}")
        return value // 2

    for value, result in read_ahead(half, range(40), threads=2, depth=6):
        assert max(started) < value + 6
        assert str(result) == str(value) if value % 5 == 0 else result == value // 2
