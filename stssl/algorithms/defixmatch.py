"""DeFixMatch: FixMatch without the bias that its wrong pseudo-labels bring."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stssl.algorithms.base import Logits, Seen, Targets
from stssl.algorithms.fixmatch import FixMatch, FixMatchConfig
from stssl.algorithms.losses import entry_losses, supervised_loss
from stssl.algorithms.thresholds import probabilities, pseudo_labels
from stssl.models.teacher_student import Role


class DeFixMatchConfig(FixMatchConfig):
    """As FixMatch (published for BigEarthNet: 0.05, 0.7 and unlabeled_weight 0.5)."""

    name: Literal["defixmatch"] = "defixmatch"  # type: ignore[assignment]


class DeFixMatch(FixMatch):
    """FixMatch, less the same consistency on labeled images: what the pseudo-labels get wrong there is taken off.

    The supervised loss is the mean of that on weak and on strong views. Entries whose label is unknown are left out of
    the subtracted term too, which is a mean over the known ones.

    Source: Schmutz, Humbert and Mattei, Don't fear the unlabelled (ICLR 2023).
    """

    Config = DeFixMatchConfig
    uses_labeled = True
    uses_labeled_strong = True

    def believe(self, seen: Seen, step: int) -> Targets:
        targets = super().believe(seen, step)
        p = probabilities(seen.labeled, self.task)
        mirror = Targets(pseudo_labels(seen.labeled, self.task, self.config), self.config.mask(p, self.task))
        return targets._replace(labeled=mirror)

    def losses(self, logits: Logits, y: Tensor, targets: Targets | None, role: Role, step: int) -> dict[str, Tensor]:
        losses = super().losses(logits, y, targets, role, step)
        if logits.labeled_strong is None:
            return losses
        losses["supervised"] = torch.stack(
            [losses["supervised"], supervised_loss(logits.labeled_strong, y, self.task)]
        ).mean()
        if targets is not None and targets.labeled is not None:
            known = y >= 0
            terms = entry_losses(logits.labeled_strong, targets.labeled.labels, self.task)
            mirror = (terms * targets.labeled.weights * known).sum() / known.sum().clamp(min=1)
            losses["debiasing"] = -self.config.unlabeled_weight * mirror
        return losses
