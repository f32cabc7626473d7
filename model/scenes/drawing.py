"""Draws a scene with Pillow: flat shapes with outlines on a textured background.

Everything is placed in shares of the image's side and drawn at twice the size wanted, then halved, so that edges are
smooth at any size.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from vigc.model.scenes.world import Scene, SceneObject

Rgb = tuple[int, int, int]
Point = tuple[float, float]

_RGB: dict[str, Rgb] = {
    "red": (214, 36, 36),
    "green": (40, 150, 52),
    "blue": (36, 82, 210),
    "yellow": (242, 214, 40),
    "orange": (242, 134, 24),
    "purple": (142, 52, 170),
    "black": (34, 34, 38),
    "white": (244, 244, 244),
}
# Sky (or wall) and ground (or floor).
_GROUNDS: dict[str, tuple[Rgb, Rgb]] = {
    "beach": ((150, 206, 236), (232, 214, 164)),
    "park": ((172, 216, 240), (142, 196, 110)),
    "street": ((196, 206, 214), (138, 138, 144)),
    "room": ((226, 208, 188), (166, 122, 84)),
    "snowy field": ((198, 214, 230), (234, 240, 246)),
    "desert": ((246, 216, 170), (222, 174, 104)),
}


def render(scene: Scene, size: int) -> Image.Image:
    """The scene as an RGB image of size x size pixels; the same scene and size give the same pixels."""
    rng = random.Random(scene.seed + "/drawing")
    side = 2 * size
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    _background(draw, scene.background, side, rng)
    for thing in sorted(scene.objects, key=lambda o: o.box[1] + o.box[3]):  # what stands lower is nearer
        _thing(draw, thing, side, rng)
    pixels = np.asarray(image.reduce(2), dtype=np.int16)
    grain = np.random.default_rng(zlib.crc32(scene.seed.encode())).integers(-7, 8, size=pixels.shape, dtype=np.int16)
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def _background(draw: ImageDraw.ImageDraw, name: str, side: int, rng: random.Random) -> None:
    sky, ground = (_jitter(c, 10, rng) for c in _GROUNDS[name])
    horizon = round(side * rng.uniform(0.3, 0.55))
    draw.rectangle((0, 0, side, horizon), fill=sky)
    draw.rectangle((0, horizon, side, side), fill=ground)
    if name == "beach":
        draw.rectangle((0, horizon - side * 0.07, side, horizon), fill=_jitter((52, 128, 190), 12, rng))
    elif name == "street":
        for i in range(5):
            x = side * (0.04 + 0.2 * i)
            draw.rectangle((x, side * 0.93, x + side * 0.1, side * 0.95), fill=(236, 236, 220))
    elif name == "room":
        draw.line((0, horizon, side, horizon), fill=(110, 76, 50), width=max(2, side // 90))
        for i in range(1, 5):
            y = horizon + (side - horizon) * i / 5
            draw.line((0, y, side, y), fill=_shade(ground, 0.9), width=max(1, side // 200))
    elif name in ("park", "snowy field", "desert"):
        mark = {"park": 0.86, "snowy field": 0.95, "desert": 0.92}[name]
        for _ in range(26):
            x, y = rng.uniform(0, side), rng.uniform(horizon, side)
            length = side * rng.uniform(0.01, 0.03)
            if name == "park":
                draw.line((x, y, x + length * 0.3, y - length), fill=_shade(ground, mark), width=max(1, side // 180))
            else:
                draw.arc(
                    (x, y, x + 2.5 * length, y + length), 180, 360, fill=_shade(ground, mark), width=max(1, side // 180)
                )


def _thing(draw: ImageDraw.ImageDraw, thing: SceneObject, side: int, rng: random.Random) -> None:
    x, y, width, height = (v * side for v in thing.box)
    colour = _jitter(_RGB[thing.colour], 14, rng)
    _SHAPES[thing.category](_Pen(draw, x, y, width, height, colour, max(1, side // 170)))


def _jitter(colour: Rgb, amount: int, rng: random.Random) -> Rgb:
    red, green, blue = (min(255, max(0, c + rng.randint(-amount, amount))) for c in colour)
    return red, green, blue


def _shade(colour: Rgb, factor: float) -> Rgb:
    red, green, blue = (min(255, round(c * factor)) for c in colour)
    return red, green, blue


class _Pen:
    """Draws in the unit square of one object's box."""

    def __init__(
        self, draw: ImageDraw.ImageDraw, x: float, y: float, width: float, height: float, colour: Rgb, line: int
    ) -> None:
        self.draw, self.x, self.y, self.width, self.height, self.colour, self.line = (
            draw,
            x,
            y,
            width,
            height,
            colour,
            line,
        )
        dark = sum(colour) < 200
        self.edge: Rgb = (150, 150, 156) if dark else _shade(colour, 0.45)
        self.second: Rgb = (96, 96, 104) if dark else _shade(colour, 0.72)

    def at(self, point: Point) -> Point:
        return self.x + point[0] * self.width, self.y + point[1] * self.height

    def polygon(self, *points: Point, fill: Rgb | None = None) -> None:
        self.draw.polygon([self.at(p) for p in points], fill=fill or self.colour, outline=self.edge, width=self.line)

    def ellipse(self, left: float, top: float, right: float, bottom: float, fill: Rgb | None = None) -> None:
        self.draw.ellipse(
            (*self.at((left, top)), *self.at((right, bottom))),
            fill=fill or self.colour,
            outline=self.edge,
            width=self.line,
        )

    def box(self, left: float, top: float, right: float, bottom: float, fill: Rgb | None = None) -> None:
        self.draw.rectangle(
            (*self.at((left, top)), *self.at((right, bottom))),
            fill=fill or self.colour,
            outline=self.edge,
            width=self.line,
        )

    def stroke(self, *points: Point, fill: Rgb | None = None, width: float = 2.0) -> None:
        self.draw.line([self.at(p) for p in points], fill=fill or self.edge, width=max(1, round(self.line * width)))

    def pie(self, start: float, end: float, box: tuple[float, float, float, float], fill: Rgb | None = None) -> None:
        left, top, right, bottom = box
        self.draw.pieslice(
            (*self.at((left, top)), *self.at((right, bottom))),
            start,
            end,
            fill=fill or self.colour,
            outline=self.edge,
            width=self.line,
        )


