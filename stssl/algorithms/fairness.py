"""FreeMatch's fairness term. No algorithm of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stssl.data.schema import Task


def inverse(share: Tensor) -> Tensor:
    """1/share, 0 where share is 0 or so small that its inverse leaves float32, without a gradient."""
    share = share.detach()
    return torch.where(share < 1e-30, 0.0, 1 / share.clamp(min=1e-30))


def fairness(
    strong: Tensor, mask: Tensor, mean_p: Tensor, histogram: Tensor, task: Task, parity: bool = False
) -> Tensor:
    """Σ a·log(b + 1e-12): how far the believed predictions on strong views are from the average ones.

    a is the normalised p̃/h̃; b the normalised mean of the strong probabilities that pass the mask, over the histogram of
    their classes. Multi-label: of the two outcomes of each class, summed over classes. 0 where nothing passes.

    Source: Wang et al., FreeMatch (ICLR 2023), equation 11; several labels as in Bernhard et al. (ECAI 2024).

    Args:
        strong: [U, K] logits.
        mask: [U] or [U, K], 0 or 1.
        mean_p: [K] p̃.
        histogram: [K] h̃.
        task: `single` or `multi`.
        parity: Multi-label: a class with an empty mask gives NaN, one where all agree a constant, as published. Else both
            are left out: neither has a gradient.
    """
    strong = strong.float()
    if task == "single":
        p, passed = strong.softmax(dim=1), mask.sum()
        share = 1 / passed.clamp(min=1)
        guess = F.one_hot(strong.argmax(dim=1), strong.shape[1]).float()
        b = (p * mask[:, None]).sum(0) * share * inverse((guess * mask[:, None]).sum(0) * share)
        a = mean_p * inverse(histogram)
        a = a / a.sum().clamp(min=1e-12)
        b = b / b.sum().clamp(min=1e-12)
        return (passed > 0) * (a * torch.log(b + 1e-12)).sum()
    p, passed = strong.sigmoid(), mask.sum(0)
    some = passed.sum() > 0
    share = 1 / (torch.where(some, passed, 1.0) if parity else passed.clamp(min=1))
    positive = ((p >= 0.5) * mask).sum(0) * share
    a1, a0 = mean_p * inverse(histogram), (1 - mean_p) * inverse(1 - histogram)
    b1 = (p * mask).sum(0) * share * inverse(positive)
    b0 = ((1 - p) * mask).sum(0) * share * inverse(1 - positive)
    telling = torch.ones_like(passed, dtype=torch.bool) if parity else (positive > 0) & (positive < 1)
    # where nothing tells, both are set to a half before the division, so that no NaN enters the gradient either
    a = a1 / torch.where(a1 + a0 > 0, a1 + a0, 1.0)
    b = torch.where(telling, b1, 0.5) / torch.where(telling, b1 + b0, 1.0)
    terms = a * torch.log(b + 1e-12) + (1 - a) * torch.log(1 - b + 1e-12)
    return torch.where(telling & some, terms, 0.0).sum()
