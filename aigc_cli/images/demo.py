"""The built-in demonstration set: rendered simple scenes with prompts. Its scores come from formulas, not from people.

Every prompt has six images. Image i belongs to prompt p = i // 6. With j = i % 6 it gets distortion number j and
mismatch number (p + j) % 6, so that every pair occurs once in six prompts. Quality and consistency are therefore
independent. The first m of n images do not depend on n.

Both scores are in MOS units, in [0, 5]. Quality falls with the severities s_k in [0, 1] of the distortions:

    quality     = 4.8 - 4.3 * severity        severity = 1 - product(1 - s_k), 0 for a clean image

Consistency falls with the share d of the prompt's content that the image shows differently:

    consistency = 4.6 - 4.3 * d               d: none 0, colour 0.25, count 0.4, object 0.6, everything 1

Normal rater noise with standard deviation 0.1 is added to both, and the sums are clipped to [0, 5].
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageOps

from aigc_cli.errors import EnvironmentProblem
from aigc_cli.images.degrade import distort
from aigc_cli.images.sample import Sample

Floats = NDArray[np.float64]
PlacedObject = tuple[str, str, float, float, float]  # kind, colour; x, y of the centre and side length, in image sides

DEMO_VERSION = 1  # part of every file's comment; raise it when a change of the code alters the images
IMAGES_PER_PROMPT = 6
DISTORTIONS = ("none", "blur", "noise", "jpeg", "contrast", "two")
DIFFERENCE = {"none": 0.0, "colour": 0.25, "count": 0.4, "object": 0.6, "everything": 1.0}
MISMATCHES = (*DIFFERENCE, "none")
RATER_STD = 0.1

COLORS = {
    "red": "#e0393e", "orange": "#f4872b", "yellow": "#fbcb32", "green": "#3fa650",
    "blue": "#2f74d0", "purple": "#8a4fc2", "pink": "#f387b4", "brown": "#90593a",
}  # fmt: skip
NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
PLURALS = {"fish": "fish", "cross": "crosses"}

# Objects are lists of shapes in the unit square, y pointing down, painted in order. A shape is a tint, a form and its
# numbers: box and poly x y ..., oval x y rx ry, star tips inner (radius of the notches / radius of the tips). A tint is
# main (the object's colour), dark or light (a shade of it), cut (a hole) or a fixed colour.
OBJECTS = {
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


def _trace_shape(form: str, *v: float) -> list[tuple[float, float]]:
    """The corners of one shape, (x, y) in the unit square."""
    if form == "box":
        return [(v[0], v[1]), (v[2], v[1]), (v[2], v[3]), (v[0], v[3])]
    if form == "poly":
        return list(zip(v[::2], v[1::2], strict=True))
    x, y, rx, ry = v if form == "oval" else (0.5, 0.5, 0.48, 0.48)
    corners, notch = (64, 1.0) if form == "oval" else (2 * int(v[0]), v[1])
    turns = [(2 * pi * i / corners, notch if i % 2 else 1.0) for i in range(corners)]
    return [(x + rx * r * sin(a), y - ry * r * cos(a)) for a, r in turns]


@lru_cache(maxsize=32)  # for objects that a scene repeats
def _draw_object(kind: str, color: str, side: int) -> Image.Image:
    """One object, RGBA, side x side pixels, antialiased, lit from the upper left."""
    main = np.array(ImageColor.getrgb(COLORS[color]))
    shades = {"main": main, "dark": main * 0.7, "light": main * 0.55 + 255 * 0.45}
    tints = {name: (*shade.astype(int).tolist(), 255) for name, shade in shades.items()}
    tints["cut"] = (*main.tolist(), 0)  # transparent, but of the same colour: otherwise the edges would darken
    scale = 4 * side
    big = Image.new("RGBA", (scale, scale), tints["cut"])
    for shape in OBJECTS[kind].replace("\n", ";").split(";"):
        tint, form, *numbers = shape.split()
        corners = [(x * scale, y * scale) for x, y in _trace_shape(form, *map(float, numbers))]
        ImageDraw.Draw(big).polygon(corners, fill=tints.get(tint, tint))
    pixels = np.asarray(big.reduce(4), dtype=np.float64)
    x, y = _locate_pixels(side)
    light = 1.16 - 0.36 * np.hypot(x - 0.28, y - 0.22)
    shaded = np.concatenate([np.clip(pixels[..., :3] * light[..., None], 0, 255), pixels[..., 3:]], axis=-1)
    return Image.fromarray(shaded.astype(np.uint8))


def _locate_pixels(size: int) -> tuple[Floats, Floats]:
    """The centres of the pixels in [0, 1]: x of shape (1, size), y of shape (size, 1)."""
    line = (np.arange(size) + 0.5) / size
    return line[None, :], line[:, None]


def _paint_gradient(size: int, *colors: str) -> Floats:
    """Blend evenly spaced colours from top to bottom; float64 of shape (size, size, 3)."""
    where, y = np.linspace(0, 1, len(colors)), _locate_pixels(size)[0][0]
    channels = zip(*map(ImageColor.getrgb, colors), strict=True)
    column = np.stack([np.interp(y, where, levels) for levels in channels], axis=-1)
    return np.repeat(column[:, None, :], size, axis=1)


def _mix(below: Floats, above: Floats, share: Floats) -> Floats:
    """Lay `above` over `below` with opacity `share`, of shape (size, size) or (size, 1), clipped to [0, 1]."""
    return below + (above - below) * np.clip(share, 0, 1)[..., None]


def _make_soft_noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> Floats:
    """Smooth noise of about [-2, 2], shape (size, size), enlarged from `rows` x `columns` random values."""
    coarse = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)


def _paint_white(size: int, rng: np.random.Generator) -> Floats:
    x, y = _locate_pixels(size)
    return _paint_gradient(size, "#ffffff", "#f1f1f3") - 14 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)[..., None]


def _paint_paper(size: int, rng: np.random.Generator) -> Floats:
    grain = rng.standard_normal((size, size)) + _make_soft_noise(rng, size, 40, 12) + _make_soft_noise(rng, size, 4, 4)
    return _paint_gradient(size, "#f3e6c8", "#e8d5ad") + 5 * grain[..., None]


def _paint_sky(size: int, rng: np.random.Generator) -> Floats:
    clouds = 0.5 * _make_soft_noise(rng, size, 5, 3) + 0.25 * _make_soft_noise(rng, size, 12, 7)
    return _mix(_paint_gradient(size, "#5aa9e6", "#a9d6f5", "#e6f4fb"), np.full((size, size, 3), 255.0), clouds)


def _paint_night(size: int, rng: np.random.Generator) -> Floats:
    x, y = _locate_pixels(size)
    sky = _paint_gradient(size, "#0d1433", "#1f2a5c", "#454a86")
    for at_x, at_y, glow in rng.random((28, 3)):
        reach = (0.003 + 0.004 * glow) ** 2
        sky += 210 * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / reach)[..., None]
    return sky


def _paint_meadow(size: int, rng: np.random.Generator) -> Floats:
    x, y = _locate_pixels(size)
    scene = _paint_gradient(size, "#7cc1ee", "#cfeaf7", "#eef8e6")
    hills = (("#9fd077", "#79b857", 0.5), ("#86c45c", "#57993f", 0.66))
    for phase, (top, bottom, level) in zip(rng.uniform(0, 2 * np.pi, 2), hills, strict=True):
        ridge = level + 0.05 * np.sin(4.5 * x + phase)
        grass = _paint_gradient(size, top, top, bottom) + 6 * _make_soft_noise(rng, size, 60, 30)[..., None]
        scene = _mix(scene, grass, (y - ridge) * size)
    return scene


def _paint_table(size: int, rng: np.random.Generator) -> Floats:
    y = _locate_pixels(size)[1]
    wood = _paint_gradient(size, "#c99a66", "#b98450") + 7 * _make_soft_noise(rng, size, 70, 3)[..., None]
    board = np.floor(y * 5)
    wood += rng.uniform(-12, 12, 5)[board.astype(int)][..., None]
    gap = np.exp(-(((y * 5 - board - 0.03) / 0.03) ** 2))
    return wood * (1 - 0.35 * gap[..., None])


def _paint_sea(size: int, rng: np.random.Generator) -> Floats:
    x, y = _locate_pixels(size)
    water = _paint_gradient(size, "#3aa0c4", "#3596c0", "#1d5f95")
    scene = _mix(_paint_gradient(size, "#8fd0f0", "#fbe9cf", "#fbe9cf"), water, (y - 0.42) * size)
    crests: Floats = np.sin(2 * np.pi * (14 * y**0.6 + 0.25 * np.sin(9 * x + 5 * y + rng.uniform(0, 6)))) ** 9
    return scene + 26 * np.clip(crests * (y > 0.44), 0, 1)[..., None]


# Painter of a (size, size, 3) array in [0, 255], words in the prompt, colours of objects that would not stand out
BACKGROUNDS: dict[str, tuple[Callable[[int, np.random.Generator], Floats], str, tuple[str, ...]]] = {
    "white": (_paint_white, "on a white background", ()),
    "paper": (_paint_paper, "on old paper", ("yellow",)),
    "sky": (_paint_sky, "in a cloudy sky", ("blue",)),
    "night": (_paint_night, "at night", ("blue", "purple", "brown")),
    "meadow": (_paint_meadow, "in a green meadow", ("green",)),
    "table": (_paint_table, "on a wooden table", ("brown", "orange")),
    "sea": (_paint_sea, "at sea", ("blue",)),
}


@dataclass(frozen=True)
class Thing:
    """Equal objects of a scene, such as "two red circles"."""

    count: int
    color: str
    kind: str

    def __str__(self) -> str:
        number = "an" if self.count == 1 and self.color[0] in "aeiou" else NUMBERS[self.count]
        noun = self.kind if self.count == 1 else PLURALS.get(self.kind, f"{self.kind}s")
        return f"{number} {self.color} {noun}"


@dataclass(frozen=True)
class Scene:
    """The content of an image: one thing, perhaps "in a row", or two things joined by "above", "below" or "beside"."""

    things: tuple[Thing, ...]
    relation: str
    background: str

    @property
    def prompt(self) -> str:
        first, *rest = map(str, self.things)
        return " ".join(part for part in (first, self.relation, *rest, BACKGROUNDS[self.background][1]) if part)


def paint(background: str, objects: list[PlacedObject], size: int, rng: np.random.Generator) -> Image.Image:
    """Paint objects on a background: RGB, size x size pixels. Later objects cover earlier ones."""
    canvas = Image.fromarray(np.clip(BACKGROUNDS[background][0](size, rng), 0, 255).astype(np.uint8))
    reach = max(1, size // 80)
    for kind, color, x, y, share in objects:
        side = max(1, round(share * size))
        tile = _draw_object(kind, color, side)
        left, top = round(x * size - side / 2), round(y * size - side / 2)
        shadow = ImageOps.expand(tile.getchannel("A").point([a // 3 for a in range(256)]), 3 * reach)
        canvas.paste((20, 20, 40), (left - 2 * reach, top - 2 * reach), shadow.filter(ImageFilter.GaussianBlur(reach)))
        canvas.paste(tile, (left, top), tile)
    return canvas


def render_scene(scene: Scene, size: int, rng: np.random.Generator) -> Image.Image:
    """Render a scene: RGB, size x size pixels. `rng` varies the size and position of the objects a little."""
    boxes = {
        "above": [(0.06, 0.06, 0.94, 0.49), (0.06, 0.51, 0.94, 0.94)],
        "below": [(0.06, 0.51, 0.94, 0.94), (0.06, 0.06, 0.94, 0.49)],
        "beside": [(0.06, 0.06, 0.49, 0.94), (0.51, 0.06, 0.94, 0.94)],
    }.get(scene.relation, [(0.06, 0.06, 0.94, 0.94)])
    objects: list[PlacedObject] = []
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


def rate_quality(severities: Mapping[str, float]) -> float:
    """Quality without rater noise of an image with these severities, in MOS units, in [0.5, 4.8]."""
    return 0.5 + 4.3 * float(np.prod([1 - s for s in severities.values()]))


def rate_consistency(mismatch: str) -> float:
    """Consistency without rater noise for a mismatch (a key of `DIFFERENCE`), in MOS units, in [0.3, 4.6]."""
    return 4.6 - 4.3 * DIFFERENCE[mismatch]


def _choose_other(rng: np.random.Generator, choices: Mapping[str, object], *taken: str) -> str:
    return str(rng.choice([name for name in choices if name not in taken]))


def make_random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: one thing with one to four objects, or two things of different kind and colour."""
    background = _choose_other(rng, BACKGROUNDS)
    hidden = BACKGROUNDS[background][2]
    color, kind = _choose_other(rng, COLORS, *hidden), _choose_other(rng, OBJECTS)
    if rng.random() < 0.5:
        count = int(rng.integers(1, 5))
        return Scene((Thing(count, color, kind),), "in a row" if count > 2 and rng.random() < 0.5 else "", background)
    count = int(rng.integers(1, 3))
    second = Thing(count, _choose_other(rng, COLORS, color, *hidden), _choose_other(rng, OBJECTS, kind))
    relation = str(rng.choice(["above", "below", "beside"]))
    return Scene((Thing(int(rng.integers(1, 3)), color, kind), second), relation, background)


