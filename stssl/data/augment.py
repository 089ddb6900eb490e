"""Weak and strong views, batched on the device, where each image gets a policy of its own.

Weak: resize, reflect-padded random crop, flips. Strong: the same, then RandAugment (Cubuk et al. 2020) with `n`
operations an image. Kornia's and torchvision's RandAugment draw one policy for a batch; here each image draws its own,
and images that drew the same operation go through it together.

All random numbers are drawn on the CPU from a key, so a view does not depend on the device, on what was drawn before,
or on the run being resumed.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from stssl.config import Config
from stssl.data.operations import AFFINE, COLOUR, POINTWISE, affine, matrices

_RGB = (("B04", "B03", "B02"), ("R", "G", "B"))
_WEAK, _STRONG = 0, 1  # a stream of random numbers each, so that one key serves both views


class ViewConfig(Config):
    """How images are augmented.

    Attributes:
        crop_ratio: Images are padded by (1 - crop_ratio) of their size on each side, then cropped back at random.
        flips: Flip in both directions, each with probability 1/2.
        strong_ops: Operations on each strong view.
        strong_magnitude: The strongest that an operation may be, 0 to 10.
    """

    crop_ratio: float = Field(default=0.875, ge=0.5, le=1)
    flips: bool = True
    strong_ops: int = Field(default=3, ge=0, le=8)
    strong_magnitude: float = Field(default=5, ge=0, le=10)


class Views:
    """Makes network inputs from stored pixels. Inputs are [B, C, H, W] in stored dtype; outputs [B, C, S, S] float32.

    Pixels are scaled to [0, 1] by (x - (mean - 2 std)) / 4 std per band and clipped; operations work there; what comes
    out is standardised by (y - 0.5) / 0.25, so one standard deviation of a band is 1.

    Args:
        config: How to augment.
        mean: [C] of the stored pixels.
        std: [C] of the stored pixels.
        bands: C names: the saturation operation needs to know that they are red, green, blue.
        image_size: S, in pixels.
        device: Where views are made.
    """

    def __init__(
        self,
        config: ViewConfig,
        mean: Tensor,
        std: Tensor,
        bands: tuple[str, ...],
        image_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.size, self.device = config, image_size, torch.device(device)
        safe = torch.where(std > 0, std, 0.25).to(torch.float32)  # a constant band lies in the middle
        self._low = (mean.to(torch.float32) - 2 * safe).view(1, -1, 1, 1).to(self.device)
        self._scale = (1 / (4 * safe)).view(1, -1, 1, 1).to(self.device)
        self._pointwise = (*POINTWISE, *((COLOUR,) if tuple(bands) in _RGB else ()))

    def normalise(self, images: Tensor) -> Tensor:
        """The plain view, for evaluation."""
        return _standardise(self._unit(images))

    def weak(self, images: Tensor, seed_key: tuple[int, ...]) -> Tensor:
        """Random crop and flips. The key (such as seed, step, pool) decides everything that is random."""
        return _standardise(self._crop_and_flip(self._unit(images), _random(seed_key, _WEAK)))

    def strong(self, images: Tensor, seed_key: tuple[int, ...]) -> Tensor:
        """A random crop and flips of its own, then RandAugment."""
        random = _random(seed_key, _STRONG)
        return _standardise(self._rand_augment(self._crop_and_flip(self._unit(images), random), random))

    def _unit(self, images: Tensor) -> Tensor:
        """[B, C, S, S] in [0, 1]."""
        x = images.to(self.device, torch.float32)
        x = ((x - self._low) * self._scale).clamp_(0, 1)
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True).clamp_(0, 1)
        return x

    def _crop_and_flip(self, x: Tensor, random: np.random.Generator) -> Tensor:
        """Pad by reflection, crop, flip: one gather, which only moves pixels."""
        batch, channels, size, _ = x.shape
        pad = min(round(size * (1 - self.config.crop_ratio)), size - 1)
        shift = random.integers(-pad, pad + 1, (2, batch, 1))
        flip = random.integers(0, 2, (2, batch, 1)).astype(bool) & self.config.flips
        line = np.arange(size)[None]
        index = np.abs(np.where(flip, size - 1 - line, line) + shift)
        index = np.where(index > size - 1, 2 * (size - 1) - index, index)
        flat = torch.from_numpy(index[0][:, :, None] * size + index[1][:, None, :]).to(self.device)
        where = flat.view(batch, 1, size * size).expand(batch, channels, size * size)
        return x.reshape(batch, channels, -1).gather(2, where).view_as(x)

    def _rand_augment(self, x: Tensor, random: np.random.Generator) -> Tensor:
        """`strong_ops` rounds; in each, every image goes through one operation."""
        batch, limit = len(x), self.config.strong_magnitude / 10
        for _ in range(self.config.strong_ops):
            choice = random.integers(0, 1 + len(AFFINE) + len(self._pointwise), batch)  # 0 is the identity
            strength = random.uniform(0, limit, batch).astype(np.float32)
            signed = np.where(random.integers(0, 2, batch) == 1, strength, -strength)
            moved = np.flatnonzero((choice >= 1) & (choice <= len(AFFINE)))
            if len(moved):  # rotation, shear and translation are one operation with different matrices
                theta = torch.from_numpy(matrices(choice[moved] - 1, signed[moved])).to(self.device)
                rows = torch.from_numpy(moved).to(self.device)
                x[rows] = affine(x[rows], theta)
            for number, (operation, has_sign) in enumerate(self._pointwise, start=1 + len(AFFINE)):
                drew = np.flatnonzero(choice == number)
                if len(drew):
                    rows = torch.from_numpy(drew).to(self.device)
                    amount = torch.from_numpy((signed if has_sign else strength)[drew]).to(self.device)
                    x[rows] = operation(x[rows], amount.view(-1, 1, 1, 1))
        return x


def _random(seed_key: tuple[int, ...], stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([*seed_key, stream]))


def _standardise(x: Tensor) -> Tensor:
    return (x - 0.5) / 0.25
