"""Shapes as a picture: PNG by Pillow, SVG as text.

Nothing is kept between two pictures, so any number of threads may draw at once, and the same shapes
give the same bytes. Pillow rather than a plotting library: a tenth of the memory and of the time,
no settings or font caches in somebody's home, nothing global.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import attrs
from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]


@attrs.frozen
class Box:
    """A filled rectangle."""

    part: str
    """What it stands for."""
    left: float
    top: float
    right: float
    bottom: float
    colour: str


@attrs.frozen
class Line:
    """A line through points."""

    part: str
    points: Sequence[Point]
    colour: str
    width: float = 1.0
    dashed: bool = False


@attrs.frozen
class Ring:
    """A circle that is not filled."""

    part: str
    x: float
    y: float
    radius: float
    colour: str
    width: float = 1.5


@attrs.frozen
class Words:
    """A line of text: ``y`` is its middle, ``x`` its left, its middle or its right end."""

    part: str
    x: float
    y: float
    text: str
    colour: str
    size: int
    align: Literal["l", "m", "r"] = "l"


Shape = Box | Line | Ring | Words

FINE = 3
"""How much larger than the picture its lines are drawn."""

BAND = 500_000
"""Pixels of the larger picture that are drawn at once: 2 MB."""

DASH = 5.0
"""Length of a dash and of the space after it."""


@attrs.frozen
class Fonts:
    """The one font there is, in the sizes that one picture needs."""

    _loaded: dict[int, ImageFont.FreeTypeFont] = attrs.field(factory=dict, init=False)

    def of(self, size: int) -> ImageFont.FreeTypeFont:
        """The font with letters of ``size`` pixels."""
        if size not in self._loaded:
            font = ImageFont.load_default(size)
            assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
            self._loaded[size] = font
        return self._loaded[size]

    def width(self, text: str, size: int) -> float:
        """Pixels that ``text`` takes."""
        return self.of(size).getlength(text)


def to_png(
    shapes: Sequence[Shape], width: int, height: int, background: str, fonts: Fonts
) -> bytes:
    """The shapes, in this order and all text above them, as a PNG."""
    image = Image.new("RGB", (width, height), background)
    # Pillow does not smooth lines: they are drawn larger and reduced, a band at a time, since what
    # is allocated at once is what a worker thread's heap keeps for ever.
    band = max(1, BAND // (width * FINE * FINE))
    for top in range(0, height, band):
        size = (width * FINE, min(band, height - top) * FINE)
        large = Image.new("RGB", size, background)
        draw = ImageDraw.Draw(large)
        for shape in shapes:
            _draw(draw, shape, top)
        image.paste(large.reduce(FINE), (0, top))
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        if isinstance(shape, Words):
            place = (round(shape.x), round(shape.y))
            draw.text(place, shape.text, shape.colour, fonts.of(shape.size), f"{shape.align}m")
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def to_svg(shapes: Sequence[Shape], width: int, height: int, background: str) -> bytes:
    """The shapes, in this order, as an SVG."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="{background}"/>',
        *map(_element, shapes),
        "</svg>",
    ]
    return ("\n".join(lines) + "\n").encode()


def _draw(draw: ImageDraw.ImageDraw, shape: Shape, top: int) -> None:
    """Larger, and moved up by ``top``; what lies outside is cut off.

    In whole pixels, rounded before it is moved, so that bands meet.
    """

    def place(x: float, y: float) -> tuple[int, int]:
        return round(x * FINE), round(y * FINE) - top * FINE

    match shape:
        case Box():
            (left, above), (right, below) = (
                place(shape.left, shape.top),
                place(shape.right, shape.bottom),
            )
            # The last pixel is drawn as well; something is seen of the thinnest box.
            draw.rectangle((left, above, max(left, right - 1), max(above, below - 1)), shape.colour)
        case Line():
            width = max(1, round(shape.width * FINE))
            for points in _dashes(shape.points) if shape.dashed else [shape.points]:
                joint: Literal["curve"] | None = "curve" if width > 3 else None
                draw.line([place(x, y) for x, y in points], shape.colour, width, joint)
        case Ring():
            draw.circle(
                place(shape.x, shape.y),
                shape.radius * FINE,
                outline=shape.colour,
                width=max(1, round(shape.width * FINE)),
            )
        case Words():
            pass  # drawn in the end, at its own size


def _dashes(points: Sequence[Point]) -> Iterator[Sequence[Point]]:
    """Of the straight line between the first point and the last."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    length = math.hypot(x1 - x0, y1 - y0)
    at = 0.0
    while at < length:
        ends = (at / length, min(at + DASH, length) / length)
        yield [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in ends]
        at += 2 * DASH


def _element(shape: Shape) -> str:
    part = f'class="{html.escape(shape.part)}"'
    match shape:
        case Box():
            width, height = max(0.3, shape.right - shape.left), max(0.3, shape.bottom - shape.top)
            return (
                f'<rect {part} x="{shape.left:.2f}" y="{shape.top:.2f}" width="{width:.2f}" '
                f'height="{height:.2f}" fill="{shape.colour}"/>'
            )
        case Line():
            points = " ".join(f"{x:.2f},{y:.2f}" for x, y in shape.points)
            dashed = f' stroke-dasharray="{DASH:g}"' if shape.dashed else ""
            return (
                f'<polyline {part} points="{points}" fill="none" stroke="{shape.colour}" '
                f'stroke-width="{shape.width:g}"{dashed}/>'
            )
        case Ring():
            return (
                f'<circle {part} cx="{shape.x:.2f}" cy="{shape.y:.2f}" r="{shape.radius:.2f}" '
                f'fill="none" stroke="{shape.colour}" stroke-width="{shape.width:g}"/>'
            )
        case Words():
            anchor = {"l": "start", "m": "middle", "r": "end"}[shape.align]
            return (
                f'<text {part} x="{shape.x:.2f}" y="{shape.y:.2f}" fill="{shape.colour}" '
                f'font-size="{shape.size}" text-anchor="{anchor}" dominant-baseline="central">'
                f"{html.escape(shape.text)}</text>"
            )
