"""Scoring against a plain loop, and against what the decoder and a matrix product reach on these cores."""

import contextlib
import io
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from aigc_cli import Scorer
from aigc_cli.core.backbone import Backbone
from aigc_cli.core.backbones import load_backbone
from benchmarks.data import Images
from benchmarks.measure import Row, ratios, turns

BATCH = 32
TARGET_RATIO, TARGET_RATE, TARGET_SHARE = 4.0, 80.0, 0.6
MATRIX = 2048


class PlainLoop:
    """How a model is usually run over a folder: decode, transform, both towers for every row, batches of 32, float32.

    It gets every core, no gradients, and the memory format that is faster here.
    """

    def __init__(self, backbone: Backbone, images: Images) -> None:
        self.backbone = backbone
        self.format = torch.contiguous_format
        seconds = {}
        for chosen in (torch.contiguous_format, torch.channels_last):
            self._use(chosen)
            self(images.first(BATCH))
            begun = time.perf_counter()
            self(images.first(BATCH))
            seconds[chosen] = time.perf_counter() - begun
        self._use(min(seconds, key=seconds.__getitem__))

    def _use(self, chosen: torch.memory_format) -> None:
        self.format = chosen
        self.backbone.image.module.to(memory_format=chosen)

    @torch.inference_mode()
    def __call__(self, images: Images) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(images.paths), BATCH):
            rows = slice(start, start + BATCH)
            pixels = []
            for path in images.paths[rows]:
                with Image.open(path) as image:
                    pixels.append(self.backbone.transform(image.convert("RGB")))
            batch = torch.stack(pixels).contiguous(memory_format=self.format)
            image_features = F.normalize(self.backbone.image.module(batch), dim=-1)
            text_features = F.normalize(self.backbone.text.module(self.backbone.tokenize(images.prompts[rows])), dim=-1)
            scores += (image_features * text_features).sum(1).tolist()
        return scores


def score(images: Images, rounds: int) -> list[Row]:
    """Rows of parts `score` and `limits`."""
    n = len(images.paths)
    loop = PlainLoop(load_backbone("mini"), images)
    begun = time.perf_counter()
    engines = {"onnx": Scorer.load(device="cpu", engine="onnx")}
    made = time.perf_counter() - begun
    engines["eager"] = Scorer.load(device="cpu", engine="eager")
    with contextlib.suppress(Exception):
        engines["openvino"] = Scorer.load(device="cpu", engine="openvino")
    new = map("the {}th of all prompts, a boat on a quiet lake at dawn".format, itertools.count())
    for scorer in engines.values():
        scorer.score(images=images.paths[:BATCH], prompts=images.prompts[:BATCH])
    sides: dict[str, Callable[[], object]] = {"plain": lambda: loop(images)}
    for name, scorer in engines.items():
        sides[name] = partial(scorer.score, images=images.paths, prompts=images.prompts)
    onnx = engines["onnx"]
    sides["different"] = lambda: onnx.score(images=images.paths, prompts=list(itertools.islice(new, n)))
    limits = Limits(loop.backbone, images)
    sides |= {"decode": limits.decode, "matrix": limits.matrix}
    seconds = turns(rounds, sides)
    plain, each = seconds["plain"], f"{n} images"
    memory = "channels last" if loop.format == torch.channels_last else "channels first"
    note = f"{each}, {memory}, {n / sorted(plain)[len(plain) // 2]:.0f} img/s"
    rows = [Row("score", "plain loop over onnx", ratios(plain, seconds["onnx"]), TARGET_RATIO, note=note)]
    others = [name for name in ("eager", "openvino") if name in seconds]
    rows += [Row("score", f"plain loop over {name}", ratios(plain, seconds[name])) for name in others]
    rows += [
        Row("score", "plain loop over onnx, a prompt of its own for each image", ratios(plain, seconds["different"])),
        Row("score", "onnx", [n / s for s in seconds["onnx"]], TARGET_RATE, unit="img/s"),
        Row("score", "loading the model, onnx", [made], unit="s", note="exports the graph where the cache lacks it"),
    ]
    return rows + limits.rows(seconds, n)


class Limits:
    """What can't be beaten with these libraries: the decoder alone, and the image tower as matrix products."""

    def __init__(self, backbone: Backbone, images: Images) -> None:
        self.data = [path.read_bytes() for path in images.paths]
        self.threads = torch.get_num_threads()
        self.a, self.b = torch.randn(2, MATRIX, MATRIX).unbind()
        self.products = 8
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            backbone.image.module(torch.zeros(1, 3, *backbone.preprocessing.size))
        self.operations = counter.get_total_flops()

    def decode(self) -> None:
        with ThreadPoolExecutor(self.threads) as pool:
            for _ in pool.map(self._decoded, self.data):
                pass

    @staticmethod
    def _decoded(data: bytes) -> None:
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB")

    def matrix(self) -> None:
        for _ in range(self.products):
            self.a @ self.b

    def rows(self, seconds: dict[str, list[float]], n: int) -> list[Row]:
        """Both limits, and the share of the tighter one that scoring reaches."""
        decoder = [n / s for s in seconds["decode"]]
        flops = [self.products * 2 * MATRIX**3 / s for s in seconds["matrix"]]
        products = [rate / self.operations for rate in flops]
        reached = [n / s for s in seconds["onnx"]]
        both = [1 / (1 / d + 1 / p) for d, p in zip(decoder, products, strict=True)]
        tighter = min((decoder, products), key=lambda found: sorted(found)[len(found) // 2])
        binding = "decoder" if tighter is decoder else "matrix products"
        return [
            Row("limits", f"decoding alone, {self.threads} threads", decoder, unit="img/s"),
            Row(
                "limits",
                f"the image tower as float32 matrix products ({self.operations / 1e9:.2f} GFLOP an image)",
                products,
                unit="img/s",
                note=f"{sorted(flops)[len(flops) // 2] / 1e9:.0f} GFLOP/s",
            ),
            Row(
                "limits",
                f"share of the tighter limit, which is the {binding}",
                ratios(reached, tighter),
                TARGET_SHARE,
            ),
            Row("limits", "share of both limits one after the other on the same cores", ratios(reached, both)),
        ]
