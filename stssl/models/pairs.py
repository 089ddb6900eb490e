"""Which injection, backbone and distillation go together: asked when a recipe is read, before anything is trained."""

from __future__ import annotations

from typing import Any

from stssl import plugins
from stssl.models.backbone import ModelConfig, skeleton
from stssl.models.distillation import DistillationConfig, On
from stssl.models.families import family_of
from stssl.models.injection.base import Injection

PACKAGE = "stssl.models.injection"


def check_injection(model: ModelConfig, injection: Any) -> None:
    """Refuse an injection point that cannot work with the backbone.

    Raises:
        ValueError: What is wrong, and which injection points do work with this backbone.
    """
    backbone = skeleton(model)
    family = family_of(backbone)
    found = plugins.find(PACKAGE, Injection)
    fault = found[injection.name].refusal(injection, family, backbone)
    if fault is None:
        return
    working = [n for n, plugin in found.items() if plugin.refusal(plugin.Config(), family, backbone) is None]
    if injection.name in working:  # its settings are at fault, not the pair
        raise ValueError(f"injection: {injection.name} with model '{model.name}': {fault}")
    raise ValueError(
        f"injection: '{injection.name}' does not work with model '{model.name}': {fault}; "
        f"with this model work: {', '.join(working)}"
    )


def resolve_distillation(model: ModelConfig, injection: Any, distillation: DistillationConfig) -> On:
    """What distillation matches.

    Raises:
        ValueError: The injection, the backbone and what is to be matched do not go together, and what does.
    """
    backbone = skeleton(model)
    family = family_of(backbone)
    plugin = plugins.find(PACKAGE, Injection)[injection.name]
    tokens, register = plugin.tokens(injection), family.tokens and family.register(backbone) is not None
    on = distillation.resolve(tokens, register, plugin.blind_features)
    if on == "token" and not tokens:
        other = plugins.find(PACKAGE, Injection)["token"]
        possible = other.refusal(other.Config(), family, backbone) is None
        raise ValueError(
            f"distillation.on: injection '{injection.name}' has no metadata token that could be matched; use on: pooled, "
            f"logits or auto{', or injection: token' if possible else ''}"
        )
    if on == "token" and not register:
        raise ValueError(
            f"distillation.on: model '{model.name}' has a distillation token of its own and no room for the learnable one "
            "that the student needs; use on: pooled, logits or auto, or another vision transformer"
        )
    if on == "pooled" and plugin.blind_features:
        raise ValueError(
            f"distillation.on: with injection '{injection.name}' the teacher's pooled feature knows nothing of place and "
            "date; use on: logits or auto"
        )
    if on == "pooled" and distillation.predictor == "none" and plugin.beside(injection):
        raise ValueError(
            f"distillation.predictor: with injection '{injection.name}' the teacher's feature is wider than the student's; "
            "use predictor: linear or mlp, or on: logits"
        )
    return on