def _ball(pen: _Pen) -> None:
    pen.ellipse(0, 0, 1, 1)
    pen.stroke((0.04, 0.38), (0.96, 0.38), width=1.5)
    pen.stroke((0.04, 0.62), (0.96, 0.62), width=1.5)


def _boat(pen: _Pen) -> None:
    pen.polygon((0, 0.66), (1, 0.66), (0.8, 1), (0.2, 1))
    pen.stroke((0.48, 0), (0.48, 0.66), width=2.5)
    pen.polygon((0.54, 0.04), (0.95, 0.58), (0.54, 0.58), fill=pen.second)


def _car(pen: _Pen) -> None:
    pen.polygon((0.2, 0.5), (0.32, 0.22), (0.7, 0.22), (0.84, 0.5))
    pen.box(0, 0.48, 1, 0.8)
    pen.polygon((0.29, 0.47), (0.37, 0.29), (0.5, 0.29), (0.5, 0.47), fill=(206, 226, 238))
    pen.ellipse(0.1, 0.66, 0.36, 0.96, fill=(48, 48, 50))
    pen.ellipse(0.64, 0.66, 0.9, 0.96, fill=(48, 48, 50))


def _chair(pen: _Pen) -> None:
    pen.box(0.14, 0, 0.3, 1)
    pen.box(0.14, 0.48, 0.88, 0.64)
    pen.box(0.74, 0.6, 0.88, 1)
    pen.box(0.14, 0.02, 0.42, 0.14)


def _clock(pen: _Pen) -> None:
    pen.ellipse(0, 0, 1, 1)
    pen.ellipse(0.16, 0.16, 0.84, 0.84, fill=(250, 248, 236))
    pen.stroke((0.5, 0.5), (0.5, 0.22), fill=(20, 20, 20), width=2.5)
    pen.stroke((0.5, 0.5), (0.7, 0.6), fill=(20, 20, 20), width=2.5)


def _cup(pen: _Pen) -> None:
    pen.ellipse(0.58, 0.3, 1, 0.74, fill=pen.second)
    pen.ellipse(0.68, 0.4, 0.9, 0.64, fill=(222, 222, 222))
    pen.polygon((0.04, 0.14), (0.74, 0.14), (0.66, 1), (0.12, 1))
    pen.ellipse(0.04, 0.04, 0.74, 0.24, fill=pen.second)


def _fish(pen: _Pen) -> None:
    pen.polygon((0.66, 0.5), (1, 0.16), (1, 0.84), fill=pen.second)
    pen.ellipse(0, 0.2, 0.76, 0.8)
    pen.ellipse(0.14, 0.38, 0.24, 0.48, fill=(250, 250, 250))


def _flower(pen: _Pen) -> None:
    pen.stroke((0.5, 0.5), (0.5, 1), fill=(44, 120, 44), width=3.5)
    pen.ellipse(0.52, 0.72, 0.8, 0.86, fill=(60, 150, 60))
    for left, top in ((0.34, 0), (0.34, 0.4), (0.12, 0.2), (0.56, 0.2)):
        pen.ellipse(left, top, left + 0.32, top + 0.32)
    pen.ellipse(0.38, 0.24, 0.62, 0.48, fill=(250, 226, 90))


def _house(pen: _Pen) -> None:
    pen.box(0.1, 0.42, 0.9, 1)
    pen.polygon((0, 0.44), (0.5, 0), (1, 0.44), fill=pen.second)
    pen.box(0.42, 0.64, 0.6, 1, fill=(112, 76, 48))
    pen.box(0.18, 0.54, 0.34, 0.7, fill=(206, 226, 238))


def _kite(pen: _Pen) -> None:
    pen.polygon((0.5, 0), (0.9, 0.36), (0.5, 0.78), (0.1, 0.36))
    pen.stroke((0.5, 0), (0.5, 0.78), width=1.5)
    pen.stroke((0.1, 0.36), (0.9, 0.36), width=1.5)
    pen.stroke((0.5, 0.78), (0.62, 0.86), (0.46, 0.92), (0.6, 1), width=2)


def _tree(pen: _Pen) -> None:
    pen.box(0.42, 0.6, 0.58, 1, fill=(110, 74, 44))
    pen.polygon((0.5, 0), (0.86, 0.4), (0.14, 0.4))
    pen.polygon((0.5, 0.2), (0.98, 0.72), (0.02, 0.72))


def _umbrella(pen: _Pen) -> None:
    pen.stroke((0.5, 0.4), (0.5, 0.92), (0.6, 1), width=3)
    pen.pie(180, 360, (0, 0.04, 1, 1.0))
    pen.stroke((0.34, 0.5), (0.5, 0.06), (0.66, 0.5), width=1.5)


_SHAPES: dict[str, Callable[[_Pen], None]] = {
    "ball": _ball,
    "boat": _boat,
    "car": _car,
    "chair": _chair,
    "clock": _clock,
    "cup": _cup,
    "fish": _fish,
    "flower": _flower,
    "house": _house,
    "kite": _kite,
    "tree": _tree,
    "umbrella": _umbrella,
}
