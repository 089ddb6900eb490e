"""The operations of RandAugment for any number of bands: batches in [0, 1] in, batches in [0, 1] out.

Each takes images [b, C, H, W] and a strength for each image, 0 to 1 (-1 to 1 where it has a sign). Ranges follow
RandAugment (Cubuk et al. 2020): at full strength a factor of 1.9 or 0.1, 4 bits, 30 degrees, 0.3 of the size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

Operation = tuple[Callable[[Tensor, Tensor], Tensor], bool]  # the function, and whether its strength has a sign

AFFINE = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_FLAT = 1 / 255  # a smaller range of a band is one level of RandAugment's 8 bits: noise, not contrast
_MOST = 0.9  # brightness, contrast, sharpness, saturation: a factor of 1 +- 0.9 at full strength


def brightness(x: Tensor, strength: Tensor) -> Tensor:
    """Multiply all pixels."""
    return (x * (1 + _MOST * strength)).clamp_(0, 1)


def contrast(x: Tensor, strength: Tensor) -> Tensor:
    """Move pixels from or to the image's mean over all bands."""
    return _away_from(x.mean((1, 2, 3), keepdim=True), x, strength)


def sharpness(x: Tensor, strength: Tensor) -> Tensor:
    """Move pixels from or to a smoothed image (3 x 3, the middle weighing five times)."""
    rows = F.pad(x, (1, 1, 1, 1), mode="replicate")
    size = x.shape[-1]
    across = rows[..., :size] + rows[..., 1 : size + 1] + rows[..., 2:]
    height = x.shape[-2]
    smooth = (across[..., :height, :] + across[..., 1 : height + 1, :] + across[..., 2:, :] + 4 * x) / 13
    return _away_from(smooth, x, strength)


def saturation(x: Tensor, strength: Tensor) -> Tensor:
    """Move colours from or to grey (Rec. 601 luma of red, green, blue)."""
    grey = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]
    return _away_from(grey, x, strength)


def posterize(x: Tensor, strength: Tensor) -> Tensor:
    """Keep 8 down to 4 bits."""
    levels = 2 ** (8 - (4 * strength).round())
    return torch.minimum((x * levels).floor(), levels - 1) / (levels - 1)


def solarize(x: Tensor, strength: Tensor) -> Tensor:
    """Invert pixels above a threshold that falls from 1 to 0."""
    return torch.where(x > 1 - strength, 1 - x, x)


def autocontrast(x: Tensor, strength: Tensor) -> Tensor:
    """Stretch each band to [0, 1]; a flat band stays. It has no strength."""
    low, spread = _spread(x)
    return torch.where(spread < _FLAT, x, ((x - low) / spread.clamp(min=_FLAT)).clamp_(0, 1))


def equalize(x: Tensor, strength: Tensor) -> Tensor:
    """Equalize each band's histogram of 256 levels; a flat band stays. It has no strength."""
    apart = x.reshape(-1, 1, *x.shape[-2:])  # torchvision takes 1 or 3 channels, we have up to 13
    equal = tv.equalize_image((apart * 255).round_().to(torch.uint8)).view_as(x).to(x.dtype) / 255
    return torch.where(_spread(x)[1] < _FLAT, x, equal)


def matrices(kind: NDArray[np.int64], strength: NDArray[Any]) -> NDArray[np.float32]:
    """Affine maps from output to input in units of half an image.

    Args:
        kind: [b] numbers in `AFFINE`.
        strength: [b] in -1 to 1.

    Returns:
        [b, 2, 3] for `affine`.
    """
    angle = np.where(kind == 0, strength * math.radians(30), 0.0)
    theta = np.zeros((len(kind), 2, 3), np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = np.cos(angle)
    theta[:, 0, 1], theta[:, 1, 0] = -np.sin(angle), np.sin(angle)
    # The image spans -1 to 1, so a shift by 0.3 of its size is 0.6.
    for number, row, column, most in ((1, 0, 1, 0.3), (2, 1, 0, 0.3), (3, 0, 2, 0.6), (4, 1, 2, 0.6)):
        theta[:, row, column] += np.where(kind == number, most * strength, 0.0).astype(np.float32)
    return theta


def affine(x: Tensor, theta: Tensor) -> Tensor:
    """Resample images by maps [b, 2, 3], bilinearly; what lies outside is reflected.

    The result is rounded to 16 bits, as pixels are stored: interpolating a constant leaves noise of 1e-7, from which
    posterize and autocontrast would make a picture.
    """
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved.mul_(65536).round_().div_(65536).clamp_(0, 1)


def _away_from(anchor: Tensor, x: Tensor, strength: Tensor) -> Tensor:
    return (x + (x - anchor) * (_MOST * strength)).clamp_(0, 1)


def _spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest value and range of each band: [b, C, 1, 1] each."""
    low = x.amin((2, 3), keepdim=True)
    return low, x.amax((2, 3), keepdim=True) - low


POINTWISE: tuple[Operation, ...] = (
    (autocontrast, False),
    (equalize, False),
    (brightness, True),
    (contrast, True),
    (sharpness, True),
    (posterize, False),
    (solarize, False),
)
COLOUR: Operation = (saturation, True)
