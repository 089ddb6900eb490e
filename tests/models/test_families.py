"""Every family of backbones, by at least one timm name: the walk is timm's forward, and every injection starts from it."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from stssl import plugins
from stssl.encodings.encoder import EncoderConfig, MetadataEncoder
from stssl.models.backbone import ModelConfig, build_backbone, skeleton
from stssl.models.families import FAMILIES, family_of
from stssl.models.injection.base import Injection
from stssl.models.register import with_registers
from tests.models.networks import NETWORKS

INJECTIONS = plugins.find("stssl.models.injection", Injection)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Any:
    """A network whose vectors are random too: layer scales, norms and biases would hide a wrong order."""
    torch.manual_seed(0)
    net = build_backbone(ModelConfig(name=request.param, **NETWORKS[request.param]), 3, 5)
    for parameter in net.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    net.name_in_timm = request.param
    return net.eval().requires_grad_(False)


def images_for(net: Any) -> Tensor:
    side = net.patch_embed.img_size[0] if hasattr(net, "patch_embed") else 32
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_every_family_is_tried() -> None:
    tried = {family_of(skeleton(ModelConfig(name=name, **structure))).name for name, structure in NETWORKS.items()}
    assert tried == {family.name for family in FAMILIES} and len(NETWORKS) >= 12
    assert all(timm.is_model(name) for name in NETWORKS)


def test_the_walk_is_timms_forward(network: Any) -> None:
    family, images = family_of(network), images_for(network)
    x, rope = family.stem(network, images)
    for number in range(len(family.blocks(network))):
        assert torch.equal(family.back(family.positions(x), x), x)
        x = family.block(network, number, x, rope)
        assert family.positions(x).shape[2] == family.width(network, number)
    features = family.end(network, x)
    assert torch.equal(features, network.forward_features(images))


def test_a_film_of_zeros_is_timms_block_and_another_is_not(network: Any) -> None:
    family, images = family_of(network), images_for(network)
    x, rope = family.stem(network, images)
    for number in range(len(family.blocks(network))):
        plain, shape = family.block(network, number, x, rope), family.film(network, number)
        assert shape is not None and shape.channels == family.width(network, number)
        film = torch.zeros(len(x), *shape)
        assert torch.equal(family.block(network, number, x, rope, film), plain)
        for branch in range(shape.branches):
            for part in range(shape.parts):
                moved = film.clone()
                moved[:, branch, part] = 0.5
                assert not torch.allclose(family.block(network, number, x, rope, moved), plain, atol=1e-4)
        x = plain


@pytest.mark.parametrize("name", INJECTIONS)
def test_starts_as_the_image_only_network_where_it_can(name: str, network: Any) -> None:
    plugin, config = INJECTIONS[name], INJECTIONS[name].Config()
    if plugin.refusal(config, family_of(network), network):
        assert not family_of(network).tokens and name == "token"
        return
    injection = plugin(config, network, MetadataEncoder(EncoderConfig(), plugin.embedding(network))).eval()
    images, place = images_for(network), torch.tensor([[1.0, 2.0], [-80.0, 170.0], [float("nan")] * 2])
    output = injection(images, place, torch.tensor([0.0, 17_000.5, float("nan")], dtype=torch.float64))
    assert torch.equal(output.logits, network(images)) == plugin.starts_blind
    assert output.pooled.shape == (3, network.head_hidden_size + plugin.beside(config))
    assert output.logits.shape == (3, 5) and output.logits.isfinite().all()


def test_appended_tokens_have_no_place_in_the_image(network: Any) -> None:
    """A rotation by the angle 0 leaves them as they are."""
    family: Any = family_of(network)
    if not family.tokens:
        pytest.skip("no tokens")
    x, rope = family.stem(network, images_for(network))
    longer, longer_rope = family.append(x, rope, torch.zeros(3, 2, 32))
    assert longer.shape[1] == x.shape[1] + 2 and torch.equal(longer[:, :-2], x)
    if rope is not None:
        sin, cos = longer_rope[..., -2:, :].chunk(2, dim=-1)
        assert (sin == 0).all() and (cos == 1).all()
        assert torch.equal(longer_rope[..., :-2, :], rope)
    # two new tokens that change places: the image's tokens see no difference
    one, two = torch.eye(2, 32).expand(3, 2, 32), torch.eye(2, 32).flip(0).expand(3, 2, 32)
    longer, swapped = family.append(x, rope, one)[0], family.append(x, rope, two)[0]
    for number in range(len(network.blocks)):
        longer, swapped = (family.block(network, number, tokens, longer_rope) for tokens in (longer, swapped))
    torch.testing.assert_close(longer[:, :-2], swapped[:, :-2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(longer[:, -2:], swapped[:, -2:].flip(1), rtol=1e-4, atol=1e-5)


def test_tokens_are_matched_after_the_last_norm(network: Any) -> None:
    """Also where timm norms after pooling: else the weight of distillation would mean another thing for each network."""
    family: Any = family_of(network)
    if not family.tokens:
        pytest.skip("no tokens")
    late = isinstance(network.norm, torch.nn.Identity)
    norm = network.fc_norm if late else network.norm
    tokens = 100 * torch.randn(3, 2, 32)
    torch.testing.assert_close(family.normed_tokens(network, tokens if late else norm(tokens)), norm(tokens))
    assert not isinstance(norm, torch.nn.Identity)


def test_registers_for_the_student(network: Any) -> None:
    family = family_of(network)
    if not family.tokens or family.register(network) is None:
        pytest.skip("no registers")
    name = network.name_in_timm
    arguments = ModelConfig(name=name, **NETWORKS[name]).timm_arguments(3, 5)
    wider, arguments = with_registers(network, arguments, 0.0, 3)
    again = timm.create_model(**arguments).eval()
    again.load_state_dict(wider.state_dict(), strict=True)
    images = images_for(network)
    assert again.num_prefix_tokens == network.num_prefix_tokens + 3
    assert torch.equal(again(images), wider.eval()(images))
    before, after = (family.stem(net, images)[0] for net in (network, wider))
    first, last = network.num_prefix_tokens, wider.num_prefix_tokens
    assert torch.equal(torch.cat([after[:, :first], after[:, last:]], 1), before)
