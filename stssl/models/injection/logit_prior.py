"""What place and time alone say about the classes, added to the logits."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from stssl.config import Config
from stssl.encodings.encoder import MetadataEncoder
from stssl.models.injection.base import Injection, Outputs, read, zeroed


class LogitPriorConfig(Config):
    """`scale` multiplies the prior, and so how fast it is learned."""

    name: Literal["logit_prior"] = "logit_prior"
    scale: float = Field(1.0, gt=0, le=100)


class LogitPrior(Injection):
    """z + s·g(e): z the image's logits, g = V·GELU(e) + b [B, K] with V = b = 0 at first, s a constant.

    For independent evidence, log p(y | image, place) is log p(y | image) + log p(y | place) but for a constant.
    Image and metadata meet nowhere else, so the student learns from the logits.

    Source: Mac Aodha et al. (ICCV 2019), a geographical prior, there trained apart from the image's network.
    """

    Config = LogitPriorConfig
    blind_features = True

    def __init__(self, config: LogitPriorConfig, backbone: Any, encoder: MetadataEncoder) -> None:
        super().__init__(backbone, encoder)
        self.scale = config.scale
        self.prior = nn.Sequential(nn.GELU(), zeroed(nn.Linear(self.embedding(backbone), backbone.num_classes)))

    def answer(self, features: Tensor, e: Tensor) -> Outputs:
        image = read(self.backbone, features)
        return Outputs(image.logits + self.scale * self.prior(e), image.pooled)
