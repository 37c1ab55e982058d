"""The built-in demonstration set: simple scenes with prompts, rendered on the fly. Its scores are formulas, not human.

Every prompt has six images. Image i belongs to prompt p = i // 6; with j = i % 6 it gets the j-th of six distortions
and the (p + j) % 6-th of six mismatches, so that over six prompts every pair occurs once: quality and consistency are
independent by construction, and the first m of n images do not depend on n.

Quality, in MOS units of [0, 5], falls with the severities s_k in [0, 1] of the distortions applied:

    quality     = 4.8 - 4.3 * severity        severity = 1 - product(1 - s_k), 0 for a clean image

Consistency falls with the share d of the prompt's content that the image shows differently:

    consistency = 4.6 - 4.3 * d               d: none 0, colour 0.25, count 0.4, object 0.6, everything 1

To both a normal rater noise of standard deviation 0.1 is added, then they are clipped to [0, 5].
"""

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageOps, UnidentifiedImageError

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.images.sample import Sample

Floats = NDArray[np.float64]
Placed = tuple[str, str, float, float, float]  # kind, colour, then x, y (centre) and side as shares of the image's side

FORMAT_VERSION = 1  # stands in every file's comment; raise it when the same index would look different
IMAGES_PER_PROMPT = 6
DISTORTIONS = ("none", "blur", "noise", "jpeg", "contrast", "two")
DIFFERENCE = {"none": 0.0, "colour": 0.25, "count": 0.4, "object": 0.6, "everything": 1.0}
MISMATCHES = (*DIFFERENCE, "none")
RATER_STD = 0.1

COLORS = {
    "red": "#e0393e",
    "orange": "#f4872b",
    "yellow": "#fbcb32",
    "green": "#3fa650",
    "blue": "#2f74d0",
    "purple": "#8a4fc2",
    "pink": "#f387b4",
    "brown": "#90593a",
}
NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
PLURALS = {"fish": "fish", "cross": "crosses"}


# Objects: shapes in the unit square, y downwards, painted in order. A shape is a tint, a form and its numbers: box and
# poly x y ..., oval x y rx ry, star tips inner (the notches' radius as a share of the tips'). A tint is main (the
# object's colour), dark or light (shades of it), cut (a hole) or a fixed colour.
KINDS = {
    "circle": "main oval .5 .5 .44 .44",
    "square": "main box .1 .1 .9 .9",
    "triangle": "main poly .5 .06 .96 .88 .04 .88",
    "star": "main star 5 .42",
    "heart": "main oval .29 .34 .235 .235; main oval .71 .34 .235 .235; main poly .1 .479 .5 .94 .9 .479 .71 .3 .29 .3",
    "ring": "main oval .5 .5 .45 .45; cut oval .5 .5 .26 .26",
    "cross": "main box .36 .08 .64 .92; main box .08 .36 .92 .64",
    "moon": "main oval .46 .5 .42 .42; cut oval .64 .42 .36 .36",
    "sun": "main star 14 .74; light oval .5 .5 .3 .3; main oval .5 .5 .27 .27",
    "house": """dark box .68 .1 .79 .4; main box .14 .44 .86 .96; dark poly .5 .08 .98 .48 .02 .48
        #5b3a29 box .43 .66 .58 .96; #ffe9a8 box .22 .58 .36 .74; #ffe9a8 box .65 .58 .79 .74""",
    "tree": """#7a4e30 poly .45 .55 .55 .55 .59 .98 .41 .98; dark oval .3 .5 .23 .2; dark oval .7 .5 .23 .2
        main oval .5 .32 .3 .3; light oval .42 .25 .1 .08""",
    "boat": """#6b4a34 box .48 .06 .52 .72; #fdf6e6 poly .55 .1 .92 .62 .55 .62; #efe3cb poly .45 .2 .45 .62 .16 .62
        main poly .03 .68 .97 .68 .8 .92 .2 .92; light poly .03 .68 .97 .68 .945 .72 .055 .72""",
    "cup": """dark oval .76 .48 .2 .2; cut oval .76 .48 .11 .11; main poly .1 .2 .78 .2 .7 .82 .18 .82
        main oval .44 .82 .26 .08; light oval .44 .2 .34 .09; dark oval .44 .21 .29 .065""",
    "flower": """#3c8a45 box .48 .4 .525 .98; #4fa257 oval .62 .76 .14 .06; #4fa257 oval .38 .84 .14 .06
        main oval .5 .14 .13 .13; main oval .665 .235 .13 .13; main oval .665 .425 .13 .13; main oval .5 .52 .13 .13
        main oval .335 .425 .13 .13; main oval .335 .235 .13 .13; dark oval .5 .33 .14 .14; #feb oval .5 .33 .12 .12""",
    "fish": """dark poly .72 .5 .98 .24 .93 .5 .98 .76; dark poly .36 .3 .5 .1 .66 .34; main oval .43 .5 .4 .26
        light oval .45 .62 .26 .1; dark poly .46 .47 .63 .4 .6 .58; #ffffff oval .2 .44 .065 .065
        #222831 oval .19 .44 .035 .035""",
    "balloon": """#8d8d8d poly .49 .72 .51 .72 .535 .85 .51 .98 .49 .98 .515 .85; dark poly .5 .7 .56 .78 .44 .78
        main oval .5 .38 .31 .36; light oval .39 .25 .06 .09""",
}


