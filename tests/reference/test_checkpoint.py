"""The reference project's checkpoints give its own logits; anything else is refused with a reason."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from stssl.errors import CheckpointError
from stssl.reference.checkpoint import load, read
from stssl.training.recipe import Recipe

SHAPE = {"image_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
DAYS = {"name": "day_of_year", "period_days": 365.0}


@pytest.fixture(scope="module")
def recipe(make_recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """A recipe for the recorded networks."""

    def make(framework: str = "teacher_student", **changes: Any) -> Recipe:
        model = {f"model.{key}": value for key, value in SHAPE.items()}
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        return make_recipe({**model, "framework": framework, "encoding.time": DAYS, **changes})

    return make


def inputs(recorded: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    metadata = torch.from_numpy(recorded["metainfo"])
    place = metadata[:, :2] * torch.tensor([90.0, 180.0])
    day = torch.atan2(metadata[:, 2], metadata[:, 3]) * 365 / (2 * torch.pi)
    return torch.from_numpy(recorded["x"]), place, (day.round() - 1).remainder(365).double()


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("weight, name", [(1.0, "metaTrue"), (0.0, "metaFalse")])
def test_teacher_and_student(states, save, recipe, golden, assert_golden, weight, name, parallel) -> None:
    recorded = golden("early_fusion_vit")
    path = save(states["fused"], parallel=parallel)
    networks, step, blank = load(path, recipe(distillation__weight=weight), 3, 7)
    assert step == 2001 and blank is None and not networks.training
    with torch.no_grad():
        teacher, student = (networks(role, *inputs(recorded)) for role in ("teacher", "student"))
    assert_golden(teacher.logits, recorded["teacher_joint_logits"])
    assert_golden(teacher.tokens, recorded["teacher_joint_meta_feat"])
    assert_golden(student.logits, recorded[f"student_{name}_student_logits"])
    assert_golden(student.pooled, recorded[f"student_{name}_student_global_feat"])


def test_the_student_is_timms(states, save, recipe, golden, assert_golden) -> None:
    recorded = golden("early_fusion_vit")
    networks = load(save(states["fused"]), recipe(), 3, 7).networks
    plain = timm.create_model(**networks.timm_arguments).eval()
    plain.load_state_dict(networks.student.backbone.state_dict(), strict=True)
    with torch.no_grad():
        assert_golden(plain(torch.from_numpy(recorded["x"])), recorded["student_metaTrue_student_logits"])


def test_plain_network_and_metadata_baseline(states, save, recipe, golden, assert_golden) -> None:
    recorded = golden("early_fusion_vit")
    with torch.no_grad():
        networks = load(save(states["plain"], parallel=True), recipe("plain"), 3, 7).networks
        output = networks("student", *inputs(recorded))
        assert_golden(output.logits, recorded["student_metaFalse_student_logits"])
        networks = load(save(states["fused"]), recipe("metadata_input"), 3, 7).networks
        assert networks.roles == ("teacher",)
        assert_golden(networks("teacher", *inputs(recorded)).logits, recorded["teacher_joint_logits"])


def test_a_place_or_date_that_is_the_same_for_all_becomes_a_bias(states, save, recipe) -> None:
    """As for EuroSAT, where the reference puts the first of January for every image, and with no_loc and no_time."""
    path, images = save(states["fused"]), torch.randn(4, 3, 32, 32)
    place, new_year = torch.tensor([[50.0, 10], [40, -3], [60, 25], [-5, 100]]), torch.full((4,), 365.0).double()
    with torch.no_grad():
        all_of_it = load(path, recipe(), 3, 7).networks
        no_time = load(path, recipe(encoding__time="none"), 3, 7).networks
        unknown = torch.full((4,), torch.nan).double()
        expected = all_of_it("teacher", images, place, new_year).logits
        assert torch.allclose(no_time("teacher", images, place, unknown).logits, expected, atol=1e-5)
        days = torch.tensor([1.0, 100, 200, 300]).double()
        no_loc = load(path, recipe(encoding__location="none"), 3, 7).networks
        expected = all_of_it("teacher", images, torch.zeros(4, 2), days).logits
        assert torch.allclose(no_loc("teacher", images, place, days).logits, expected, atol=1e-5)


def test_what_cdmad_takes_off(states, save, recipe) -> None:
    """On an image of ones: of the plain network itself, of the teacher's backbone through its own untrained head."""
    white = torch.ones(1, 3, 32, 32)
    cdmad = {"algorithm": {"name": "cdmad", "debias_start": 2000}, "training__steps": 4000}
    for kind, framework in (("plain", "plain"), ("fused", "teacher_student")):
        state = states[kind]
        if kind == "fused":
            state = {k.removeprefix("joint_backbone."): v for k, v in state.items() if k.startswith("joint_backbone.")}
            state.pop("metainfo_pos_embed")
        shape = {key: value for key, value in SHAPE.items() if key != "image_size"}
        network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=7, **shape).eval()
        network.load_state_dict(state)
        with torch.no_grad():
            loaded = load(save(states[kind]), recipe(framework, **cdmad), 3, 7)
            assert torch.allclose(loaded.blank, network(white), atol=1e-6)
        assert load(save(states[kind], it=1999), recipe(framework, **cdmad), 3, 7).blank is None


