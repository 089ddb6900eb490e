"""Backbones: timm networks of the known families, by name or by size, with weights of one's own."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from stssl.config import Config
from stssl.errors import CheckpointError, ConfigError, did_you_mean, is_out_of_memory
from stssl.models.families import FAMILIES, Family, family_named
from stssl.models.weights import read_weights, refuse_misfits

SIZES = {size: f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")}
STRUCTURE = ("patch_size", "embed_dim", "depth", "num_heads")


class ModelConfig(Config):
    """A timm network: a vision transformer (plain, DeiT, DINOv2, DINOv3, EVA), a ResNet, a ConvNeXt or a Swin.

    `name` is a timm model name or a size of the plain vision transformer (tiny, small, base, large). The next keys
    change a vision transformer's structure; None keeps timm's own. `pretrained` is false, true (timm's hub) or the
    path of a local weight file.
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
    def _known(cls, name: str) -> str:
        if name not in SIZES and family_named(name) is None:
            known = [*SIZES, *(n for f in FAMILIES for module in f.modules for n in timm.list_models(module=module))]
            remedy = did_you_mean(name, known).split(" known: ")[0].removeprefix("known: ")
            remedy = remedy if remedy.startswith("did") else f"sizes: {', '.join(SIZES)}"
            families = ", ".join(family.name for family in FAMILIES)
            raise ValueError(
                f"'{name}' is not a timm model of a known family ({families}); {remedy} (timm.list_models lists names)"
            )
        return name

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        given = [key for key in STRUCTURE if getattr(self, key) is not None]
        if given and not self.family.structured:
            raise ValueError(
                f"{', '.join(given)} cannot be changed for '{self.name}', only for vision transformers; "
                "remove it and choose the size by the name"
            )
        if self.patch_size and self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.embed_dim and self.num_heads and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        return self

    @property
    def family(self) -> Family:
        """The family of the network."""
        family = family_named(SIZES.get(self.name, self.name))
        assert family is not None  # `_known` saw to that
        return family

    def timm_arguments(self, channels: int, classes: int) -> dict[str, Any]:
        """Keyword arguments for `timm.create_model` (the first positional one included as `model_name`)."""
        structure = {key: getattr(self, key) for key in STRUCTURE}
        return {
            "model_name": SIZES.get(self.name, self.name),
            **({"img_size": self.image_size} if self.family.sized else {}),
            "in_chans": channels,
            "num_classes": classes,
            **{key: value for key, value in structure.items() if value is not None},
        }


def build_backbone(config: ModelConfig, channels: int, classes: int) -> Any:
    """Make a timm network, with weights if the configuration asks for them.

    Args:
        config: The model's configuration.
        channels: Number of bands; timm adapts the first layer of pretrained weights to it.
        classes: Number of classes.

    Raises:
        ConfigError: timm refuses the structure.
        CheckpointError: The weights cannot be had or do not fit.
    """
    arguments = config.timm_arguments(channels, classes)
    if isinstance(config.pretrained, str) and not Path(config.pretrained).is_file():
        raise CheckpointError(
            f"model.pretrained: {config.pretrained}: no such file; give a weight file, true (timm's hub) or false"
        )
    bare = skeleton(config) if config.pretrained else None
    try:
        source: dict[str, Any] = {"pretrained": bool(config.pretrained)}
        if isinstance(config.pretrained, str):
            state = read_weights(config.pretrained, bare)
            refuse_misfits(state, bare)
            source["pretrained_cfg_overlay"] = {"state_dict": state}
        return _create(**arguments, drop_path_rate=config.drop_path_rate, **source)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if config.pretrained:
            raise CheckpointError(
                f"model.pretrained: {config.pretrained}: cannot load weights for {arguments['model_name']}: {reason}; "
                "give the path of a weight file that fits, or false"
            ) from error
        raise ConfigError(f"model: timm cannot build {_shown(config)}: {reason}; change these keys") from error


def skeleton(config: ModelConfig) -> Any:
    """The network without memory for its weights, in a fraction of a second: what it is made of, and that it runs.

    Raises:
        ConfigError: timm refuses the structure, or images of this size cannot pass through it.
    """
    return _skeleton(config.model_copy(update={"pretrained": False, "drop_path_rate": 0.0}))


@functools.lru_cache(maxsize=64)
def _skeleton(config: ModelConfig) -> Any:
    try:
        return _try(config, "meta")
    except ConfigError as error:
        if "meta" not in str(error).lower():  # a fault of the structure, and not that something wants memory
            raise
        with torch.random.fork_rng(devices=[]):  # a look at a recipe must not change the weights of the next network
            return _try(config, "cpu")


def _try(config: ModelConfig, device: str) -> Any:
    """Build a network and send two images through it."""
    with torch.device(device):
        network = build_backbone(config, 3, 2)
        patch = network.patch_embed.patch_size[0] if config.family.sized else 1
        if config.image_size % patch:
            also = " or set model.patch_size" if config.family.structured else ""
            raise ConfigError(
                f"model.image_size: {config.image_size} is not a multiple of the patch size {patch} of "
                f"'{config.name}'; change it{also}"
            )
        try:
            with torch.no_grad():
                network(torch.zeros(2, 3, config.image_size, config.image_size))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(f"{error}".split())
            raise ConfigError(
                f"model: images of {config.image_size} px cannot pass through {_shown(config)}: {reason}; "
                "change these keys, or image_size"
            ) from error
    return network


def batch_norm(network: nn.Module) -> bool:
    """It normalises over the batch, and so cannot train on a single image."""
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def _shown(config: ModelConfig) -> str:
    """The keys that make the structure."""
    given = {key: getattr(config, key) for key in STRUCTURE if getattr(config, key) is not None}
    return ", ".join([f"name '{config.name}'", *(f"{key} {value}" for key, value in given.items())])


def _create(**arguments: Any) -> nn.Module:
    return timm.create_model(**arguments)
