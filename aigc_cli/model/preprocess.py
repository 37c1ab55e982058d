"""Preprocessing: an image is resized, cropped and normalised as open_clip's own transform does it.

PyTorch resizes bytes in a seventh of Pillow's time. Both use the same filter in integer arithmetic, PyTorch with
weights of fewer bits: up to one byte in fifty differs by one level, which changes a score by up to 0.007 MOS.
JPEGs are decoded at full size: decoding at a reduced size changes scores by 0.01 to 0.14 MOS, even if the reduced side
is six times the side of the tower.
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
    """The preprocessing of a backbone, with the fields of open_clip's PreprocessCfg.

    Attributes:
        size: height and width in pixels.
        mean, std: of each channel, for values in [0, 1].
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

    def fit_size(self, image: Picture) -> Tensor:
        """Resizes and crops or pads an image to the tower's size, uint8 (H, W, 3)."""
        pixels = torch.from_numpy(np.require(image, np.uint8, ["C", "W"])).permute(2, 0, 1)[None]
        target = self._compute_resized_size(*pixels.shape[2:])
        if target != tuple(pixels.shape[2:]):
            # open_clip ignores the setting where it crops to a rectangle, and uses its default
            crops = self.resize_mode == "shortest" and self.size[0] != self.size[1]
            mode = "bicubic" if crops else self.interpolation
            pixels = F.interpolate(pixels, size=target, mode=mode, antialias=True)
        return self._crop_or_pad(pixels[0].permute(1, 2, 0)).contiguous()

    def normalise(self, fitted: Tensor) -> Tensor:
        """Normalised float32 pixels (B, 3, H, W), from images (B, H, W, 3) that `fit_size` returned."""
        std = torch.tensor(self.std, device=fitted.device)
        shift = -torch.tensor(self.mean, device=fitted.device) / std
        return (fitted.permute(0, 3, 1, 2) * (1 / (255 * std)).view(3, 1, 1)) + shift.view(3, 1, 1)

    def _compute_resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing, before cropping or padding."""
        if self.resize_mode == "squash":
            return self.size
        across = height / self.size[0], width / self.size[1]
        if self.resize_mode == "shortest" and self.size[0] == self.size[1]:
            side, short = self.size[0], min(height, width)  # torchvision rounds down, timm to the nearest
            return side * height // short, side * width // short
        ratio = max(across) if self.resize_mode == "longest" else min(across)
        return round(height / ratio), round(width / ratio)

    def _crop_or_pad(self, pixels: Tensor) -> Tensor:
        """Crops or pads an image (H, W, 3) to `size`, around its centre."""
        for axis, side in enumerate(self.size):
            surplus = pixels.shape[axis] - side
            if surplus > 0:
                pixels = pixels.narrow(axis, round(surplus / 2), side)
            elif surplus < 0:
                margins = [0, 0] * (2 - axis) + [-surplus // 2, (1 - surplus) // 2]
                pixels = F.pad(pixels, margins, value=self.fill_color)
        return pixels