def change_scene(scene: Scene, mismatch: str, rng: np.random.Generator) -> Scene:
    """The scene that an image with this mismatch shows: one thing changed, or for "everything" nothing in common."""
    colors, kinds = [t.color for t in scene.things], [t.kind for t in scene.things]
    if mismatch == "none":
        return scene
    if mismatch == "everything":
        other = scene
        while other.background == scene.background or any(t.color in colors or t.kind in kinds for t in other.things):
            other = make_random_scene(rng)
        return other
    which = int(rng.integers(len(scene.things)))
    thing = scene.things[which]
    if mismatch == "colour":
        thing = replace(thing, color=_choose_other(rng, COLORS, *colors, *BACKGROUNDS[scene.background][2]))
    elif mismatch == "count":
        thing = replace(thing, count=int(rng.choice([n for n in NUMBERS if n != thing.count])))
    else:
        thing = replace(thing, kind=_choose_other(rng, OBJECTS, *kinds))
    return replace(scene, things=(*scene.things[:which], thing, *scene.things[which + 1 :]))


def _draw_severities(distortion: str, rng: np.random.Generator) -> dict[str, float]:
    if distortion == "two":
        names = rng.choice(["contrast", "blur", "noise", "jpeg"], 2, replace=False)
        return {str(name): float(rng.uniform(0.1, 0.6)) for name in names}
    return {} if distortion == "none" else {distortion: float(rng.uniform(0.1, 1))}


