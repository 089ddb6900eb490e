"""The timm networks that can be used, one file a family, named like timm's module."""

from __future__ import annotations

from timm.models import is_model_in_modules
from torch import nn

from stssl.models.families.base import Family
from stssl.models.families.convnext import ConvNeXts
from stssl.models.families.eva import Evas
from stssl.models.families.resnet import ResNets
from stssl.models.families.swin_transformer import Swins
from stssl.models.families.vision_transformer import VisionTransformers

FAMILIES: tuple[Family, ...] = (VisionTransformers(), Evas(), ResNets(), ConvNeXts(), Swins())


def family_named(name: str) -> Family | None:
    """The family of a timm model name; None where there is none."""
    return next((family for family in FAMILIES if is_model_in_modules(name, list(family.modules))), None)


def family_of(network: nn.Module) -> Family:
    """The family of a network."""
    return next(family for family in FAMILIES if isinstance(network, family.classes))
