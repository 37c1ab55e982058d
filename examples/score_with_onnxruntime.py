"""Scores images with an exported model; needs only onnxruntime, numpy, tokenizers and pillow.

aigc export -o exported
python score_with_onnxruntime.py exported image.png "the prompt of the image"
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


class Scorer:
    def __init__(self, folder: Path) -> None:
        self.settings = json.loads((folder / "preprocessing.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.text, self.image = (onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("text", "image"))

    def prepare_pixels(self, path: Path) -> np.ndarray:
        """Pixels (height, width, 3): upright, on white, resized to the size of the model."""
        image = ImageOps.exif_transpose(Image.open(path))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        image, (height, width) = image.convert("RGB"), self.settings["size"]
        resample = Image.Resampling[self.settings["interpolation"].upper()]
        if self.settings["resize_mode"] == "shortest" and height == width:  # of a square: then crop around the centre
            short = min(image.size)
            image = image.resize([height * side // short for side in image.size], resample)
            left, top = (round((side - height) / 2) for side in image.size)
            return np.asarray(image.crop((left, top, left + width, top + height)))
        if self.settings["resize_mode"] != "squash":
            raise SystemExit(f"This script does not know the resize mode {self.settings['resize_mode']}.")
        return np.asarray(image.resize((width, height), resample))

    def embed(self, prompt: str) -> np.ndarray:
        """The embedding (1, D) of a prompt."""
        encoding = self.tokenizer.encode(prompt)
        if encoding.overflowing:
            raise SystemExit("The prompt is too long for one pass; aigc would average the embeddings of its parts.")
        return self.text.run(["text"], {"tokens": np.array([encoding.ids], np.int64)})[0]

    def score(self, path: Path, prompt: str) -> tuple[float, float]:
        """Quality and consistency in MOS."""
        inputs = {"pixels": self.prepare_pixels(path)[None], "text": self.embed(prompt)}
        low, high = self.settings["mos_min"], self.settings["mos_max"]
        found = self.image.run(["quality", "consistency"], inputs)
        quality, consistency = (low + (high - low) * float(np.clip(output[0], 0, 1)) for output in found)
        return quality, consistency


if __name__ == "__main__":
    print("quality {:.4f}, consistency {:.4f}".format(*Scorer(Path(sys.argv[1])).score(Path(sys.argv[2]), sys.argv[3])))