def _is_rendered(path: Path, mark: bytes) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("comment") == mark
    except OSError:
        return False


def _save_image(image: Image.Image, path: Path, mark: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("xb") as stream:  # never through a link that somebody planted
            image.save(stream, "JPEG", quality=95, subsampling=0, comment=mark)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentProblem(
            f"The demonstration image {path} could not be written: {error.strerror or error}.",
            "Free some disk space, or choose a writable folder.",
        ) from error


def render_demo(folder: Path, *, n: int = 240, size: int = 224, seed: int = 0) -> list[Sample]:
    """Render the missing images of the demonstration set into `folder`, which must exist; return all n samples.

    A sample has both scores in MOS units in [0, 5], and the groups distortion, mismatch and background.

    Args:
        size: side length of the images in pixels.
        seed: not negative; images in `folder` of another seed or size are replaced.

    Raises:
        EnvironmentProblem: an image cannot be written.
    """
    prompts_rng = np.random.default_rng((seed, 0, 1))
    scenes: dict[str, Scene] = {}
    while len(scenes) * IMAGES_PER_PROMPT < n:
        scene = make_random_scene(prompts_rng)
        scenes.setdefault(scene.prompt, scene)
    asked = list(scenes.values())
    samples = []
    for index in range(n):
        rng = np.random.default_rng((seed, index))
        p, j = divmod(index, IMAGES_PER_PROMPT)
        mismatch = MISMATCHES[(p + j) % IMAGES_PER_PROMPT]
        shown, severities = change_scene(asked[p], mismatch, rng), _draw_severities(DISTORTIONS[j], rng)
        scores = np.array([rate_quality(severities), rate_consistency(mismatch)]) + RATER_STD * rng.standard_normal(2)
        quality, consistency = (float(score) for score in np.clip(scores, 0, 5))
        path = folder / f"demo_{index:04d}.jpg"
        mark = f"aigc demo {DEMO_VERSION}, seed {seed}, index {index}, {size} px".encode()
        if not _is_rendered(path, mark):
            _save_image(distort(render_scene(shown, size, rng), severities, rng), path, mark)
        groups = {"distortion": "+".join(severities) or "none", "mismatch": mismatch, "background": shown.background}
        samples.append(Sample(path.name, path, asked[p].prompt, quality, consistency, groups))
    return samples
