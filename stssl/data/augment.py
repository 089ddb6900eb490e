"""Weak and strong views, batched on the device, where each image gets a policy of its own.

Weak: resize, reflect-padded random crop, flips. Strong: the same, then RandAugment (Cubuk et al. 2020) with `n`
operations an image. Kornia's and torchvision's RandAugment draw one policy for a batch; here each image draws its own,
and images that drew the same operation go through it together.

All random numbers are drawn on the CPU from a key, so a view does not depend on the device, on what was drawn before,
or on the run being resumed. Views are made a few images at a time, so that a CPU finds them in its cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from stssl.config import Config
from stssl.data.operations import AFFINE, COLOUR, POINTWISE, affine, matrices

_RGB = (("B04", "B03", "B02"), ("R", "G", "B"))
_WEAK, _STRONG = 0, 1  # a stream of random numbers each, so that one key serves both views
_AT_A_TIME = {"cpu": 1 << 21}  # numbers: 8 MB of float32, some 40 images of 3 bands and 128 pixels
_AT_MOST = 1 << 26  # elsewhere, where it is the number of calls that costs: 256 MB


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


class _Draw(NamedTuple):
    """What is random in one view of a batch."""

    first: Tensor  # [B, S] where in the mirrored image each row of the cropped and flipped one begins
    choice: NDArray[np.int64]  # [strong_ops, B] the operation; 0 is none
    strength: NDArray[np.float32]  # [strong_ops, B] with a sign


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

    white = 2.0  # the brightest that a pixel of a view can be

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
        self._minus_two = torch.tensor(-2.0, device=self.device)
        self._pad = min(round(image_size * (1 - config.crop_ratio)), image_size - 1)
        self._pointwise = (*POINTWISE, *((COLOUR,) if tuple(bands) in _RGB else ()))

    def normalise(self, images: Tensor) -> Tensor:
        """The plain view, for evaluation."""
        view = torch.empty((*images.shape[:2], self.size, self.size), device=self.device)
        step = self._at_a_time(images)
        for some, there in zip(images.split(step), view.split(step), strict=True):
            self._standardise(self._unit(some), there)
        return view

    def weak(self, images: Tensor, seed_key: tuple[int, ...]) -> Tensor:
        """Random crop and flips. The key (such as seed, step, pool) decides everything that is random."""
        return self._make(images, self._draw(len(images), seed_key, _WEAK))[0]

    def strong(self, images: Tensor, seed_key: tuple[int, ...]) -> Tensor:
        """A random crop and flips of its own, then RandAugment."""
        return self._make(images, self._draw(len(images), seed_key, _STRONG))[0]

    def pair(self, images: Tensor, weak_key: tuple[int, ...], strong_key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The weak and the strong view, as `weak` and `strong` make them, sharing what is not random."""
        draws = (self._draw(len(images), weak_key, _WEAK), self._draw(len(images), strong_key, _STRONG))
        weak, strong = self._make(images, *draws)
        return weak, strong

    def _draw(self, batch: int, seed_key: tuple[int, ...], stream: int) -> _Draw:
        """For the whole batch at once: how it is divided later must not show."""
        random = np.random.default_rng(np.random.SeedSequence([*seed_key, stream]))
        size, pad = self.size, self._pad
        shift = random.integers(-pad, pad + 1, (2, batch, 1))
        flip = random.integers(0, 2, (2, batch, 1)).astype(bool) & self.config.flips
        rows = np.abs(np.where(flip[0], size - 1 - np.arange(size), np.arange(size)) + shift[0])
        rows = np.where(rows > size - 1, 2 * (size - 1) - rows, rows)
        start = np.where(flip[1], pad - shift[1], size - 1 + pad + shift[1])
        ops = self.config.strong_ops if stream == _STRONG else 0
        choice, strength = np.zeros((ops, batch), np.int64), np.zeros((ops, batch), np.float32)
        for number in range(ops):
            choice[number] = random.integers(0, 1 + len(AFFINE) + len(self._pointwise), batch)
            strength[number] = random.uniform(0, self.config.strong_magnitude / 10, batch)
            strength[number] *= 2 * random.integers(0, 2, batch) - 1
        return _Draw(self._send(rows * (2 * (pad + size) - 1) + start), choice, strength)

    def _make(self, images: Tensor, *draws: _Draw) -> list[Tensor]:
        """One view of the images for each draw."""
        batch, channels = images.shape[:2]
        views = [torch.empty((batch, channels, self.size, self.size), device=self.device) for _ in draws]
        step = self._at_a_time(images)
        shape = (min(step, batch), channels, self.size, 2 * (self._pad + self.size) - 1)
        room = torch.empty(shape, device=self.device)
        for begin in range(0, batch, step):
            part = slice(begin, begin + step)
            mirrored = self._mirrored(self._unit(images[part]), room)
            for draw, view in zip(draws, views, strict=True):
                x = self._crop(mirrored, draw.first[part])
                if len(draw.choice):
                    x = self._rand_augment(x, draw.choice[:, part], draw.strength[:, part])
                self._standardise(x, view[part])
        return views

    def _at_a_time(self, images: Tensor) -> int:
        numbers = _AT_A_TIME.get(self.device.type, _AT_MOST)
        return int(max(1, numbers // (images.shape[1] * self.size**2)))

    def _send(self, numbers: NDArray[Any]) -> Tensor:
        return torch.from_numpy(numbers).to(self.device, non_blocking=True)

    def _standardise(self, x: Tensor, view: Tensor) -> None:
        """4 x - 2, which is (x - 0.5) / 0.25, in one pass."""
        torch.add(self._minus_two, x, alpha=4, out=view)

    def _unit(self, images: Tensor) -> Tensor:
        """[B, C, S, S] in [0, 1]."""
        x = images.to(self.device, torch.float32)
        x = (x - self._low).mul_(self._scale).clamp_(0, 1)
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True).clamp_(0, 1)
        return x

    def _mirrored(self, x: Tensor, room: Tensor) -> Tensor:
        """Rows reflected at their start, and so far that each crop and flip is a piece of them. They fill `room`."""
        pad, back = self._pad, x.flip(3)
        pieces = (x[..., self.size - 1 - pad : -1], back, x[..., 1:], back[..., 1 : 1 + pad])
        return torch.cat(pieces, 3, out=room[: len(x)])

    def _crop(self, mirrored: Tensor, first: Tensor) -> Tensor:
        """Cut each row of the view out of a mirrored one. Whole rows are copied much faster than pixel by pixel."""
        batch, channels, size, length = mirrored.shape
        planes = torch.arange(batch * channels, device=self.device).view(batch, channels, 1) * (size * length)
        pieces = mirrored.flatten().unfold(0, size, 1)  # a view: the piece that begins at each pixel
        return pieces.index_select(0, (planes + first[:, None]).flatten()).view(batch, channels, size, size)

    def _rand_augment(self, x: Tensor, choice: NDArray[np.int64], strength: NDArray[np.float32]) -> Tensor:
        """In each round every image goes through one operation, together with those that drew the same."""
        images = list(x)
        for drew, amount in zip(choice, strength, strict=True):
            # Rotation, shear and translation are one operation with different matrices.
            kind = np.where(drew > len(AFFINE), drew, np.minimum(drew, 1))
            for number in np.unique(kind[kind > 0]):
                members = np.flatnonzero(kind == number)
                together = torch.stack([images[member] for member in members])
                if number == 1:
                    changed = affine(together, self._send(matrices(drew[members] - 1, amount[members])))
                else:
                    operation, has_sign = self._pointwise[number - 1 - len(AFFINE)]
                    signed = amount[members] if has_sign else np.abs(amount[members])
                    changed = operation(together, self._send(signed).view(-1, 1, 1, 1))
                for member, image in zip(members, changed, strict=True):
                    images[member] = image
        return torch.stack(images)
