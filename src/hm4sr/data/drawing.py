"""Pictures of the simulated shop: the outline tells the category, palette and pattern tell the taste."""

import colorsys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hm4sr.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

PICTURE_TASTES: dict[str, tuple[str, str, str]] = {
    "coral stripes": ("#e4572e", "#ffd9c7", "stripes"),
    "teal dots": ("#12908e", "#c9f2e7", "dots"),
    "navy checks": ("#1f3a7a", "#9fc4f0", "checks"),
    "mustard zigzag": ("#d99a0b", "#fff0bf", "zigzag"),
    "plum waves": ("#6d2a77", "#d9b3e6", "waves"),
    "forest diagonals": ("#2f6b2f", "#bfdc9a", "diagonals"),
    "charcoal grid": ("#3a3d42", "#c4c8cf", "grid"),
    "rose diamonds": ("#d6457f", "#ffd0e1", "diamonds"),
}
"""Name of a taste to its two colours and its pattern."""

Rectangle = tuple[float, float, float, float]
_OVERSAMPLING = 2


def draw_product(category: int, taste: int, size: int, generator: np.random.Generator) -> "Image":
    """Draw one product on a light ground.

    Args:
        category: which of the outlines; counted modulo their number.
        taste: row of PICTURE_TASTES.
        size: width and height in pixels.
        generator: source of the small differences between products of one taste.

    Raises:
        UserError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFilter
    except ImportError as error:
        raise UserError(
            "drawing pictures needs Pillow, which is missing: pip install 'hm4sr[features]'."
        ) from error
    side = size * _OVERSAMPLING
    first, second, pattern = list(PICTURE_TASTES.values())[taste]
    shift = generator.normal(0.0, [0.012, 0.04, 0.05])
    scale, turn, phase, zoom = generator.uniform([0.75, -6.0, 0.0, 0.88], [1.25, 6.0, 1.0, 1.02])
    chosen = _pattern(pattern, side, side / 7 * scale, phase)
    colours = np.array([_shifted(first, shift), _shifted(second, shift)], dtype=np.uint8)
    fill = Image.fromarray(colours[1 - chosen.astype(np.int8)])

    outline = Image.new("L", (side, side), 0)
    _OUTLINES[category % len(_OUTLINES)](_Pen(ImageDraw.Draw(outline), side, zoom))
    outline = outline.rotate(turn, resample=Image.Resampling.BILINEAR)
    ground = Image.new("RGB", (side, side), "#f6f5f2")
    shadow = outline.filter(ImageFilter.GaussianBlur(side / 40)).point([level // 3 for level in range(256)])
    ground.paste(Image.new("RGB", (side, side), "#55524c"), (side // 60, side // 30), shadow)
    ground.paste(fill, (0, 0), outline)
    return ground.resize((size, size), Image.Resampling.BOX)


class _Pen:
    """Draws in a unit square that is scaled about its centre."""

    def __init__(self, draw: "ImageDraw", side: int, zoom: float):
        self.draw, self.side, self.zoom = draw, side, zoom

    def _at(self, *values: float) -> list[float]:
        return [(0.5 + (value - 0.5) * self.zoom) * self.side for value in values]

    def box(self, *box: float, radius: float = 0.0) -> None:
        self.draw.rounded_rectangle(self._at(*box), radius * self.side, fill=255)

    def oval(self, *box: float) -> None:
        self.draw.ellipse(self._at(*box), fill=255)

    def ring(self, *box: float, width: float) -> None:
        self.draw.ellipse(self._at(*box), outline=255, width=round(width * self.side))

    def arc(self, *box: float, start: float, end: float, width: float) -> None:
        self.draw.arc(self._at(*box), start, end, fill=255, width=round(width * self.side))

    def pie(self, *box: float, start: float, end: float) -> None:
        left, top, right, bottom = self._at(*box)
        self.draw.pieslice((left, top, right, bottom), start, end, fill=255)

    def shape(self, *points: float) -> None:
        self.draw.polygon(self._at(*points), fill=255)


def _cup(pen: _Pen) -> None:
    pen.ring(0.58, 0.34, 0.92, 0.68, width=0.06)
    pen.shape(0.16, 0.24, 0.74, 0.24, 0.68, 0.82, 0.22, 0.82)


def _plate(pen: _Pen) -> None:
    pen.ring(0.08, 0.08, 0.92, 0.92, width=0.13)
    pen.oval(0.25, 0.25, 0.75, 0.75)


def _bottle(pen: _Pen) -> None:
    pen.box(0.41, 0.06, 0.59, 0.14, radius=0.02)
    pen.shape(0.44, 0.16, 0.56, 0.16, 0.57, 0.3, 0.69, 0.44, 0.31, 0.44, 0.43, 0.3)
    pen.box(0.31, 0.4, 0.69, 0.94, radius=0.05)


def _hat(pen: _Pen) -> None:
    pen.pie(0.26, 0.2, 0.74, 0.96, start=180, end=360)
    pen.oval(0.06, 0.54, 0.94, 0.78)


def _scarf(pen: _Pen) -> None:
    pen.ring(0.22, 0.08, 0.78, 0.5, width=0.14)
    pen.shape(0.34, 0.42, 0.56, 0.42, 0.5, 0.92, 0.26, 0.92)
    pen.shape(0.52, 0.42, 0.7, 0.38, 0.78, 0.8, 0.58, 0.84)


def _shoe(pen: _Pen) -> None:
    pen.shape(0.08, 0.26, 0.4, 0.26, 0.5, 0.44, 0.8, 0.54, 0.92, 0.66, 0.92, 0.7, 0.08, 0.7)
    pen.box(0.06, 0.73, 0.94, 0.82, radius=0.03)


def _lamp(pen: _Pen) -> None:
    pen.shape(0.34, 0.08, 0.66, 0.08, 0.84, 0.48, 0.16, 0.48)
    pen.box(0.47, 0.48, 0.53, 0.84)
    pen.oval(0.28, 0.8, 0.72, 0.94)


def _cushion(pen: _Pen) -> None:
    pen.box(0.14, 0.14, 0.86, 0.86, radius=0.12)
    for left, top in ((0.08, 0.08), (0.78, 0.08), (0.08, 0.78), (0.78, 0.78)):
        pen.oval(left, top, left + 0.14, top + 0.14)


def _vase(pen: _Pen) -> None:
    pen.box(0.36, 0.08, 0.64, 0.14, radius=0.02)
    pen.shape(0.4, 0.14, 0.6, 0.14, 0.58, 0.34, 0.42, 0.34)
    pen.oval(0.22, 0.28, 0.78, 0.88)
    pen.box(0.36, 0.82, 0.64, 0.93, radius=0.02)


def _bag(pen: _Pen) -> None:
    pen.arc(0.3, 0.1, 0.7, 0.62, start=180, end=360, width=0.05)
    pen.shape(0.16, 0.36, 0.84, 0.36, 0.92, 0.9, 0.08, 0.9)


def _umbrella(pen: _Pen) -> None:
    pen.box(0.48, 0.06, 0.52, 0.84)
    pen.pie(0.06, 0.12, 0.94, 0.96, start=180, end=360)
    pen.arc(0.36, 0.76, 0.52, 0.94, start=0, end=180, width=0.04)


def _notebook(pen: _Pen) -> None:
    pen.box(0.24, 0.1, 0.82, 0.9, radius=0.04)
    for ring in range(6):
        pen.box(0.15, 0.17 + 0.125 * ring, 0.22, 0.21 + 0.125 * ring, radius=0.02)


_OUTLINES: list[Callable[[_Pen], None]] = [
    _cup, _plate, _bottle, _hat, _scarf, _shoe, _lamp, _cushion, _vase, _bag, _umbrella, _notebook,
]  # fmt: skip


def _pattern(name: str, side: int, period: float, phase: float) -> NDArray[np.bool_]:
    """Where a pattern shows its first colour (side x side)."""
    y, x = np.mgrid[:side, :side] / period + phase
    chosen: NDArray[np.bool_]
    match name:
        case "stripes":
            chosen = x % 1 < 0.6
        case "dots":
            chosen = (x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 > 0.09
        case "checks":
            chosen = (x % 2 < 1) ^ (y % 2 < 1)
        case "zigzag":
            chosen = (y + np.abs(x % 1 - 0.5)) % 1 < 0.6
        case "waves":
            chosen = (y + 0.25 * np.sin(np.pi * x)) % 1 < 0.6
        case "diagonals":
            chosen = (x + y) * 0.7 % 1 < 0.6
        case "grid":
            chosen = (x % 1 > 0.2) & (y % 1 > 0.2)
        case "diamonds":
            chosen = np.abs(x % 1 - 0.5) + np.abs(y % 1 - 0.5) > 0.34
        case _:
            raise AssertionError(name)
    return chosen


def _shifted(colour: str, shift: NDArray[np.float64]) -> tuple[int, int, int]:
    """A colour moved a little in hue, lightness and saturation."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    hue, light, strong = colorsys.rgb_to_hls(red, green, blue)
    moved = colorsys.hls_to_rgb(
        (hue + shift[0]) % 1.0,
        min(max(light + shift[1] * 0.6, 0.0), 1.0),
        min(max(strong + shift[2], 0.0), 1.0),
    )
    return round(moved[0] * 255), round(moved[1] * 255), round(moved[2] * 255)
