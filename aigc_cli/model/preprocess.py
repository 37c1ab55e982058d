"""How an image becomes what an image tower reads: resized, cropped, scaled; as open_clip's own transform does it.

PyTorch resizes bytes in a seventh of Pillow's time. Both resample by the same filter in integer arithmetic, PyTorch
with weights of fewer bits: up to one byte in fifty differs, by one level, which moves a score by up to 0.007 MOS.
JPEGs are decoded at full scale: the decoder's own reduction moves scores by 0.01 to 0.14 MOS, even where it leaves six
times the side that is needed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Picture = NDArray[np.uint8] | Image.Image  # RGB; an array is (H, W, 3)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes pixels, as the checkpoint says (the fields of open_clip's PreprocessCfg).

    Attributes:
        size: height and width in pixels.
        mean, std: per channel, for values in [0, 1].
        interpolation: "bicubic" or "bilinear".
        resize_mode: "shortest" (then centre crop), "longest" (then pad) or "squash".
        fill_color: padding value, 0 to 255.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    fill_color: int = 0

    def fitted(self, image: Picture) -> Tensor:
        """The image at the tower's size, uint8 (H, W, 3)."""
        pixels = torch.from_numpy(np.require(image, np.uint8, ["C", "W"])).permute(2, 0, 1)[None]
        target = self._resized(*pixels.shape[2:])
        if target != tuple(pixels.shape[2:]):
            pixels = F.interpolate(pixels, size=target, mode=self._filter(), antialias=True)
        return self._centred(pixels[0].permute(1, 2, 0)).contiguous()

    def scaled(self, fitted: Tensor) -> Tensor:
        """Float32 pixels (B, 3, H, W), normalised, of fitted images (B, H, W, 3)."""
        std = torch.tensor(self.std, device=fitted.device)
        shift = -torch.tensor(self.mean, device=fitted.device) / std
        return (fitted.permute(0, 3, 1, 2) * (1 / (255 * std)).view(3, 1, 1)) + shift.view(3, 1, 1)

    def _filter(self) -> str:
        square = self.size[0] == self.size[1]
        # open_clip leaves the filter out where the shorter side of an image meets a target that is not square
        return "bicubic" if self.resize_mode == "shortest" and not square else self.interpolation

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing, before anything is cut off or added."""
        if self.resize_mode == "squash":
            return self.size
        across = height / self.size[0], width / self.size[1]
        if self.resize_mode == "shortest" and self.size[0] == self.size[1]:
            side, short = self.size[0], min(height, width)  # torchvision's rule rounds down, timm's to the nearest
            return side * height // short, side * width // short
        ratio = max(across) if self.resize_mode == "longest" else min(across)
        return round(height / ratio), round(width / ratio)

    def _centred(self, pixels: Tensor) -> Tensor:
        """(H, W, 3) cut to `size` about the centre, or padded."""
        for axis, side in enumerate(self.size):
            surplus = pixels.shape[axis] - side
            if surplus > 0:
                pixels = pixels.narrow(axis, round(surplus / 2), side)
            elif surplus < 0:
                margins = [0, 0] * (2 - axis) + [-surplus // 2, (1 - surplus) // 2]
                pixels = F.pad(pixels, margins, value=self.fill_color)
        return pixels
