"""Compares scoring with a plain loop, and with the speed of the decoder and of matrix products on these cores."""

import io
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from aigc_cli import Scorer
from aigc_cli.images.reader import decode_image
from aigc_cli.model.backbone import Backbone
from benchmarks.data import Images
from benchmarks.measure import Row, divide_rounds, time_in_turns
from benchmarks.plain import BATCH, PlainLoop

TARGET_RATIO, SHARE, SERIAL_SHARE = 3.0, 0.6, 0.8  # the plain loop computes a cosine only, not the inner levels
FAST_RATE, ACCURATE_RATE = 80.0, 25.0  # images a second of the shipped scorers
MATRIX = 2048
DECODERS = ("Pillow", "our reader")


def measure_scoring(images: Images, rounds: int) -> list[Row]:
    """Rows of parts `score` and `limits`; all but one are of the scorer `fast`."""
    n = len(images.paths)
    begun = time.perf_counter()
    engines = {"onnx": Scorer.load("fast", "cpu", "onnx")}
    loaded = time.perf_counter() - begun
    loop = PlainLoop(images, model="fast")
    engines |= {"eager": Scorer.load("fast", "cpu", "eager"), "accurate": Scorer.load("accurate", "cpu", "onnx")}
    new = map("the {}th of all prompts, a boat on a quiet lake at dawn".format, itertools.count())
    for scorer in engines.values():
        scorer.score(images=images.paths[:BATCH], prompts=images.prompts[:BATCH])
    sides: dict[str, Callable[[], object]] = {"plain": lambda: loop(images.paths, images.prompts)}
    for name, scorer in engines.items():
        sides[name] = partial(scorer.score, images=images.paths, prompts=images.prompts)
    onnx = engines["onnx"]
    sides["different"] = lambda: onnx.score(images=images.paths, prompts=list(itertools.islice(new, n)))
    limits = Limits(loop.backbone, onnx, images)
    sides |= {name: partial(limits.decode, name) for name in DECODERS}
    sides |= {"matrix": limits.multiply, "engine": limits.run_engine}
    seconds = time_in_turns(rounds, sides)
    plain = seconds["plain"]
    memory = "channels last" if loop.format == torch.channels_last else "channels first"
    note = f"{n} images, {memory}, {n / median(plain):.0f} img/s"
    decoding = min(median(seconds[name]) for name in DECODERS)
    reachable = n / (decoding + median(seconds["engine"]))
    target = TARGET_RATIO * n / median(plain)
    why = (
        f"{TARGET_RATIO:g} times the plain loop would be {target:.0f} img/s; decoder and engine alone, one after the "
        f"other, reach {reachable:.0f} on these cores."
    )
    rows = [
        Row("score", "plain loop over onnx", divide_rounds(plain, seconds["onnx"]), TARGET_RATIO, note=note, why=why)
    ]
    rows += [
        Row("score", "plain loop over eager", divide_rounds(plain, seconds["eager"])),
        Row(
            "score",
            "plain loop over onnx, a different prompt for each image",
            divide_rounds(plain, seconds["different"]),
        ),
        Row("score", "onnx, fast", [n / s for s in seconds["onnx"]], FAST_RATE, unit="img/s"),
        Row("score", "onnx, accurate", [n / s for s in seconds["accurate"]], ACCURATE_RATE, unit="img/s"),
        Row("score", "loading the model, onnx", [loaded], unit="s", note="imports included"),
    ]
    return rows + limits.make_rows(seconds, n)


class Limits:
    """Upper limits with these libraries: the decoder alone, and the image tower as matrix products.

    The speed of a large matrix product depends on units (AVX-512, AMX) that depthwise and narrow convolutions of a
    small network can't use. On machines that have them no engine reaches this limit. So a short run does not fail on
    the share of it, but on the share of what decoder and engine reach alone, one after the other.
    """

    def __init__(self, backbone: Backbone, scorer: Scorer, images: Images) -> None:
        self.data, self.prompt = [path.read_bytes() for path in images.paths], images.prompts[0]
        self.threads = torch.get_num_threads()
        self.a, self.b = torch.randn(2, MATRIX, MATRIX).unbind()
        self.products = 8
        size = backbone.preprocessing.size
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            backbone.image.module(torch.zeros(1, 3, *size))
        self.operations = counter.get_total_flops()
        self.start, self.pixels = scorer.network.start, np.zeros((*size, 3), np.uint8)

    def decode(self, decoder: str) -> None:
        """Decodes all images at full size, with no more work than the decoder itself."""
        decode: Callable[[bytes], object] = decode_image if decoder == "our reader" else self._decode_with_pillow
        with ThreadPoolExecutor(self.threads) as pool:
            for _ in pool.map(decode, self.data):
                pass

    @staticmethod
    def _decode_with_pillow(data: bytes) -> None:
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB")

    def run_engine(self) -> None:
        """Runs the network for as many images; the prompt is embedded once."""
        with ThreadPoolExecutor(self.threads) as pool:
            for _ in pool.map(lambda _: self.start(self.pixels, self.prompt), self.data):
                pass

    def multiply(self) -> None:
        """Multiplies matrices."""
        for _ in range(self.products):
            self.a @ self.b

    def make_rows(self, seconds: dict[str, list[float]], n: int) -> list[Row]:
        """The limits, and the shares of them that scoring reaches."""
        faster = min(DECODERS, key=lambda name: median(seconds[name]))
        decoder, engine, reached = ([n / s for s in seconds[side]] for side in (faster, "engine", "onnx"))
        flops = [self.products * 2 * MATRIX**3 / s for s in seconds["matrix"]]
        products = [rate / self.operations for rate in flops]
        serial = [1 / (1 / d + 1 / e) for d, e in zip(decoder, engine, strict=True)]
        binding, tighter = min((("decoder", decoder), ("matrix products", products)), key=lambda pair: median(pair[1]))
        rate = f"{self.operations / 1e9:.2f} GFLOP an image, {median(flops) / 1e9:.0f} GFLOP/s"
        share = divide_rounds(reached, tighter)
        why = (
            f"The engine alone reaches {median(engine) / median(tighter):.2f} of it: narrow and depthwise convolutions "
            "move more memory for each sum than a large matrix product."
        )
        return [
            Row("limits", f"decoding alone, {self.threads} threads", decoder, unit="img/s", note=faster),
            Row("limits", "the image tower as float32 matrix products", products, unit="img/s", note=rate),
            Row("limits", f"the engine alone, {self.threads} threads", engine, unit="img/s"),
            Row("limits", f"onnx over the tighter limit, the {binding}", share, SHARE, why=why, firm=False),
            Row(
                "limits",
                "onnx over decoder, then engine, on the same cores",
                divide_rounds(reached, serial),
                SERIAL_SHARE,
            ),
        ]