def _polygon(form: str, *v: float) -> list[tuple[float, float]]:
    """The corners of one shape."""
    if form == "box":
        return [(v[0], v[1]), (v[2], v[1]), (v[2], v[3]), (v[0], v[3])]
    if form == "poly":
        return list(zip(v[::2], v[1::2], strict=True))
    x, y, rx, ry = v if form == "oval" else (0.5, 0.5, 0.48, 0.48)
    corners, notch = (64, 1.0) if form == "oval" else (2 * int(v[0]), v[1])
    turns = [(2 * pi * i / corners, notch if i % 2 else 1.0) for i in range(corners)]
    return [(x + rx * r * sin(a), y - ry * r * cos(a)) for a, r in turns]


@lru_cache(maxsize=32)  # the repeated objects of one scene
def _tile(kind: str, color: str, side: int) -> Image.Image:
    """One object, RGBA, side x side pixels, antialiased, lit from the upper left."""
    main = np.array(ImageColor.getrgb(COLORS[color]))
    shades = {"main": main, "dark": main * 0.7, "light": main * 0.55 + 255 * 0.45}
    tints = {name: (*shade.astype(int).tolist(), 255) for name, shade in shades.items()}
    tints["cut"] = (*main.tolist(), 0)  # what is see-through keeps the colour, or the edges would darken
    scale = 4 * side
    big = Image.new("RGBA", (scale, scale), tints["cut"])
    for shape in KINDS[kind].replace("\n", ";").split(";"):
        tint, form, *numbers = shape.split()
        corners = [(x * scale, y * scale) for x, y in _polygon(form, *map(float, numbers))]
        ImageDraw.Draw(big).polygon(corners, fill=tints.get(tint, tint))
    pixels = np.asarray(big.reduce(4), dtype=np.float64)
    x, y = _axes(side)
    light = 1.16 - 0.36 * np.hypot(x - 0.28, y - 0.22)
    shaded = np.concatenate([np.clip(pixels[..., :3] * light[..., None], 0, 255), pixels[..., 3:]], axis=-1)
    return Image.fromarray(shaded.astype(np.uint8))


def _axes(size: int) -> tuple[Floats, Floats]:
    """The pixels' centres in [0, 1]: x of shape (1, size), y of shape (size, 1)."""
    line = (np.arange(size) + 0.5) / size
    return line[None, :], line[:, None]


def _gradient(size: int, *colors: str) -> Floats:
    """Evenly spaced colours from top to bottom."""
    stops = np.array([ImageColor.getrgb(color)[:3] for color in colors], dtype=np.float64)
    where = np.linspace(0, 1, len(stops))
    column = np.stack([np.interp(_axes(size)[1][:, 0], where, stops[:, c]) for c in range(3)], axis=-1)
    return np.repeat(column[:, None, :], size, axis=1)


def _mix(below: Floats, above: Floats, share: Floats) -> Floats:
    """`above` over `below`, its opacity `share` of shape (size, size) or (size, 1) clipped to [0, 1]."""
    return below + (above - below) * np.clip(share, 0, 1)[..., None]


def _soft_noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> Floats:
    """Smooth random hills in about [-2, 2], `rows` x `columns` of them."""
    coarse = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)


