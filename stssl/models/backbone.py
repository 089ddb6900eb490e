"""Backbones: any timm VisionTransformer, by name or by size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
import torch
from pydantic import Field, field_validator, model_validator
from timm.models import is_model_in_modules, load_state_dict
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from stssl.config import Config
from stssl.errors import CheckpointError, ConfigError, did_you_mean

SIZES = {size: f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")}


class ModelConfig(Config):
    """A timm VisionTransformer.

    `name` is a timm model name or a size (tiny, small, base, large). The other keys change its structure; None keeps
    timm's own. `pretrained` is false, true (timm's hub) or the path of a local weight file.
    """

    name: str = "small"
    image_size: int = Field(128, ge=8, le=1024)
    patch_size: int | None = Field(None, ge=1, le=64)
    embed_dim: int | None = Field(None, ge=8, le=4096)
    depth: int | None = Field(None, ge=1, le=64)
    num_heads: int | None = Field(None, ge=1, le=64)
    drop_path_rate: float = Field(0.0, ge=0, lt=1)
    pretrained: bool | str = False

    @field_validator("name")
    @classmethod
    def _a_vit(cls, name: str) -> str:
        if name not in SIZES and not is_model_in_modules(name, ["vision_transformer"]):
            known = [*SIZES, *timm.list_models(module="vision_transformer")]
            remedy = did_you_mean(name, known).split(" known: ")[0].removeprefix("known: ")
            remedy = remedy if remedy.startswith("did") else f"sizes: {', '.join(SIZES)}"
            raise ValueError(
                f"'{name}' is not a timm VisionTransformer; {remedy} (timm.list_models('vit_*') lists all)"
            )
        return name

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.patch_size and self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.embed_dim and self.num_heads and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        return self

    def timm_arguments(self, channels: int, classes: int) -> dict[str, Any]:
        """Keyword arguments for `timm.create_model` (the first positional one included as `model_name`)."""
        structure = {key: getattr(self, key) for key in ("patch_size", "embed_dim", "depth", "num_heads")}
        return {
            "model_name": SIZES.get(self.name, self.name),
            "img_size": self.image_size,
            "in_chans": channels,
            "num_classes": classes,
            **{key: value for key, value in structure.items() if value is not None},
        }


def build_backbone(config: ModelConfig, channels: int, classes: int) -> VisionTransformer:
    """Make a timm VisionTransformer, with weights if the configuration asks for them.

    Args:
        config: The model's configuration.
        channels: Number of bands; timm adapts the first layer of pretrained weights to it.
        classes: Number of classes.

    Raises:
        ConfigError: timm refuses the structure.
        CheckpointError: The weights cannot be had or do not fit.
    """
    arguments = config.timm_arguments(channels, classes)
    source: dict[str, Any] = {"pretrained": bool(config.pretrained)}
    if isinstance(config.pretrained, str):
        if not Path(config.pretrained).is_file():
            raise CheckpointError(
                f"model.pretrained: {config.pretrained}: no such file; give a weight file, true (timm's hub) or false"
            )
        source["pretrained_cfg_overlay"] = {"file": config.pretrained}
    try:
        network = _create(**arguments, drop_path_rate=config.drop_path_rate, **source)
        if isinstance(config.pretrained, str):
            _refuse_missing(config.pretrained, network)
    except Exception as error:
        if config.pretrained:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CheckpointError(
                f"model.pretrained: {config.pretrained}: cannot load weights for {arguments['model_name']}: {reason}; "
                "give the path of a weight file that fits, or false"
            ) from error
        raise ConfigError(f"model: timm cannot build {arguments}: {error}") from error
    patch = network.patch_embed.patch_size[0]
    if config.image_size % patch:
        raise ConfigError(
            f"model.image_size: {config.image_size} is not a multiple of the patch size {patch} of "
            f"{arguments['model_name']}; change it or set model.patch_size"
        )
    return network


def _refuse_missing(path: str, network: VisionTransformer) -> None:
    """Refuse a weight file that lacks a layer: timm would leave that layer random and go on, but for the head."""
    given = checkpoint_filter_fn(load_state_dict(path), network)
    missing = [key for key in network.state_dict() if key not in given and not key.startswith("head.")]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"the file has no {', '.join(missing[:3])}{more}")


def _create(**arguments: Any) -> VisionTransformer:
    return cast(VisionTransformer, timm.create_model(**arguments))


def with_register(
    backbone: VisionTransformer, arguments: dict[str, Any], drop_path_rate: float
) -> tuple[VisionTransformer, dict[str, Any]]:
    """The same network with one more register token, which distillation aligns with the teacher's metadata token.

    timm cannot add a register to pretrained weights (their position embedding has no row for it), so the
    weights are moved here; the new token and its position start from timm's initialisation.

    Args:
        backbone: A network without the token; its weights are kept.
        arguments: The `timm.create_model` arguments it was made with.
        drop_path_rate: Stochastic depth, which is no part of the arguments because only training uses it.

    Returns:
        The network whose last prefix token is new, and its `timm.create_model` arguments.
    """
    arguments = {**arguments, "reg_tokens": backbone.num_reg_tokens + 1}
    wider = _create(**arguments, drop_path_rate=drop_path_rate)
    state, fresh = backbone.state_dict(), wider.state_dict()
    last = wider.num_prefix_tokens - 1
    state["reg_token"] = _insert(state.get("reg_token"), fresh["reg_token"], backbone.num_reg_tokens)
    if not wider.no_embed_class and "pos_embed" in state:
        row = fresh["pos_embed"][:, last : last + 1]
        state["pos_embed"] = torch.cat([state["pos_embed"][:, :last], row, state["pos_embed"][:, last:]], dim=1)
    wider.load_state_dict(state)
    return wider, arguments


def _insert(old: Tensor | None, fresh: Tensor, position: int) -> Tensor:
    """Old tokens [1, n, D] followed by the fresh one at `position`."""
    return fresh if old is None else torch.cat([old, fresh[:, position:]], dim=1)


def token_of(network: nn.Module) -> int:
    """Index of the last prefix token: the register token of a student that has one."""
    return int(network.num_prefix_tokens) - 1  # type: ignore[arg-type]
