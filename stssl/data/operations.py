"""The operations of RandAugment for any number of bands: batches in [0, 1] in, batches in [0, 1] out.

Each takes images [b, C, H, W] and a strength for each image, 0 to 1 (-1 to 1 where it has a sign). Ranges follow
RandAugment (Cubuk et al. 2020): at full strength a factor of 1.9 or 0.1, 4 bits, 30 degrees, 0.3 of the size.

None changes its input, looks at a value (a GPU would have to be waited for) or selects pixels by `torch.where`, which
costs the CPU as much as ten multiplications.
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

Operation = tuple[Callable[[Tensor, Tensor], Tensor], bool]  # the function, and whether its strength has a sign

AFFINE = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_FLAT = 1 / 255  # a smaller range of a band is one level of RandAugment's 8 bits: noise, not contrast
_MOST = 0.9  # brightness, contrast, sharpness, saturation: a factor of 1 +- 0.9 at full strength


def brightness(x: Tensor, strength: Tensor) -> Tensor:
    """Multiply all pixels."""
    return (x * (1 + _MOST * strength)).clamp_(0, 1)


def contrast(x: Tensor, strength: Tensor) -> Tensor:
    """Move pixels from or to the image's mean over all bands."""
    # The mean of means: with several threads, torch sums a single image in another order than it does many.
    mean = x.mean((2, 3), keepdim=True).mean(1, keepdim=True)
    return _away_from(mean, x, strength)


def sharpness(x: Tensor, strength: Tensor) -> Tensor:
    """Move pixels from or to a smoothed image (3 x 3, the middle weighing five times)."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., :-2] + padded[..., 1:-1]).add_(padded[..., 2:])
    smooth = (across[..., :-2, :] + across[..., 1:-1, :]).add_(across[..., 2:, :]).add_(x, alpha=4).div_(13)
    return _away_from(smooth, x, strength)


def saturation(x: Tensor, strength: Tensor) -> Tensor:
    """Move colours from or to grey (Rec. 601 luma of red, green, blue)."""
    grey = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]
    return _away_from(grey, x, strength)


def posterize(x: Tensor, strength: Tensor) -> Tensor:
    """Keep 8 down to 4 bits."""
    levels = 2 ** (8 - (4 * strength).round())
    return torch.minimum((x * levels).floor_(), levels - 1).div_(levels - 1)


def solarize(x: Tensor, strength: Tensor) -> Tensor:
    """Invert pixels above a threshold that falls from 1 to 0."""
    return (1 - 2 * x).mul_(x > 1 - strength).add_(x)


def autocontrast(x: Tensor, strength: Tensor) -> Tensor:
    """Stretch each band to [0, 1]; a flat band stays. It has no strength."""
    low, spread = _spread(x)
    flat = spread < _FLAT
    return (x - low.masked_fill(flat, 0)).div_(spread.masked_fill(flat, 1))


def equalize(x: Tensor, strength: Tensor) -> Tensor:
    """Equalize each band's histogram of 256 levels; a flat band stays. It has no strength.

    On 8 bits it is torchvision's and Pillow's: level v becomes (pixels below v + step // 2) // step, where step is a
    255th of the pixels that are not of the highest level; with a step of 0 the band stays.
    """
    level = (x * 255).round_().to(torch.int64).flatten(0, 1).flatten(1)
    count = level.new_zeros((len(level), 256), dtype=torch.int32)
    count.scatter_add_(1, level, count.new_ones(1).expand_as(level))
    below = count.cumsum(1) - count
    step = below.gather(1, level.amax(1, keepdim=True)) // 255
    table = torch.where(step > 0, (below + step // 2) // step.clamp(min=1), torch.arange(256, device=x.device))
    equal = table.clamp_(max=255).to(x.dtype).div_(255).gather(1, level).view_as(x)
    return torch.lerp(equal, x, (_spread(x)[1] < _FLAT).to(x.dtype))


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
    height, width = x.shape[-2:]
    down = (torch.arange(1 - height, height, 2, device=x.device) / height).view(-1, 1)  # centres of pixels
    across = torch.arange(1 - width, width, 2, device=x.device) / width
    grid = x.new_empty((len(x), height, width, 2))  # what F.affine_grid makes, but that multiplies thin matrices
    for axis in range(2):
        by_across, by_down, shift = theta[:, axis, :, None, None].unbind(1)
        torch.add(by_across * across, by_down * down + shift, out=grid[..., axis])
    moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved.add_(128).sub_(128)  # a float32 near 128 has 16 bits after the point


def _away_from(anchor: Tensor, x: Tensor, strength: Tensor) -> Tensor:
    return torch.lerp(anchor, x, 1 + _MOST * strength).clamp_(0, 1)


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
