"""What decays, and how the learning rate goes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from stssl.training.optim import OptimizerConfig, lr_factor, make_optimizer
from stssl.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]
Golden = Callable[[str], dict[str, Any]]
NEVER = ("bias", "pos_embed", "cls_token", "reg_token", "position", "unknown_location", "unknown_time")


@pytest.mark.parametrize("framework", ["plain", "metadata_input", "teacher_student"])
@pytest.mark.parametrize("name", ["tiny", "vit_little_patch16_reg4_gap_256"])
def test_only_matrices_and_kernels_decay(framework: str, name: str, make_trainer: MakeTrainer) -> None:
    model = {"name": name, "image_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    trainer = make_trainer("single", {"framework": framework, "model": model})
    names = {id(parameter): key for key, parameter in trainer.networks.named_parameters()}
    groups = trainer.optimizer.param_groups
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(names)  # every one, once
    decay, rest = ([names[id(p)] for p in group["params"]] for group in groups)
    assert groups[0]["weight_decay"] == 0.01 and groups[1]["weight_decay"] == 0
    assert not [key for key in decay if key.endswith(NEVER) or ".norm" in key]
    assert {key.rsplit(".", 1)[-1] for key in decay} == {"weight"}
    left = {
        key for key in rest if not (key.endswith(NEVER) or ".norm" in key or key.endswith(("gamma", "norm.weight")))
    }
    assert not left
    for key in ("patch_embed.proj.weight", "attn.qkv.weight", "mlp.fc1.weight", "head.weight"):
        assert any(name.endswith(key) for name in decay), key
    if framework != "plain":
        assert "teacher.encoder.mlp.0.weight" in decay
        assert {"teacher.position", "teacher.encoder.unknown_location", "teacher.encoder.unknown_time"} <= set(rest)


def test_decay_pulls_weights_and_leaves_the_rest() -> None:
    layer = nn.Linear(3, 3)
    before = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    optimizer = make_optimizer(layer, OptimizerConfig(lr=0.1, weight_decay=0.5))
    (0 * sum(p.sum() for p in layer.parameters())).backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before["weight"] * 0.95)
    assert torch.equal(layer.bias.detach(), before["bias"])


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(3, 3)
    layer.bias.requires_grad_(False)
    optimizer = make_optimizer(layer, OptimizerConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1


@pytest.mark.parametrize("total, warmup", [(100, 0), (100, 10), (64_000, 0), (204_800, 5_120)])
def test_schedule(total: int, warmup: int, golden: Golden) -> None:
    recorded = golden("lr_schedule")
    steps, factors = (recorded[f"{key}_total{total}_warmup{warmup}"] for key in ("step", "factor"))
    np.testing.assert_allclose([lr_factor(int(step), total, warmup) for step in steps], factors, rtol=1e-12, atol=1e-12)


def test_schedule_never_goes_below_zero() -> None:
    assert min(lr_factor(step, 100, 0) for step in range(300)) == 0
    assert lr_factor(0, 1, 0) == 1


def rates(trainer: Trainer, *stops: int) -> list[float]:
    seen: list[float] = []
    for stop in stops:
        trainer.train(stop, lambda step: seen.append(trainer.optimizer.param_groups[0]["lr"]))
    return seen


def test_the_horizon_is_the_recipes_wherever_a_run_is_cut(make_trainer: MakeTrainer) -> None:
    overrides = {"training.steps": 8, "optimizer.warmup_steps": 2}
    expected = [0.003 * step / 2 for step in range(2)]
    expected += [0.003 * math.cos(7 * math.pi / 16 * (step - 2) / 6) for step in range(2, 8)]
    assert rates(make_trainer("single", overrides), 8) == pytest.approx(expected)
    assert rates(make_trainer("single", overrides), 1, 3, 4) == pytest.approx(expected[:4])


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_moving_average(
    decay: float, golden: Golden, assert_golden: Callable[..., None], make_trainer: MakeTrainer
) -> None:
    """timm's average, configured as the trainer configures it, does what was recorded."""
    recorded = golden("ema")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.from_numpy(recorded[f"param_decay{decay}"][0].copy()))
            self.register_buffer("mean", torch.from_numpy(recorded[f"buffer_decay{decay}"][0].copy()))

    ours = make_trainer("single", {"training.ema_decay": decay}).ema
    assert type(ours) is ModelEmaV3
    settings = {key: getattr(ours, key) for key in ("decay", "use_warmup", "update_after_step", "exclude_buffers")}
    assert settings["decay"] == decay
    net = Net()
    ema = ModelEmaV3(net, **settings)
    assert_golden(ema.module.weight, recorded[f"shadow_decay{decay}"][0])
    for step in range(1, 6):
        net.weight.data = torch.from_numpy(recorded[f"param_decay{decay}"][step].copy())
        net.mean.copy_(torch.from_numpy(recorded[f"buffer_decay{decay}"][step]))
        ema.update(net)
        assert_golden(ema.module.weight, recorded[f"shadow_decay{decay}"][step])
        assert_golden(ema.module.mean, recorded[f"ema_model_buffer_decay{decay}"][step - 1])


def test_the_trainer_updates_its_average_once_a_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("single", {"training.ema_decay": 0.75})
    key = "student.backbone.head.weight"
    average = trainer.networks.state_dict()[key].clone()
    for step in range(1, 4):
        trainer.train(step)
        average = 0.75 * average + 0.25 * trainer.networks.state_dict()[key]
        torch.testing.assert_close(trainer.ema.module.state_dict()[key], average)