def _white(size: int, rng: np.random.Generator) -> Floats:
    x, y = _axes(size)
    return _gradient(size, "#ffffff", "#f1f1f3") - 14 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)[..., None]


def _paper(size: int, rng: np.random.Generator) -> Floats:
    grain = rng.standard_normal((size, size)) + _soft_noise(rng, size, 40, 12) + _soft_noise(rng, size, 4, 4)
    return _gradient(size, "#f3e6c8", "#e8d5ad") + 5 * grain[..., None]


def _sky(size: int, rng: np.random.Generator) -> Floats:
    clouds = 0.5 * _soft_noise(rng, size, 5, 3) + 0.25 * _soft_noise(rng, size, 12, 7)
    return _mix(_gradient(size, "#5aa9e6", "#a9d6f5", "#e6f4fb"), np.full((size, size, 3), 255.0), clouds)


def _night(size: int, rng: np.random.Generator) -> Floats:
    x, y = _axes(size)
    sky = _gradient(size, "#0d1433", "#1f2a5c", "#454a86")
    for at_x, at_y, glow in rng.random((28, 3)):
        reach = (0.003 + 0.004 * glow) ** 2
        sky += 210 * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / reach)[..., None]
    return sky


def _meadow(size: int, rng: np.random.Generator) -> Floats:
    x, y = _axes(size)
    scene = _gradient(size, "#7cc1ee", "#cfeaf7", "#eef8e6")
    hills = (("#9fd077", "#79b857", 0.5), ("#86c45c", "#57993f", 0.66))
    for phase, (top, bottom, level) in zip(rng.uniform(0, 2 * np.pi, 2), hills, strict=True):
        ridge = level + 0.05 * np.sin(4.5 * x + phase)
        grass = _gradient(size, top, top, bottom) + 6 * _soft_noise(rng, size, 60, 30)[..., None]
        scene = _mix(scene, grass, (y - ridge) * size)
    return scene


def _table(size: int, rng: np.random.Generator) -> Floats:
    y = _axes(size)[1]
    wood = _gradient(size, "#c99a66", "#b98450") + 7 * _soft_noise(rng, size, 70, 3)[..., None]
    board = np.floor(y * 5)
    wood += rng.uniform(-12, 12, 5)[board.astype(int)][..., None]
    gap = np.exp(-(((y * 5 - board - 0.03) / 0.03) ** 2))
    return wood * (1 - 0.35 * gap[..., None])


def _sea(size: int, rng: np.random.Generator) -> Floats:
    x, y = _axes(size)
    water = _gradient(size, "#3aa0c4", "#3596c0", "#1d5f95")
    scene = _mix(_gradient(size, "#8fd0f0", "#fbe9cf", "#fbe9cf"), water, (y - 0.42) * size)
    crests: Floats = np.sin(2 * np.pi * (14 * y**0.6 + 0.25 * np.sin(9 * x + 5 * y + rng.uniform(0, 6)))) ** 9
    return scene + 26 * np.clip(crests * (y > 0.44), 0, 1)[..., None]


# The painter of a (size, size, 3) array in [0, 255], the words a prompt has for it, the colours that it would hide
BACKGROUNDS: dict[str, tuple[Callable[[int, np.random.Generator], Floats], str, tuple[str, ...]]] = {
    "white": (_white, "on a white background", ()),
    "paper": (_paper, "on old paper", ("yellow",)),
    "sky": (_sky, "in a cloudy sky", ("blue",)),
    "night": (_night, "at night", ("blue", "purple", "brown")),
    "meadow": (_meadow, "in a green meadow", ("green",)),
    "table": (_table, "on a wooden table", ("brown", "orange")),
    "sea": (_sea, "at sea", ("blue",)),
}


@dataclass(frozen=True)
class Thing:
    """What a prompt asks for once: "two red circles"."""

    count: int
    color: str
    kind: str

    def __str__(self) -> str:
        number = "an" if self.count == 1 and self.color[0] in "aeiou" else NUMBERS[self.count]
        noun = self.kind if self.count == 1 else PLURALS.get(self.kind, f"{self.kind}s")
        return f"{number} {self.color} {noun}"


