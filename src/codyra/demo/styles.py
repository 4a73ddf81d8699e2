"""How strokes become pixels: three plain styles for pre-training, four that only the demo's tasks use.

A style takes strokes and a private generator and returns an RGB picture of SIDE x SIDE pixels. Everything is drawn at
FINE times that size and averaged down, so lines of half a pixel are still seen.
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from codyra.demo.concepts import Stroke, Tone

SIDE = 48
FINE = 3
_CANVAS = SIDE * FINE

Colour = tuple[int, int, int]
Palette = dict[Tone, Colour]

COLOURS: dict[str, Colour] = {
    "red": (214, 48, 44),
    "orange": (240, 136, 38),
    "yellow": (246, 210, 56),
    "green": (58, 156, 74),
    "blue": (46, 102, 204),
    "purple": (132, 70, 178),
    "pink": (238, 140, 178),
    "brown": (136, 88, 52),
    "grey": (138, 140, 146),
    "white": (244, 242, 236),
    "black": (34, 32, 36),
}


def generator(key: str) -> np.random.Generator:
    """A private generator that depends on `key` alone, so that a picture never depends on those drawn before it."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))


def shade(colour: Colour, factor: float) -> Colour:
    """`colour` made darker (factor below 1) or lighter (above 1, towards white)."""
    if factor <= 1:
        red, green, blue = (round(channel * factor) for channel in colour)
    else:
        red, green, blue = (round(255 - (255 - channel) * max(0.0, 2 - factor)) for channel in colour)
    return red, green, blue


def pose(
    strokes: list[Stroke],
    rng: np.random.Generator,
    turn: float = 14,
    size: tuple[float, float] = (0.68, 0.95),
) -> list[Stroke]:
    """Scale, stretch, bend, turn (degrees, at most) and shift strokes; the result is in pixels of the fine canvas."""
    scale = rng.uniform(*size)
    stretch = math.exp(rng.normal(0, 0.07))
    angle = math.radians(rng.uniform(-turn, turn))
    shift = rng.uniform(-1, 1, 2) * (1.0 - scale)
    bend, phase = rng.uniform(0.01, 0.07, 2), rng.uniform(0, 2 * math.pi, 2)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array([[stretch, 0], [0, 1 / stretch]]) @ np.array([[cos, sin], [-sin, cos]]) * scale
    posed = []
    for points, tone, width in strokes:
        bent = points + bend * np.sin(2.5 * points[:, ::-1] + phase)
        posed.append(Stroke((bent @ matrix + shift + 1) * _CANVAS / 2, tone, width * scale * _CANVAS / 2))
    return posed


def _corners(stroke: Stroke) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in stroke.points]


def _draw_line(
    draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], width: float, fill: Colour | int
) -> None:
    draw.line(points, fill=fill, width=max(1, round(width)), joint="curve")
    for x, y in (points[0], points[-1]):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill)


def _draw_outlines(
    draw: ImageDraw.ImageDraw, strokes: list[Stroke], width: float, fill: Colour | int
) -> None:
    for stroke in strokes:
        corners = _corners(stroke)
        _draw_line(draw, corners if stroke.width else [*corners, corners[0]], width, fill)


def _draw_filled(draw: ImageDraw.ImageDraw, strokes: list[Stroke], palette: Palette, edge: float = 0) -> None:
    """Draw areas and lines in their colours, with a dark edge of that many pixels around areas."""
    for stroke in strokes:
        corners = _corners(stroke)
        if stroke.width:
            _draw_line(draw, corners, stroke.width, palette[stroke.tone])
            continue
        draw.polygon(corners, fill=palette[stroke.tone])
        if edge:
            _draw_line(draw, [*corners, corners[0]], edge, palette["dark"])


def _ramp(top: Colour, bottom: Colour) -> Image.Image:
    """A vertical gradient over the fine canvas."""
    t = np.linspace(0, 1, _CANVAS)[:, None, None]
    rows = (1 - t) * np.array(top) + t * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows, (_CANVAS, _CANVAS, 3)).astype(np.uint8))