def test_loading_leaves_the_random_numbers_alone(states, save, recipe) -> None:
    path = save(states["fused"])
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load(path, recipe(algorithm={"name": "cdmad"}), 3, 7)
    assert torch.equal(torch.rand(1), expected)


def test_files_that_are_something_else(states, save, tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            read(path)
        return str(caught.value)

    assert said(tmp_path / "none.pth") == f"{tmp_path / 'none.pth'}: no such file"
    whole = save(states["plain"])
    damaged = bytearray(whole.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    whole.write_bytes(damaged)
    assert "fails its check sum" in said(whole) or "damaged" in said(whole)
    whole.write_bytes(damaged[:1000])
    assert "damaged, or no checkpoint of the reference project" in said(whole)
    torch.save(Path("code"), tmp_path / "code.pth")  # a class of someone's
    assert "damaged, or no checkpoint of the reference project" in said(tmp_path / "code.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"ema_model": 1}))
    assert "give its model_best.pth" in said(tmp_path / "pickle.pth")
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "other.pth")
    assert "holds no weights under ema_model" in said(tmp_path / "other.pth")
    assert "its keys are state_dict, epoch" in said(tmp_path / "other.pth")
    torch.save({"ema_model": {1: torch.ones(1)}}, tmp_path / "numbers.pth")
    assert "holds no weights under ema_model" in said(tmp_path / "numbers.pth")
    for step in ("many", torch.ones(2), -1, True, 1.5):
        assert "it: expected the number of steps" in said(save(states["plain"], it=step))
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    assert "(Tensor)" in said(tmp_path / "tensor.pth")


@pytest.mark.parametrize(
    "kind, framework, classes, change, words",
    [
        ("fused", "plain", 7, {}, ("holds a teacher and a student, but the reference config makes one",)),
        (
            "plain",
            "teacher_student",
            7,
            {},
            ("holds one network, but the reference config makes a teacher and a student",),
        ),
        ("fused", "teacher_student", 9, {}, ("teacher.backbone.head.weight [7, 48] instead of [9, 48]",)),
        (
            "fused",
            "teacher_student",
            7,
            {"joint_backbone.blocks.1.norm1.weight": None},
            ("it lacks teacher.backbone.bl",),
        ),
        ("plain", "plain", 7, {"extra.weight": torch.ones(1)}, ("it has beyond them student.backbone.extra.weight",)),
        ("plain", "plain", 7, {"pos_embed": torch.ones(1, 5, 48)}, ("[1, 5, 48] instead of [1, 17, 48]",)),
    ],
)
def test_weights_of_other_networks(states, save, recipe, kind, framework, classes, change, words) -> None:
    state = {key: value for key, value in {**states[kind], **change}.items() if value is not None}
    path = save(state)
    with pytest.raises(CheckpointError) as caught:
        load(path, recipe(framework), 3, classes)
    assert all(word in str(caught.value) for word in (*words, str(path), "give the YAML file"))
