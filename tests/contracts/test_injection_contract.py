"""What every injection point promises, on every family of backbones that it accepts."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from stssl import plugins
from stssl.encodings.encoder import EncoderConfig, MetadataEncoder
from stssl.models.backbone import ModelConfig, build_backbone, skeleton
from stssl.models.families import family_of
from stssl.models.injection.base import Injection
from tests.models.networks import NETWORKS, ONE_OF_EACH

INJECTIONS = plugins.find("stssl.models.injection", Injection)


SWIN = "swin_tiny_patch4_window7_224"  # 28 million weights: not for every test


def cases(models: tuple[str, ...] = ONE_OF_EACH) -> list[Any]:
    """Every injection point on every family that it accepts; on two of them also with each setting at another end."""
    found = []
    for (name, plugin), model in itertools.product(INJECTIONS.items(), models):
        backbone = skeleton(ModelConfig(name=model, **NETWORKS[model]))
        for config in variants(plugin) if model in ("vit_small_patch16_dinov3", "test_convnext") else [plugin.Config()]:
            if plugin.refusal(config, family_of(backbone), backbone) is None:
                shown = ",".join(f"{k}={v}" for k, v in config if v != getattr(plugin.Config(), k))
                found.append(pytest.param(config, model, id=f"{name}({shown})-{model}"))
    return found


def variants(plugin: Any) -> list[Any]:
    """The defaults, and for each setting the choice or bound that is furthest from its default."""
    default, configs = plugin.Config(), [plugin.Config()]
    properties = plugin.Config.model_json_schema()["properties"]
    for key, schema in properties.items():
        options = schema.get("enum", [o for part in schema.get("anyOf", []) for o in part.get("enum", [])])
        others = [value for value in options if value != getattr(default, key)]
        bounds = [schema[bound] for bound in ("minimum", "maximum") if bound in schema]
        if others:
            configs.append(plugin.Config(**{key: others[0]}))
        elif bounds and key != "before_block":  # that is bounded by the depth of the network
            configs.append(plugin.Config(**{key: max(bounds, key=lambda b: abs(b - getattr(default, key)))}))
        elif key == "before_block":
            configs.append(plugin.Config(before_block=1))
    return configs


CASES = pytest.mark.parametrize("config, model", cases())


def make(config: Any, model: str, seed: int = 0) -> Injection:
    torch.manual_seed(seed)
    backbone = build_backbone(ModelConfig(name=model, **NETWORKS[model]), 3, 5)
    encoder = MetadataEncoder(EncoderConfig(), INJECTIONS[config.name].embedding(backbone))
    network = plugins.build("stssl.models.injection", Injection, config, backbone, encoder)
    assert isinstance(network, Injection)
    return network


def learned(network: Injection, much: float = 0.2) -> Injection:
    """As if some training had been: an injection may start as the network without metadata."""
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            scale = much / 10 if key.startswith("backbone.") else much
            parameter.add_(scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(key))))
    return network


def inputs(model: str) -> tuple[Tensor, Tensor, Tensor]:
    side = NETWORKS[model]["image_size"]
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(3))
    nan = float("nan")
    place = torch.tensor([[10.0, 20.0], [nan, nan], [90.0, 180.0], [nan, 5.0]])
    return images, place, torch.tensor([17_000.0, 0.0, nan, nan], dtype=torch.float64)


def test_every_injection_accepts_some_network() -> None:
    accepted = {case.values[0].name for case in cases()}
    assert accepted == set(INJECTIONS)


@pytest.mark.parametrize("config, model", cases((*ONE_OF_EACH, SWIN)))
def test_shapes_and_gradients(config: Any, model: str) -> None:
    network = learned(make(config, model))
    output, plugin = network(*inputs(model)), INJECTIONS[config.name]
    backbone: Any = network.backbone
    assert output.logits.shape == (4, 5)
    assert output.pooled.shape == (4, backbone.head_hidden_size + plugin.beside(config))
    count = plugin.tokens(config)
    assert (output.tokens is not None) == bool(count)
    parts = [output.logits.square().mean(), output.pooled.pow(3).mean()]
    if output.tokens is not None:
        assert output.tokens.shape == (4, count * backbone.num_features)
        parts.append(output.tokens.pow(3).mean())
    loss = torch.stack(parts).sum()
    assert loss.isfinite()
    loss.backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key
        if not key.startswith("backbone."):  # nothing of ours is left out, and nothing stands still
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


@CASES
def test_metadata_matters_once_it_is_learned(config: Any, model: str) -> None:
    network = learned(make(config, model)).eval()
    images, place, time = inputs(model)
    with torch.no_grad():
        before = network(images, place, time).logits
        moved = network(images, place + torch.tensor([-30.0, -60.0]), time).logits
        later = network(images, place, time + 180).logits
    assert not torch.allclose(before[0], moved[0]) and not torch.allclose(before[0], later[0])
    torch.testing.assert_close(before[[1, 3]], moved[[1, 3]])  # an unknown place cannot move
    torch.testing.assert_close(before[[2, 3]], later[[2, 3]])


@CASES
def test_state_dict_round_trip(config: Any, model: str) -> None:
    first, second = learned(make(config, model, seed=1)).eval(), make(config, model, seed=2).eval()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for a, b in zip(first(*inputs(model)), second(*inputs(model)), strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


@CASES
def test_the_backbone_keeps_its_own_weights(config: Any, model: str) -> None:
    network = make(config, model)
    torch.manual_seed(0)
    alone = build_backbone(ModelConfig(name=model, **NETWORKS[model]), 3, 5)
    inside = {
        key.removeprefix("backbone."): t for key, t in network.state_dict().items() if key.startswith("backbone.")
    }
    assert inside.keys() == alone.state_dict().keys()  # wrapped, not rebuilt: timm's weights load
    assert all(torch.equal(t, inside[key]) for key, t in alone.state_dict().items())


@CASES
def test_half_precision(config: Any, model: str) -> None:
    network = learned(make(config, model), 0.05).eval()
    with torch.no_grad():
        whole = network(*inputs(model))
        with torch.autocast("cpu", torch.bfloat16):
            half = network(*inputs(model))
    for a, b in zip(whole, half, strict=True):
        assert (a is None and b is None) or (a - b).norm() < 0.05 * a.norm()


@pytest.mark.parametrize("model", ["vit_small_patch16_dinov3", "test_convnext"])
@pytest.mark.parametrize("name", INJECTIONS)
def test_compiles_in_one_graph(name: str, model: str) -> None:
    config = INJECTIONS[name].Config()
    backbone = skeleton(ModelConfig(name=model, **NETWORKS[model]))
    if INJECTIONS[name].refusal(config, family_of(backbone), backbone):
        pytest.skip("refused")
    network = learned(make(config, model)).eval()
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    expected, output = network(*inputs(model)), compiled(*inputs(model))
    for a, b in zip(expected, output, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    output.logits.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
