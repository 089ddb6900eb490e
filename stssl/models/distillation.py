"""What of the teacher the student is to match, and the layers that only distillation needs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from stssl.config import Config
from stssl.models.injection.base import Outputs

On = Literal["token", "pooled", "logits"]


class DistillationConfig(Config):
    """Only for teacher_student. Weight 0: no distillation, and the student gets no token for it.

    `on` says what is matched. `token`: the teacher's metadata tokens, by learnable tokens of the student (published).
    `pooled`: the teacher's pooled feature, by a predictor on the student's (`predictor` is for this alone). `logits`.
    `auto`: logits for the loss kl and for the injection logit_prior, else token where both networks can have one,
    else pooled.

    `loss`: auto is kl for logits, else mse (published). `kl` is the Kullback-Leibler divergence of class probabilities
    at `temperature`. `views` are those on which teacher and student are compared (published: labeled images and strong
    views of unlabeled ones); `weak` costs the student a further forward pass. The weight rises linearly over
    `rampup_steps`.
    """

    loss: Literal["auto", "mse", "mae", "cosine", "smooth_l1", "kl"] = "auto"
    weight: float = Field(1.0, ge=0, le=1000)
    on: Literal["auto", "token", "pooled", "logits"] = "auto"
    predictor: Literal["none", "linear", "mlp"] = "linear"
    views: Literal["labeled", "strong", "weak", "labeled+strong", "labeled+weak"] = "labeled+strong"
    rampup_steps: int = Field(0, ge=0, le=10**9)
    temperature: float = Field(2.0, gt=0, le=100)

    @model_validator(mode="after")
    def _fits(self) -> DistillationConfig:
        if self.loss == "kl" and self.on in ("token", "pooled"):
            raise ValueError(f"loss kl compares class probabilities, not on: {self.on}; use on: logits (or auto)")
        return self

    def weight_at(self, step: int) -> float:
        """The weight after `step` finished steps."""
        return self.weight * min(1.0, step / self.rampup_steps) if self.rampup_steps else self.weight

    def loss_of(self, on: On) -> str:
        """The loss for what is matched."""
        return self.loss if self.loss != "auto" else "kl" if on == "logits" else "mse"

    def resolve(self, tokens: int, register: bool, blind_features: bool) -> On:
        """What is matched.

        Args:
            tokens: How many metadata tokens the teacher has.
            register: The student can have learnable tokens.
            blind_features: The teacher's pooled feature knows nothing of place and date.
        """
        if self.on != "auto":
            return self.on
        if self.loss == "kl" or blind_features:
            return "logits"
        return "token" if tokens and register else "pooled"


def make_predictor(kind: str, width: int, target: int) -> nn.Module:
    """From the student's pooled feature [B, width] to the teacher's [B, target]."""
    if kind == "none":
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, target)
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, target))


def matched(on: On, outputs: Outputs) -> Tensor:
    """The part of a network's outputs that is matched."""
    if on == "token":
        assert outputs.tokens is not None
        return outputs.tokens
    return outputs.pooled if on == "pooled" else outputs.logits
