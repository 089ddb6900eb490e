"""What does not go together is refused when the recipe is read, with what does; what distillation matches."""

from collections.abc import Callable
from typing import Any

import pytest

from stssl.errors import ConfigError
from stssl.models.pairs import resolve_distillation
from stssl.training.recipe import Recipe

RESNET = {"model": {"name": "test_resnet", "image_size": 32}}
DISTILLED = {"model.name": "deit_tiny_distilled_patch16_224"}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "token, ResNet": (
        RESNET,
        "injection: 'token' does not work with model 'test_resnet': only vision transformers have tokens .*; "
        "with this model work: add, concat, cross_attention, film, logit_prior",
    ),
    "not of a family": (
        {"injection": "film", "model.name": "vit_relpos_small_patch16_224"},
        "model.name: 'vit_relpos_small_patch16_224' is not a timm model of a known family",
    ),
    "film, rotary post-norm": (
        {"injection": "film", "model.name": "eva02_enormous_patch14_clip_224"},
        r"injection: 'film' does not work .*\(EvaBlockPostNorm\) do not normalise .*with this model work: add, concat, cr",
    ),
    "film, parallel": (
        {"injection": "film", "model.name": "vit_small_patch16_18x2_224"},
        r"injection: 'film' does not work .*\(ParallelThingsBlock\) do not normalise .*: add, .*, logit_prior, .*token",
    ),
    "no class token": (
        {"injection": {"name": "add", "to": "both"}, "model.name": "vit_base_patch16_siglip_gap_224"},
        "injection: add with model 'vit_base.*': to: both needs a class token, which this model lacks; use to: patches",
    ),
    "block beyond": (
        {"injection": {"name": "film", "blocks": [0, 7]}},
        r"injection: film with model 'tiny': blocks \[7\] do not exist; its 1 blocks are 0 to 0",
    ),
    "block twice": ({"injection": {"name": "film", "blocks": [0, 0]}}, ".*blocks must name .* each only once"),
    "no block": ({"injection": {"name": "cross_attention", "blocks": []}}, ".*blocks must name at least one block"),
    "no number": (
        {"injection": {"name": "film", "blocks": [True]}},
        r"injection.blocks: expected one of all, .*, or a list of block numbers from 0, got \[True\]$",
    ),
    "no span": (
        {"injection": {"name": "film", "blocks": "middle"}},
        "injection.blocks: expected one of all, first_half, .*, got 'middle'$",
    ),
    "no plugin": ({"injection": ["film"]}, r"injection: expected a name, or a mapping .*, got \['film'\]$"),
    "nothing": ({"injection": None}, "injection: expected a name, or a mapping with a name and settings, got None$"),
    "token before": (
        {"injection.before_block": 1},
        "injection: token with model 'tiny': before_block 1 does not exist",
    ),
    "on token": (
        {"injection": "film", "distillation.on": "token"},
        "distillation.on: injection 'film' has no metadata token .*; use on: pooled, logits or auto, or injection: token",
    ),
    "no register": (
        {**DISTILLED, "distillation.on": "token"},
        "distillation.on: model 'deit_tiny_distilled_patch16_224' has a distillation token of its own .*; use on: pooled",
    ),
    "kl of features": (
        {"distillation.loss": "kl", "distillation.on": "pooled"},
        "distillation: loss kl compares class probabilities, not on: pooled; use on: logits",
    ),
    "wider": (
        {"injection": "concat", "distillation.predictor": "none"},
        "distillation.predictor: with injection 'concat' the teacher's feature is wider.*use predictor: linear or mlp",
    ),
    "no such views": (
        {"algorithm": "supervised", "distillation.views": "strong"},
        "distillation.views: strong views are of unlabeled images, of which algorithm 'supervised' draws none; use views: l",
    ),
    "structure": (
        {"model": {"name": "small", "num_heads": 5}, "framework": "plain"},
        "model: timm cannot build name 'small', num_heads 5: .*divisible by num_heads; change these keys",
    ),
    "too small": (
        {"model": {"name": "convnext_atto", "image_size": 16}, "framework": "plain"},
        "model: images of 16 px cannot pass through name 'convnext_atto': .*; change these keys, or image_size",
    ),
    "rotation of odd heads": (
        {"model.name": "vit_small_patch16_dinov3", "model.embed_dim": 36, "model.num_heads": 6},
        "model: images of 16 px cannot pass through name 'vit_small_patch16_dinov3', patch_size 8, embed_dim 36, ",
    ),
    "no patch": (
        {"model": {"name": "swin_tiny_patch4_window7_224", "image_size": 34}, "framework": "plain"},
        "model.image_size: 34 is not a multiple of the patch size 4 of 'swin_tiny.*'; change it$",
    ),
    "batch norm of one": (
        {**RESNET, "injection": "film", "training.batch_unlabeled": 1},
        "training.batch_unlabeled: model 'test_resnet' has batch norm, .*; use 2 or more",
    ),
    "batch norm of one label": (
        {**RESNET, "framework": "plain", "algorithm": "supervised", "training.batch_labeled": 1},
        "training.batch_labeled: model 'test_resnet' has batch norm",
    ),
    "prior": (
        {"injection": "logit_prior", "distillation.on": "pooled"},
        "distillation.on: with injection 'logit_prior' the teacher's pooled feature knows nothing of place and date; use on: l",
    ),
    "token of a ResNet": (
        {**RESNET, "injection": "film", "distillation.on": "token"},
        "distillation.on: injection 'film' has no metadata token that could be matched; use on: pooled, logits or auto$",
    ),
    "ramp": ({"distillation.rampup_steps": 6}, "distillation.rampup_steps 6 must be below training.steps 6"),
}


@pytest.mark.parametrize("changes, said", REFUSED.values(), ids=REFUSED)
def test_refused_when_the_recipe_is_read(
    changes: dict[str, Any], said: str, make_recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(ConfigError, match=f"^recipe.yaml: {said}"):
        make_recipe(changes)


def test_what_a_framework_does_not_use_is_not_refused(make_recipe: Callable[..., Recipe]) -> None:
    make_recipe({"framework": "plain", **RESNET})
    make_recipe({"framework": "metadata_input", "injection": "film", "distillation.on": "token"})
    make_recipe({"injection": "film", "distillation.on": "token", "distillation.weight": 0})


@pytest.mark.parametrize(
    "changes, on",
    [
        ({}, "token"),
        ({"injection": "film"}, "pooled"),
        ({"injection": "logit_prior"}, "logits"),
        ({"distillation.loss": "kl"}, "logits"),
        ({"distillation.on": "pooled"}, "pooled"),
        (DISTILLED, "pooled"),  # the student can have no register
        ({**RESNET, "injection": "add"}, "pooled"),
    ],
)
def test_what_is_matched(changes: dict[str, Any], on: str, make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(changes)
    assert resolve_distillation(recipe.model, recipe.injection, recipe.distillation) == on