def _clouds(rng: np.random.Generator, cells: int) -> NDArray[np.float64]:
    """Smooth noise over the fine canvas, (144, 144) in [-1, 1], with about `cells` bumps along a side."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((_CANVAS, _CANVAS), Image.Resampling.BICUBIC), dtype=np.float64)


def _finish(canvas: Image.Image, rng: np.random.Generator, grain: float) -> Image.Image:
    """Average the canvas down to SIDE pixels and add grain (standard deviation in grey levels)."""
    pixels = np.asarray(canvas.reduce(FINE), dtype=np.float64)
    noisy = pixels + rng.normal(0, grain, (SIDE, SIDE, 1)) + rng.normal(0, grain / 3, pixels.shape)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


# ------------------------------------------------------------------------------------------------- plain styles


def ground(colour: Colour, rng: np.random.Generator) -> Image.Image:
    """A background: one colour, a gradient, blotches, or an earth under a sky."""
    kind = rng.integers(4)
    if kind == 0:
        return Image.new("RGB", (_CANVAS, _CANVAS), colour)
    if kind == 1:
        return _ramp(shade(colour, rng.uniform(0.7, 1)), shade(colour, rng.uniform(1, 1.4)))
    if kind == 2:
        blotches = 1 + 0.16 * _clouds(rng, int(rng.integers(3, 12)))[:, :, None]
        return Image.fromarray((np.array(colour) * blotches).clip(0, 255).astype(np.uint8))
    canvas = Image.new("RGB", (_CANVAS, _CANVAS), colour)
    horizon = rng.uniform(0.55, 0.85) * _CANVAS
    ImageDraw.Draw(canvas).rectangle(
        (0, horizon, _CANVAS, _CANVAS), fill=shade(colour, rng.uniform(0.7, 0.9))
    )
    return canvas


def poster(
    strokes: list[Stroke], palette: Palette, background: Colour, rng: np.random.Generator
) -> Image.Image:
    """Flat areas of colour."""
    canvas = ground(background, rng)
    _draw_filled(ImageDraw.Draw(canvas), strokes, palette)
    return _finish(canvas, rng, rng.uniform(0, 8))


def crayon(
    strokes: list[Stroke], palette: Palette, background: Colour, rng: np.random.Generator
) -> Image.Image:
    """Areas with a dark edge, the colour worn off here and there."""
    canvas = ground(background, rng)
    painted = canvas.copy()
    _draw_filled(ImageDraw.Draw(painted), strokes, palette, edge=rng.uniform(3, 6))
    wear = 255 * (1.1 - 0.5 * np.abs(_clouds(rng, 40))).clip(0, 1)
    canvas.paste(painted, mask=Image.fromarray(wear.astype(np.uint8)))
    return _finish(canvas, rng, rng.uniform(0, 8))


def ink(strokes: list[Stroke], rng: np.random.Generator) -> Image.Image:
    """Dark outlines on pale paper."""
    canvas = ground(shade(COLOURS["white"], rng.uniform(0.85, 1)), rng)
    pen = shade(COLOURS["black"], rng.uniform(0.6, 1.3))
    _draw_outlines(ImageDraw.Draw(canvas), strokes, rng.uniform(3.5, 6), pen)
    return _finish(canvas, rng, rng.uniform(0, 6))


# ------------------------------------------------------------------------------- styles of the demo's tasks only


def chalk(strokes: list[Stroke], rng: np.random.Generator) -> Image.Image:
    """Pale, crumbling lines on a wiped blackboard."""
    board = np.array([(38, 66, 54), (44, 50, 54), (30, 56, 66)][rng.integers(3)])
    smears = 1 + 0.28 * _clouds(rng, 5)[:, :, None] + 0.06 * _clouds(rng, 30)[:, :, None]
    canvas = Image.fromarray((board * smears).clip(0, 255).astype(np.uint8))
    mask = Image.new("L", canvas.size)
    draw = ImageDraw.Draw(mask)
    for _ in range(2):
        trembling = [s._replace(points=s.points + rng.normal(0, 0.9, s.points.shape)) for s in strokes]
        _draw_outlines(draw, trembling, rng.uniform(3.5, 5), 255)
    crumbs = (0.95 - 0.75 * rng.random((_CANVAS, _CANVAS)) ** 2) * (0.85 + 0.3 * _clouds(rng, 24))
    worn = Image.fromarray((np.asarray(mask) * crumbs.clip(0, 1)).astype(np.uint8))
    sticks = [(246, 244, 236), (250, 236, 170), (250, 190, 200), (180, 216, 246)]
    canvas.paste(sticks[rng.integers(len(sticks))], mask=worn)
    return _finish(canvas, rng, 5)


def neon(strokes: list[Stroke], rng: np.random.Generator) -> Image.Image:
    """Glowing tubes on a brick wall at night."""
    canvas = _ramp((26, 20, 40), (44, 26, 50))
    draw = ImageDraw.Draw(canvas)
    joint, height = shade((26, 20, 40), 0.6), int(rng.integers(12, 17))
    for row, y in enumerate(range(0, _CANVAS, height)):
        draw.line((0, y, _CANVAS, y), fill=joint, width=2)
        for x in range(-(row % 2) * height, _CANVAS, 2 * height):
            draw.line((x, y, x, y + height), fill=joint, width=2)
    tubes = [(255, 60, 120), (60, 220, 255), (255, 200, 60), (120, 255, 120), (190, 110, 255), (255, 120, 40)]
    first, second = rng.choice(len(tubes), 2, replace=False)
    light = Image.new("RGB", canvas.size)
    draw = ImageDraw.Draw(light)
    for stroke in strokes:
        tube = tubes[first if stroke.tone in ("body", "dark") else second]
        _draw_outlines(draw, [stroke], 4, tube)
    glow = light.filter(ImageFilter.GaussianBlur(7)).point(lambda level: min(255, 2 * level))
    core = light.filter(ImageFilter.GaussianBlur(1.2)).point(lambda level: min(255, int(1.35 * level)))
    return _finish(ImageChops.add(ImageChops.add(canvas, glow), core), rng, 4)


def mosaic(strokes: list[Stroke], rng: np.random.Generator) -> Image.Image:
    """Small glazed tiles with dark joints, in a few colours."""
    names = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "white"]
    body, accent, back = (COLOURS[names[i]] for i in rng.choice(len(names), 3, replace=False))
    palette: Palette = {"body": body, "accent": accent, "dark": (40, 34, 44), "light": (250, 246, 232)}
    tile = 9
    scene = Image.new("RGB", (_CANVAS, _CANVAS), shade(back, 0.62))
    _draw_filled(ImageDraw.Draw(scene), strokes, palette)
    tiles = np.asarray(scene.reduce(tile), dtype=np.float64)
    glaze = rng.normal(0, 13, (*tiles.shape[:2], 1)) + rng.normal(0, 6, tiles.shape)
    wall = np.kron((tiles + glaze).clip(0, 255), np.ones((tile, tile, 1)))
    joints = np.arange(_CANVAS) % tile == 0
    wall[joints] *= 0.45
    wall[:, joints] *= 0.45
    shift = rng.integers(0, tile, 2)
    return _finish(Image.fromarray(np.roll(wall, shift, axis=(0, 1)).astype(np.uint8)), rng, 3)


def carved(strokes: list[Stroke], rng: np.random.Generator) -> Image.Image:
    """Features cut into a pumpkin that is lit from inside, at night."""
    canvas = _ramp((14, 16, 44), (40, 26, 56))
    draw = ImageDraw.Draw(canvas)
    for x, y in rng.uniform(0, _CANVAS, (12, 2)):
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(230, 230, 250))
    x, y = _CANVAS / 2 + rng.uniform(-6, 6, 2) + (0, 5)
    half, tall = rng.uniform(56, 64), rng.uniform(48, 57)
    skin = shade((222, 108, 22), rng.uniform(0.8, 1.05))
    lean = rng.uniform(-10, 10)
    _draw_line(draw, [(x, y - tall + 6), (x + lean, y - tall - 9)], 10, (86, 104, 44))
    for share, tint in ((1.0, 0.78), (0.74, 0.9), (0.42, 1.0)):
        rib = (x - half * share, y - tall, x + half * share, y + tall)
        draw.ellipse(rib, fill=shade(skin, tint), outline=shade(skin, 0.62), width=2)
    middle = np.array([_CANVAS / 2, _CANVAS / 2])
    features = [s._replace(points=(s.points - middle) * 0.92 + (x, y), width=s.width * 1.1) for s in strokes]
    flame = np.array([255, 214, 92]) + rng.uniform(-20, 0, 3)
    fire = (int(flame[0]), int(flame[1]), int(flame[2]))
    opening = Image.new("RGB", canvas.size)
    lit: Colour = (255, 255, 255)
    _draw_filled(ImageDraw.Draw(opening), features, {"body": lit, "accent": lit, "dark": lit, "light": lit})
    cut = opening.convert("L")
    canvas.paste(shade(skin, 0.45), mask=cut.filter(ImageFilter.MaxFilter(5)))
    canvas.paste(fire, mask=cut)
    halo = cut.filter(ImageFilter.GaussianBlur(9)).point(lambda level: level // 3)
    canvas = ImageChops.add(
        canvas, Image.merge("RGB", (halo, halo.point(lambda level: level // 2), Image.new("L", cut.size)))
    )
    return _finish(canvas, rng, 4)