@dataclass(frozen=True)
class Scene:
    """What an image shows: one thing, perhaps "in a row", or two things with "above", "below" or "beside" between."""

    things: tuple[Thing, ...]
    relation: str
    background: str

    @property
    def prompt(self) -> str:
        first, *rest = map(str, self.things)
        return " ".join(part for part in (first, self.relation, *rest, BACKGROUNDS[self.background][1]) if part)


def paint(background: str, objects: list[Placed], size: int, rng: np.random.Generator) -> Image.Image:
    """An RGB image of size x size pixels; later objects lie over earlier ones."""
    canvas = Image.fromarray(np.clip(BACKGROUNDS[background][0](size, rng), 0, 255).astype(np.uint8))
    reach = max(1, size // 80)
    for kind, color, x, y, share in objects:
        side = max(1, round(share * size))
        tile = _tile(kind, color, side)
        left, top = round(x * size - side / 2), round(y * size - side / 2)
        shadow = ImageOps.expand(tile.getchannel("A").point([a // 3 for a in range(256)]), 3 * reach)
        canvas.paste((20, 20, 40), (left - 2 * reach, top - 2 * reach), shadow.filter(ImageFilter.GaussianBlur(reach)))
        canvas.paste(tile, (left, top), tile)
    return canvas


def render_scene(scene: Scene, size: int, rng: np.random.Generator) -> Image.Image:
    """Draws what the scene says, RGB, size x size pixels; `rng` moves the objects a little."""
    boxes = {
        "above": [(0.06, 0.06, 0.94, 0.49), (0.06, 0.51, 0.94, 0.94)],
        "below": [(0.06, 0.51, 0.94, 0.94), (0.06, 0.06, 0.94, 0.49)],
        "beside": [(0.06, 0.06, 0.49, 0.94), (0.51, 0.06, 0.94, 0.94)],
    }.get(scene.relation, [(0.06, 0.06, 0.94, 0.94)])
    objects: list[Placed] = []
    for thing, (left, top, right, bottom) in zip(scene.things, boxes, strict=True):
        wide, high = right - left, bottom - top
        stacked = thing.count > 2 and scene.relation not in ("in a row", "above", "below")
        rows = [thing.count - thing.count // 2, thing.count // 2] if stacked else [thing.count]
        side = min(0.58, wide / max(rows), high / len(rows)) * rng.uniform(0.84, 0.94)
        for r, columns in enumerate(rows):
            for c in range(columns):
                x, y = left + wide * (c + 0.5) / columns, top + high * (r + 0.5) / len(rows)
                dx, dy = rng.uniform(-0.02, 0.02, 2)
                objects.append((thing.kind, thing.color, x + dx, y + dy, side))
    return paint(scene.background, objects, size, rng)


def distort(image: Image.Image, severities: Mapping[str, float], rng: np.random.Generator) -> Image.Image:
    """Degrades an RGB image; `severities` are in [0, 1] by name: contrast, blur, noise, jpeg, applied in this order."""
    if s := severities.get("contrast", 0.0):
        image = Image.blend(image, Image.new("RGB", image.size, (128, 128, 128)), 0.9 * s)
    if s := severities.get("blur", 0.0):
        image = image.filter(ImageFilter.GaussianBlur(0.025 * s * image.width))
    if s := severities.get("noise", 0.0):
        grain = 80 * s * rng.standard_normal((image.height, image.width, 3))
        image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    if s := severities.get("jpeg", 0.0):
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=max(1, round(50 * 0.04**s)))
        image = Image.open(packed).convert("RGB")
    return image


def quality_of(severities: Mapping[str, float]) -> float:
    """The quality of an image with these distortions before rater noise, MOS units, in [0.5, 4.8]."""
    return 0.5 + 4.3 * float(np.prod([1 - s for s in severities.values()]))


def consistency_of(mismatch: str) -> float:
    """The consistency at a mismatch level (a key of `DIFFERENCE`) before rater noise, MOS units, in [0.3, 4.6]."""
    return 4.6 - 4.3 * DIFFERENCE[mismatch]


def _other(rng: np.random.Generator, choices: Mapping[str, object], *taken: str) -> str:
    return str(rng.choice([name for name in choices if name not in taken]))


def random_scene(rng: np.random.Generator) -> Scene:
    """One thing, one to four times, or two things of different kind and colour."""
    background = _other(rng, BACKGROUNDS)
    hidden = BACKGROUNDS[background][2]
    color, kind = _other(rng, COLORS, *hidden), _other(rng, KINDS)
    if rng.random() < 0.5:
        count = int(rng.integers(1, 5))
        return Scene((Thing(count, color, kind),), "in a row" if count > 2 and rng.random() < 0.5 else "", background)
    second = Thing(int(rng.integers(1, 3)), _other(rng, COLORS, color, *hidden), _other(rng, KINDS, kind))
    relation = str(rng.choice(["above", "below", "beside"]))
    return Scene((Thing(int(rng.integers(1, 3)), color, kind), second), relation, background)


def mismatched(scene: Scene, mismatch: str, rng: np.random.Generator) -> Scene:
    """What an image shows that misses its prompt: one thing changed, or for "everything" nothing kept."""
    colors, kinds = [t.color for t in scene.things], [t.kind for t in scene.things]
    if mismatch == "none":
        return scene
    if mismatch == "everything":
        other = scene
        while other.background == scene.background or any(t.color in colors or t.kind in kinds for t in other.things):
            other = random_scene(rng)
        return other
    which = int(rng.integers(len(scene.things)))
    thing = scene.things[which]
    if mismatch == "colour":
        thing = replace(thing, color=_other(rng, COLORS, *colors, *BACKGROUNDS[scene.background][2]))
    elif mismatch == "count":
        thing = replace(thing, count=int(rng.choice([n for n in NUMBERS if n != thing.count])))
    else:
        thing = replace(thing, kind=_other(rng, KINDS, *kinds))
    return replace(scene, things=(*scene.things[:which], thing, *scene.things[which + 1 :]))


def _severities(distortion: str, rng: np.random.Generator) -> dict[str, float]:
    if distortion == "two":
        names = rng.choice(["contrast", "blur", "noise", "jpeg"], 2, replace=False)
        return {str(name): float(rng.uniform(0.1, 0.6)) for name in names}
    return {} if distortion == "none" else {distortion: float(rng.uniform(0.1, 1))}


def _stored(path: Path, mark: bytes) -> bool:
    """Whether the file is there and was rendered for the same seed, size and format version."""
    try:
        with Image.open(path) as image:
            return image.info.get("comment") == mark
    except (OSError, UnidentifiedImageError):
        return False


def _save(image: Image.Image, path: Path, mark: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        image.save(temporary, "JPEG", quality=95, subsampling=0, comment=mark)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentProblem(
            f"The demonstration image {path} could not be written: {error.strerror or error}.",
            "Free some space, or choose a folder that can be written.",
        ) from error


def demo_samples(folder: Path, *, n: int = 240, size: int = 224, seed: int = 0) -> list[Sample]:
    """Renders what is missing of the demonstration set into `folder`, which exists, and returns all n samples.

    Args:
        size: the images' side in pixels.
        seed: not negative; images of another seed or size in `folder` are replaced.

    Returns:
        One sample per image with scores in [0, 5] MOS units and the groups distortion, mismatch and background.

    Raises:
        EnvironmentProblem: an image can't be written.
    """
    prompts_rng = np.random.default_rng((seed, 0, 1))
    scenes: dict[str, Scene] = {}
    while len(scenes) * IMAGES_PER_PROMPT < n:
        scene = random_scene(prompts_rng)
        scenes.setdefault(scene.prompt, scene)
    asked = list(scenes.values())
    samples = []
    for index in range(n):
        rng = np.random.default_rng((seed, index))
        p, j = divmod(index, IMAGES_PER_PROMPT)
        mismatch = MISMATCHES[(p + j) % IMAGES_PER_PROMPT]
        shown, severities = mismatched(asked[p], mismatch, rng), _severities(DISTORTIONS[j], rng)
        scores = np.array([quality_of(severities), consistency_of(mismatch)]) + RATER_STD * rng.standard_normal(2)
        quality, consistency = (float(score) for score in np.clip(scores, 0, 5))
        path = folder / f"demo_{index:04d}.jpg"
        mark = f"aigc demo {FORMAT_VERSION}, seed {seed}, index {index}, {size} px".encode()
        if not _stored(path, mark):
            _save(distort(render_scene(shown, size, rng), severities, rng), path, mark)
        groups = {"distortion": "+".join(severities) or "none", "mismatch": mismatch, "background": shown.background}
        samples.append(Sample(path.name, path, asked[p].prompt, quality, consistency, groups))
    return samples
