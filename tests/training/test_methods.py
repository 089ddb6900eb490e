"""One code path for all of the method's choices: target sources, what is distilled and on which views, frameworks."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stssl import plugins
from stssl.algorithms.base import Seen
from stssl.encodings.base import LocationEncoding, TimeEncoding
from stssl.models.injection.base import Injection
from stssl.training import checkpoint
from stssl.training.trainer import Trainer

Make = Callable[..., Trainer]
INJECTIONS = plugins.find("stssl.models.injection", Injection)
RESNET: dict[str, Any] = {"model": {"name": "test_resnet", "image_size": 32}}


@pytest.mark.parametrize("model", ["vit", "resnet"])
@pytest.mark.parametrize("name", INJECTIONS)
def test_every_injection_trains_and_resumes(
    name: str, model: str, make_trainer: Make, assert_same: Any, tmp_path: Path
) -> None:
    if (name, model) == ("token", "resnet"):
        pytest.skip("refused: tests/models/test_pairs.py")
    changes: dict[str, Any] = {"injection": name, "encoding.dropout": 0.3, "encoding.jitter_deg": 1.0}
    changes |= {"training.target_source": "ema", **RESNET} if model == "resnet" else {"model.drop_path_rate": 0.2}
    whole, first, second = (make_trainer("single", changes) for _ in range(3))
    losses = whole.train(4)
    assert all(math.isfinite(value) for value in losses.values()) and "student/distillation" in losses
    first.train(2)
    checkpoint.save(tmp_path / "c.pt", first.state_dict())
    second.load_state_dict(checkpoint.load(tmp_path / "c.pt"))
    second.train(4)
    assert_same(second.state_dict(), whole.state_dict())
    assert math.isfinite(whole.evaluate()["loss"])
    student: Any = whole.networks.student
    registers = INJECTIONS[name].tokens(whole.recipe.injection)
    assert getattr(student.backbone, "num_reg_tokens", 0) == registers
    assert (whole.networks.predictor is None) == (name in ("token", "logit_prior"))


def test_several_tokens(make_trainer: Make) -> None:
    trainer = make_trainer("multi", {"injection.count": 3})
    assert math.isfinite(trainer.train(2)["loss"])
    student: Any = trainer.networks.student
    assert student.backbone.num_reg_tokens == 3 and trainer.networks.timm_arguments["reg_tokens"] == 3


@pytest.mark.parametrize("kind, base", [("location", LocationEncoding), ("time", TimeEncoding)])
def test_every_encoding_trains(kind: str, base: type, make_trainer: Make) -> None:
    for name in plugins.find(f"stssl.encodings.{kind}", base):
        trainer = make_trainer(
            "single", {f"encoding.{kind}": name, "encoding.dropout": 0.3, "encoding.jitter_deg": 1.0}
        )
        assert math.isfinite(trainer.train(2)["loss"]), name


@pytest.mark.parametrize("on", ["token", "pooled", "logits"])
@pytest.mark.parametrize("views", ["labeled", "strong", "weak", "labeled+strong", "labeled+weak"])
def test_what_is_distilled_and_where(on: str, views: str, make_trainer: Make) -> None:
    changes = {"distillation.on": on, "distillation.views": views, "distillation.loss": "mae"}
    trainer = make_trainer("single", changes)
    rows: list[int] = []

    def count(role: str, outputs: Any) -> torch.Tensor:
        feature = type(trainer.networks).to_match(trainer.networks, role, outputs)
        rows.append(len(feature))
        return feature

    trainer.networks.to_match = count  # type: ignore[method-assign]
    losses = trainer.train(1)
    assert losses["student/distillation"] > 0
    n, u = trainer.recipe.training.batch_labeled, trainer.recipe.training.batch_unlabeled
    assert rows == [n + u, n + u] + ([u, u] if "weak" in views else [])


def test_views_change_the_loss_and_ramp_up_starts_at_nothing(make_trainer: Make) -> None:
    found = {
        views: make_trainer("single", {"distillation.views": views}).train(1)["student/distillation"]
        for views in ("labeled", "strong", "weak", "labeled+strong", "labeled+weak")
    }
    assert len(set(found.values())) == 5
    n, u = 6, 10
    mean = (n * found["labeled"] + u * found["strong"]) / (n + u)
    assert found["labeled+strong"] == pytest.approx(mean, rel=1e-5)
    without = make_trainer("single", {"distillation.weight": 1e-12}).train(1)
    ramped = make_trainer("single", {"distillation.rampup_steps": 4})
    assert ramped.train(1)["loss"] == pytest.approx(without["loss"], rel=1e-6)
    assert [ramped.recipe.distillation.weight_at(step) for step in (0, 1, 4, 100)] == [0, 0.25, 1, 1]


def test_the_weak_view_teaches_the_student_and_not_the_teacher(make_trainer: Make) -> None:
    """Without `strong` in the views, distillation must not depend on strong views, nor move the teacher."""
    teacher = []
    for weight in (0.5, 50.0):
        changes = {"distillation.views": "weak", "distillation.weight": weight, "injection": "film"}
        trainer = make_trainer("single", changes)
        trainer.train(1)
        teacher.append({k: v for k, v in trainer.networks.state_dict().items() if k.startswith("teacher")})
    assert all(torch.equal(teacher[0][key], teacher[1][key]) for key in teacher[0])


def test_supervised_distils_on_labeled_images(make_trainer: Make) -> None:
    for views in ("labeled", "labeled+strong", "labeled+weak"):
        losses = make_trainer("single", {"algorithm": "supervised", "distillation.views": views}).train(1)
        assert losses["student/distillation"] > 0


# --- the source of the targets --------------------------------------------------------------------------------------

NOISY = {"model.drop_path_rate": 0.9, "model.depth": 3, "encoding.dropout": 0.5}


def logits_seen(trainer: Trainer, steps: int, weak: bool = True) -> list[torch.Tensor]:
    """What `believe` was given at each step: logits of unlabeled images (weak), or of labeled ones."""
    given: list[torch.Tensor] = []
    believe = trainer.algorithm.believe

    def spy(seen: Seen, step: int) -> Any:
        assert not seen.weak.requires_grad and all(module.training for module in trainer.networks.modules())
        given.append(seen.weak if weak else seen.labeled)
        return believe(seen, step)

    trainer.algorithm.believe = spy  # type: ignore[method-assign]
    trainer.train(steps)
    return given


@pytest.mark.parametrize("framework", ["plain", "metadata_input", "teacher_student"])
def test_target_sources(framework: str, make_trainer: Make) -> None:
    seen = {}
    for source in ("online_train", "online_eval", "ema"):
        trainer = make_trainer(
            "single", {**NOISY, "framework": framework, "training.target_source": source, "training.ema_decay": 0.5}
        )
        seen[source] = logits_seen(trainer, 3)
    assert torch.equal(seen["online_eval"][0], seen["ema"][0])  # the average begins as a copy
    assert not torch.allclose(seen["online_train"][0], seen["online_eval"][0])  # stochastic depth
    assert not torch.allclose(seen["online_eval"][2], seen["ema"][2], atol=1e-7)


def test_online_eval_is_the_network_without_its_noise(make_trainer: Make) -> None:
    changes = {**NOISY, "algorithm": "metric_threshold", "training.target_source": "online_eval"}
    trainer, other = make_trainer("single", changes), make_trainer("single", changes)
    before = {key: tensor.clone() for key, tensor in trainer.networks.state_dict().items()}
    logits, of_labeled = logits_seen(trainer, 1)[0], logits_seen(other, 1, weak=False)[0]
    trainer.networks.load_state_dict(before)
    trainer.networks.eval()
    labeled, unlabeled = trainer.batches.draw(0)
    assert unlabeled is not None
    from stssl.training.trainer import VIEWS

    keys = [(VIEWS, trainer.recipe.seed, 0, view) for view in range(3)]
    first, (weak, _) = trainer.views.weak(labeled.images, keys[0]), trainer.views.pair(unlabeled.images, *keys[1:])
    with torch.no_grad():
        expected = trainer.networks("teacher", weak, unlabeled.place, unlabeled.time).logits
        torch.testing.assert_close(logits, expected)
        expected = trainer.networks("teacher", first, labeled.place, labeled.time).logits
        torch.testing.assert_close(of_labeled, expected)


def test_frameworks_share_one_path(make_trainer: Make) -> None:
    """A teacher that is told nothing it can use, and a plain network: the same losses, by the same code."""
    plain = make_trainer("single", {"framework": "plain"})
    told = make_trainer("single", {"framework": "metadata_input", "injection": "logit_prior"})
    told.networks.teacher.backbone.load_state_dict(plain.networks.student.backbone.state_dict())
    a, b = plain.train(1), told.train(1)
    assert {key.split("/")[-1] for key in a} == {key.split("/")[-1] for key in b}
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-6) and a["mask_rate"] == b["mask_rate"]
