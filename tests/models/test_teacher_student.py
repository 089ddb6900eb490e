"""The frameworks' networks, and both networks against the reference implementation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stssl.encodings.encoder import EncoderConfig
from stssl.models.backbone import ModelConfig
from stssl.models.distillation import DistillationConfig
from stssl.models.injection.token import TokenConfig
from stssl.models.teacher_student import Networks
from stssl.reference.checkpoint import our_name, our_state

MODEL = ModelConfig(name="tiny", image_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2)


def make(
    framework: Any, distilled: bool = True, model: ModelConfig = MODEL, encoding: EncoderConfig | None = None
) -> Networks:
    torch.manual_seed(0)
    distillation = DistillationConfig(weight=1.0 if distilled else 0.0)
    return Networks(framework, model, encoding or EncoderConfig(), TokenConfig(), distillation, 3, 7).eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(3, 3, 16, 16), torch.tensor([[1.0, 2], [30, 40], [-50, 60]]), torch.arange(3).double() * 100


@pytest.mark.parametrize(
    "framework, roles, deployed",
    [
        ("plain", ("student",), "student"),
        ("metadata_input", ("teacher",), "teacher"),
        ("teacher_student", ("teacher", "student"), "student"),
    ],
)
def test_roles(framework: str, roles: tuple[str, ...], deployed: str) -> None:
    networks = make(framework)
    assert networks.roles == roles and networks.deployed == deployed
    assert {name.split(".")[0] for name, _ in networks.named_parameters()} == set(roles)
    assert (networks.timm_arguments is None) == ("student" not in roles)


def test_the_student_never_sees_metadata_and_the_teacher_does() -> None:
    networks = make("teacher_student")
    images, place, time = inputs()
    for other_place, other_time in [(place + 5, time), (place, time + 90), (place * float("nan"), time * float("nan"))]:
        for before, after in zip(
            networks("student", images, place, time), networks("student", images, other_place, other_time), strict=True
        ):
            assert torch.equal(before, after)
        teacher, moved = networks("teacher", images, place, time), networks("teacher", images, other_place, other_time)
        assert not torch.allclose(teacher.logits, moved.logits, atol=1e-7)
        assert not torch.allclose(teacher.tokens, moved.tokens, atol=1e-4)


def test_the_students_features_are_its_register_token() -> None:
    networks = make("teacher_student")
    images, place, time = inputs()
    backbone = networks.student.backbone
    assert backbone.num_reg_tokens == 1
    tokens = backbone.forward_features(images)
    output = networks("student", images, place, time)
    assert torch.equal(output.tokens, tokens[:, 1]) and torch.equal(output.logits, backbone(images))


@pytest.mark.parametrize("framework, distilled", [("plain", True), ("teacher_student", False)])
def test_no_register_where_nothing_is_distilled(framework: str, distilled: bool) -> None:
    networks = make(framework, distilled)
    assert networks.student.backbone.num_reg_tokens == 0
    assert "reg_tokens" not in networks.timm_arguments
    images, place, time = inputs()
    output = networks("student", images, place, time)
    assert output.tokens is None
    assert torch.equal(output.pooled, networks.student.backbone.forward_features(images)[:, 0])


def test_teacher_and_student_start_from_the_same_distribution_but_not_the_same_weights() -> None:
    networks = make("teacher_student")
    teacher, student = (getattr(networks, role).backbone.blocks[0].attn.qkv.weight for role in networks.roles)
    assert not torch.equal(teacher, student)


# --- the reference implementation -----------------------------------------------------------------------------------


def recorded_state(recorded: dict[str, Any], kind: str) -> dict[str, Tensor]:
    """The reference's weights (kind `p`) or gradients (`g`) under its own names."""
    return {k.removeprefix(f"{kind}:"): torch.from_numpy(a) for k, a in recorded.items() if k.startswith(f"{kind}:")}


def load_reference(recorded: dict[str, Any], distilled: bool) -> Networks:
    """Our networks with the reference's weights."""
    model = ModelConfig(name="tiny", image_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3)
    networks = make(
        "teacher_student", distilled, model, EncoderConfig(time={"name": "day_of_year", "period_days": 365})
    )
    networks.load_state_dict(our_state(recorded_state(recorded, "p"), networks), strict=True)
    return networks


def reference_inputs(recorded: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Images, and the places and dates whose features were recorded."""
    metadata = torch.from_numpy(recorded["metainfo"])
    place = metadata[:, :2] * torch.tensor([90.0, 180.0])
    day = torch.atan2(metadata[:, 2], metadata[:, 3]) * 365 / (2 * torch.pi)
    return torch.from_numpy(recorded["x"]), place, (day.round() - 1).remainder(365).double()  # days of 1970


def test_token_teacher_and_register_student_are_the_reference(
    golden: Callable[[str], dict[str, Any]], assert_golden: Callable[..., None]
) -> None:
    recorded = golden("early_fusion_vit")
    networks = load_reference(recorded, distilled=True)
    images, place, time = reference_inputs(recorded)
    encoder = networks.teacher.encoder
    assert_golden(torch.cat([encoder.location(place), encoder.time(time, place[:, 0])], 1), recorded["metainfo"])
    assert_golden(encoder(place, time), recorded["teacher_metainfo_embed"])
    images.requires_grad_()
    teacher, student = (networks(role, images, place, time) for role in ("teacher", "student"))
    assert_golden(teacher.logits, recorded["teacher_joint_logits"])
    assert_golden(teacher.tokens, recorded["teacher_joint_meta_feat"])
    assert_golden(student.logits, recorded["student_metaTrue_student_logits"])
    assert_golden(student.tokens, recorded["student_metaTrue_student_meta_feat"])
    tokens = networks.student.backbone.forward_features(images)  # [class, register, patches]; theirs has it last
    assert_golden(
        torch.cat([tokens[:, :1], tokens[:, 2:], tokens[:, 1:2]], 1), recorded["student_metaTrue_student_feat"]
    )

    loss = teacher.logits.square().mean() + 0.1 * teacher.tokens.sum()
    (loss + student.logits.square().mean() + student.tokens.pow(3).mean()).backward()
    assert_golden(images.grad, recorded["grad_x"])
    gradients = {key: parameter.grad for key, parameter in networks.named_parameters()}
    place = gradients["student.backbone.pos_embed"]  # [class, register, patches]; theirs has no row for its token
    gradients["student.backbone.pos_embed"] = torch.cat([place[:, :1], place[:, 2:]], 1)
    expected = {our_name(key): value for key, value in recorded_state(recorded, "g").items()}
    assert len(expected) > 20 and expected.keys() >= {"teacher.position", "teacher.encoder.mlp.0.weight"}
    for key, value in expected.items():
        if key is not None:
            assert_golden(gradients[key], value, key)
    assert_golden(place[:, 1:2], expected["student.backbone.reg_token"])


def test_student_without_a_register_is_the_reference(
    golden: Callable[[str], dict[str, Any]], assert_golden: Callable[..., None]
) -> None:
    recorded = golden("early_fusion_vit")
    output = load_reference(recorded, distilled=False)("student", *reference_inputs(recorded))
    assert_golden(output.logits, recorded["student_metaFalse_student_logits"])
    assert_golden(output.pooled, recorded["student_metaFalse_student_global_feat"])
