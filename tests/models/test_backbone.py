"""timm backbones: structure, weights of one's own, and the register token."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from stssl.config import validate
from stssl.errors import CheckpointError, ConfigError
from stssl.models.backbone import SIZES, ModelConfig, build_backbone, skeleton
from stssl.models.register import with_registers

TINY: dict[str, Any] = {"name": "tiny", "image_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
# name -> number of prefix tokens, whether they have positions: class token, registers, both, neither
WITH_PREFIX = {
    "vit_tiny_patch16_224": (1, True),
    "vit_little_patch16_reg4_gap_256": (4, False),
    "vit_base_patch16_siglip_gap_224": (0, True),
    "vit_small_patch14_reg4_dinov2": (5, False),
}


def build(channels: int = 3, classes: int = 5, seed: int = 0, **changes: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    return build_backbone(ModelConfig(**{**TINY, **changes}), channels, classes).eval()


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_timm_names(size: str) -> None:
    arguments = ModelConfig(name=size).timm_arguments(4, 7)
    assert arguments == {"model_name": SIZES[size], "img_size": 128, "in_chans": 4, "num_classes": 7}
    assert timm.is_model(SIZES[size])


def test_timm_arguments_rebuild_the_same_network() -> None:
    network = build(4, 7, drop_path_rate=0.5)
    again = timm.create_model(**ModelConfig(**TINY).timm_arguments(4, 7)).eval()
    again.load_state_dict(network.state_dict(), strict=True)
    x = torch.randn(2, 4, 16, 16)
    assert torch.equal(network(x), again(x))
    assert network(x).shape == (2, 7) and len(network.blocks) == 2 and network.embed_dim == 32


def test_drop_path_rises_to_its_rate() -> None:
    network = build(drop_path_rate=0.4, depth=3)
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.blocks] == pytest.approx([0, 0.2, 0.4])


# --- the register token ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_PREFIX)
def test_register_is_the_last_prefix_token_and_all_else_stays(name: str) -> None:
    prefix, positions = WITH_PREFIX[name]
    config = ModelConfig(**{**TINY, "name": name, "depth": 1})
    torch.manual_seed(0)
    network = build_backbone(config, 3, 5).eval()
    wider, arguments = with_registers(network, config.timm_arguments(3, 5), 0.0)
    wider.eval()
    assert network.num_prefix_tokens == prefix and wider.num_prefix_tokens == prefix + 1
    assert arguments["reg_tokens"] == network.num_reg_tokens + 1
    old, new = network.state_dict(), wider.state_dict()
    for key in old.keys() - {"pos_embed", "reg_token"}:
        assert torch.equal(old[key], new[key]), key
    assert new.keys() - old.keys() <= {"reg_token"}
    if network.num_reg_tokens:
        assert torch.equal(new["reg_token"][:, :-1], old["reg_token"])
    assert new["reg_token"].abs().sum() > 0 or new["pos_embed"][:, prefix].abs().sum() > 0  # tokens must not be alike
    if positions:  # [prefix tokens, the new one, patches]
        kept = [row for row in range(new["pos_embed"].shape[1]) if row != prefix]
        assert torch.equal(new["pos_embed"][:, kept], old["pos_embed"])
    else:
        assert torch.equal(new["pos_embed"], old["pos_embed"])
    again = timm.create_model(**arguments).eval()
    again.load_state_dict(new, strict=True)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(x), wider(x)) and wider(x).shape == (2, 5)
    assert wider.forward_features(x).shape == (2, prefix + 1 + 4, 32)


@pytest.mark.parametrize("name", WITH_PREFIX)
def test_the_other_tokens_are_the_ones_they_were(name: str) -> None:
    """What enters the blocks is what entered before, and the register at its own index."""
    prefix, _ = WITH_PREFIX[name]
    config = ModelConfig(**{**TINY, "name": name, "depth": 1})
    network = build_backbone(config, 3, 5).eval()
    wider, _ = with_registers(network, config.timm_arguments(3, 5), 0.0)
    x = torch.randn(2, 3, 16, 16)
    before, after = (n._pos_embed(n.patch_embed(x)) for n in (network, wider))
    others = [token for token in range(after.shape[1]) if token != prefix]
    assert torch.equal(after[:, others], before)
    assert torch.equal(after[0, prefix], after[1, prefix])  # the register is the same for every image


def test_register_keeps_drop_path() -> None:
    network = build(drop_path_rate=0.4)
    wider, _ = with_registers(network, ModelConfig(**TINY).timm_arguments(3, 5), 0.4)
    assert wider.blocks[-1].drop_path1.drop_prob == pytest.approx(0.4)


# --- weights from a file --------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    """Writes the state of a tiny network: `weights("w.pth", classes=9)`."""

    def write(name: str, **options: Any) -> Path:
        path, state = tmp_path / name, build(seed=9, **options).state_dict()
        if name.endswith(".safetensors"):
            save_file(state, path)
        else:
            torch.save(state, path)
        return path

    return write


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_from_a_file(name: str, weights: Callable[..., Path]) -> None:
    network = build(pretrained=str(weights(name, classes=9)))
    expected = build(seed=9, classes=9).state_dict()
    state = network.state_dict()
    for key in expected.keys() - {"head.weight", "head.bias"}:
        assert torch.equal(state[key], expected[key]), key
    assert state["head.weight"].shape == (5, 32)
    assert torch.equal(network.head.weight, build(pretrained=str(weights(name))).head.weight)  # seeded, not loaded


def test_weights_for_other_bands(weights: Callable[..., Path]) -> None:
    path = str(weights("rgb.pth"))
    kernel = build(seed=9).patch_embed.proj.weight
    wide = build(channels=6, pretrained=path).patch_embed.proj.weight
    torch.testing.assert_close(wide, kernel.repeat(1, 2, 1, 1) / 2)  # timm repeats red, green, blue
    own = build(channels=4, pretrained=str(weights("four.pth", channels=4))).patch_embed.proj.weight
    assert torch.equal(own, build(channels=4, seed=9).patch_embed.proj.weight)


def test_weights_for_another_image_size(weights: Callable[..., Path]) -> None:
    network = build(pretrained=str(weights("w.pth")), image_size=32)
    assert network.pos_embed.shape == (1, 17, 32)
    assert torch.equal(network.blocks[0].attn.qkv.weight, build(seed=9).blocks[0].attn.qkv.weight)


def test_no_such_file(tmp_path: Path) -> None:
    path = str(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=rf"model.pretrained: {re.escape(path)}: no such file; give"):
        build(pretrained=path)


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**arguments: Any) -> None:
        assert arguments["pretrained"] is True
        raise OSError("no route to host")

    monkeypatch.setattr("stssl.models.backbone._create", offline)
    with pytest.raises(CheckpointError, match=r"model.pretrained: True: cannot load .*no route to host; give the path"):
        build(pretrained=True)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


FOREIGN = (
    "other keys",
    "empty",
    "list",
    "a layer less",
    "without its norm",
    "wider",
    "bomb",
    "text",
    "text as safetensors",
    "plain pickle",
)


def foreign_files(folder: Path) -> dict[str, Path]:
    whole = build(seed=9).state_dict()
    contents = {
        "other keys": {"weight": torch.zeros(3)},
        "empty": {},
        "list": [1, 2, 3],
        "a layer less": {key: tensor for key, tensor in whole.items() if not key.startswith("blocks.1")},
        "without its norm": {key: tensor for key, tensor in whole.items() if key != "norm.weight"},
        "wider": build(seed=9, embed_dim=64).state_dict(),
        "bomb": {"pos_embed": Bomb(folder / "executed")},
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / f"{name.replace(' ', '_')}.pth"
        torch.save(content, paths[name])
    paths["text"] = folder / "text.pth"
    paths["text"].write_text("hello world")
    paths["text as safetensors"] = folder / "text.safetensors"
    paths["text as safetensors"].write_text("hello world")
    paths["plain pickle"] = folder / "pickle.pth"
    paths["plain pickle"].write_bytes(pickle.dumps({"pos_embed": Bomb(folder / "executed")}, protocol=2))
    return paths


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_does_not_fit_is_refused(kind: str, tmp_path: Path) -> None:
    path = foreign_files(tmp_path)[kind]
    with pytest.raises(
        CheckpointError, match=rf"model.pretrained: {re.escape(str(path))}: cannot load weights"
    ) as error:
        build(pretrained=str(path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_the_missing_layers_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the file has no blocks.1.norm1.weight, .* and \d+ more; give the path"):
        build(pretrained=str(foreign_files(tmp_path)["a layer less"]))


@pytest.mark.parametrize("name", ["tiny", "vit_little_patch16_reg4_gap_256", "vit_small_patch16_dinov3"])
def test_a_distilled_student_is_a_start_for_others(name: str, tmp_path: Path) -> None:
    """Its register was for distillation: a network without one, or with one of its own, takes all the rest."""
    network = build(name=name, seed=9)
    wider, _ = with_registers(network, ModelConfig(**{**TINY, "name": name}).timm_arguments(3, 5), 0.0, 2)
    save_file(wider.state_dict(), tmp_path / "student.safetensors")
    again = build(name=name, pretrained=str(tmp_path / "student.safetensors"))
    for key, tensor in network.state_dict().items():
        assert key.startswith("head.") or torch.equal(again.state_dict()[key], tensor), key


def test_old_files_of_a_resnet_and_files_with_more_layers(tmp_path: Path) -> None:
    torch.manual_seed(9)
    network = build_backbone(ModelConfig(name="test_resnet", image_size=32), 3, 5)
    state = {key: t for key, t in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    again = build_backbone(ModelConfig(name="test_resnet", image_size=32, pretrained=str(tmp_path / "old.pth")), 3, 5)
    for key, tensor in state.items():
        assert key.startswith("fc.") or torch.equal(again.state_dict()[key], tensor), key
    save_file(build(depth=3).state_dict(), tmp_path / "deep.safetensors")
    with pytest.raises(
        CheckpointError, match=r"more layers than the network: blocks.2.attn.* and .* more; give the path"
    ):
        build(pretrained=str(tmp_path / "deep.safetensors"))


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"name": "vit_smal_patch16_224"},
            r"name: .*not a timm model of a known family \(.*\); did you mean 'vit_small_patch16_224'",
        ),
        ({"name": "smalll"}, r"did you mean 'small'\?"),
        (
            {"name": "vgg16"},
            "'vgg16' is not .* ResNets, ConvNeXts, Swin transformers\\); sizes: tiny, small, base, large",
        ),
        (
            {"name": "resnet50", "depth": 3},
            "depth cannot be changed for 'resnet50', only for vision transformers; remove",
        ),
        ({"image_size": 20, "patch_size": 8}, "image_size 20 is not a multiple of patch_size 8"),
        ({"embed_dim": 32, "num_heads": 3}, "embed_dim 32 is not a multiple of num_heads 3"),
        ({"drop_path_rate": 1}, "drop_path_rate: .*less than 1"),
        ({"patchsize": 8}, "unknown key 'patchsize'; did you mean 'patch_size'"),
    ],
)
def test_settings_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(ModelConfig, settings, "r.yaml")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_heads": 5}, "model: timm cannot build .*divisible by num_heads"),
        ({"image_size": 8}, "model.image_size: 8 is not a multiple of the patch size 16"),
        ({"image_size": 40}, "model.image_size: 40 is not a multiple .* set model.patch_size"),
    ],
)
def test_a_structure_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        skeleton(ModelConfig(**{"name": "tiny", "image_size": 16, "depth": 1, **settings}))


def test_a_look_at_a_recipe_changes_no_weights() -> None:
    """Also where it must try the real thing, because it failed without memory."""
    before = torch.get_rng_state()
    for _ in range(2):
        skeleton(ModelConfig(name="tiny", image_size=16, depth=1))
        with pytest.raises(ConfigError):
            skeleton(ModelConfig(name="convnext_atto", image_size=16))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tagged_timm_name() -> None:
    assert ModelConfig(name="vit_tiny_patch16_224.augreg_in21k").timm_arguments(3, 5)["model_name"].endswith("in21k")
