"""What every injection point promises."""

import pytest
import torch
from torch import Tensor

from stssl import plugins
from stssl.encodings.encoder import EncoderConfig, MetadataEncoder
from stssl.models.backbone import ModelConfig, build_backbone
from stssl.models.injection.base import Injection

INJECTIONS = plugins.find("stssl.models.injection", Injection)
MODELS = {
    "class token": {"name": "tiny", "patch_size": 8},
    "pooled, no class token": {"name": "vit_base_patch16_siglip_gap_224", "patch_size": 8},
    "registers": {"name": "vit_little_patch16_reg4_gap_256", "patch_size": 8},
}


def make(name: str, model: str = "class token", seed: int = 0) -> Injection:
    torch.manual_seed(seed)
    config = ModelConfig(image_size=16, embed_dim=32, depth=1, num_heads=2, **MODELS[model])
    backbone = build_backbone(config, 3, 5)
    encoder = MetadataEncoder(EncoderConfig(), backbone.embed_dim)
    plugin = INJECTIONS[name]
    return plugins.build("stssl.models.injection", Injection, plugin.Config(), backbone, encoder)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    nan = float("nan")
    place = torch.tensor([[10.0, 20.0], [nan, nan], [90.0, 180.0], [nan, 5.0]])
    return images, place, torch.tensor([17_000.0, 0.0, nan, nan], dtype=torch.float64)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", INJECTIONS)
def test_shapes_and_gradients(name: str, model: str) -> None:
    network = make(name, model)
    output = network(*inputs())
    assert output.logits.shape == (4, 5) and output.features.shape == (4, 32)
    assert output.logits.isfinite().all() and output.features.isfinite().all()
    (output.logits.square().sum() + output.features.pow(3).sum()).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", INJECTIONS)
def test_state_dict_round_trip(name: str) -> None:
    first, second = make(name, seed=1).eval(), make(name, seed=2).eval()
    second.load_state_dict(first.state_dict())
    for a, b in zip(first(*inputs()), second(*inputs()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", INJECTIONS)
def test_metadata_matters_once_it_is_learned(name: str) -> None:
    network = make(name).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # an injection may start as the network without metadata
            parameter.add_(0.1 * torch.randn_like(parameter))
    images, place, time = inputs()
    before = network(images, place, time).logits
    moved = network(images, place + torch.tensor([-30.0, -60.0]), time).logits
    later = network(images, place, time + 180).logits
    assert not torch.allclose(before[0], moved[0]) and not torch.allclose(before[0], later[0])
    torch.testing.assert_close(before[[1, 3]], moved[[1, 3]])  # an unknown place cannot move
    torch.testing.assert_close(before[[2, 3]], later[[2, 3]])


@pytest.mark.parametrize("name", INJECTIONS)
def test_the_backbone_keeps_its_own_weights(name: str) -> None:
    network = make(name)
    torch.manual_seed(0)
    alone = build_backbone(
        ModelConfig(image_size=16, embed_dim=32, depth=1, num_heads=2, **MODELS["class token"]), 3, 5
    )
    inside = {
        key.removeprefix("backbone."): t for key, t in network.state_dict().items() if key.startswith("backbone.")
    }
    assert inside.keys() == alone.state_dict().keys()  # wrapped, not rebuilt: timm's weights load
    assert all(torch.equal(t, inside[key]) for key, t in alone.state_dict().items())
