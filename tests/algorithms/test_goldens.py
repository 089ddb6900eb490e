"""FixMatch, losses and distillation against the recorded numbers of the reference implementation."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stssl.algorithms.distillation import distillation_loss
from stssl.algorithms.fixmatch import FixMatch, FixMatchConfig
from stssl.algorithms.losses import consistency_loss, entry_losses, supervised_loss

Golden = Callable[[str], dict[str, Any]]
Check = Callable[..., None]


def fixmatch_of(hyperparameters: dict[str, Any]) -> FixMatch:
    cut = hyperparameters["p_cutoff"]
    thresholds = (
        {"threshold_negative": cut[0], "threshold_positive": cut[1]} if isinstance(cut, list) else {"threshold": cut}
    )
    config = FixMatchConfig(
        unlabeled_weight=hyperparameters["ulb_loss_ratio"],
        hard_labels=hyperparameters["hard_label"],
        temperature=hyperparameters["T"],
        **thresholds,
    )
    return FixMatch(config, "multi" if hyperparameters["multilabel"] else "single", hyperparameters["num_classes"])


@pytest.mark.parametrize("file", ["single", "multi", "multi_soft", "multi_ignore", "multi_scalar_cutoff"])
def test_fixmatch(file: str, golden: Golden, assert_golden: Check) -> None:
    recorded = golden(f"stssl_fixmatch_{file}")
    settings = json.loads(str(recorded["hyperparameters_json"]))
    algorithm = fixmatch_of(settings)
    assert len(recorded["it"]) == 8
    for step in range(8):
        at = {key: value[step] for key, value in recorded.items() if value.ndim}
        inputs = {
            key.removeprefix("in_"): torch.from_numpy(value).requires_grad_(value.dtype == np.float32)
            for key, value in at.items()
            if key.startswith("in_")
        }
        y = inputs["y_lb"]
        targets = algorithm.believe(inputs["logits_ulb_w"], inputs["logits_lb"].detach(), step)
        assert np.array_equal(targets.weights.numpy(), at["mask"])
        if settings["hard_label"]:
            assert np.array_equal(targets.labels.numpy(), at["pseudo_label"])
        assert_golden(targets.labels, at["pseudo_label"])
        assert_golden(targets.weights.mean(), at["util_ratio"])
        total = torch.zeros(())
        for role, ours, theirs in (("teacher", "", ""), ("student", "st_", "student_")):
            strong = inputs[f"{ours}logits_ulb_s"]
            losses = algorithm.losses(inputs[f"{ours}logits_lb"], y, strong, targets, role, step)
            assert losses.keys() == {"supervised", "unsupervised"}
            assert_golden(losses["supervised"], at[f"{theirs}sup_loss"], f"{role} sup, step {step}")
            unsupervised = losses["unsupervised"] / settings["ulb_loss_ratio"]
            assert_golden(unsupervised, at[f"{theirs}unsup_loss"], f"{role} unsup, step {step}")
            total = total + sum(losses.values())
        student, teacher = (torch.cat([inputs[f"{role}feat_lb"], inputs[f"{role}feat_ulb_s"]]) for role in ("st_", ""))
        distilled = distillation_loss(student, teacher, settings["distill_loss_type"])
        assert_golden(distilled, at["distill_loss"])
        total = total + settings["lambda_d"] * distilled
        assert_golden(total, at["loss_for_backward"])
        total.backward()
        graded = [key for key in at if key.startswith("grad_")]
        assert len(graded) == 10
        for key in graded:
            gradient = inputs[key.removeprefix("grad_")].grad
            assert_golden(torch.zeros(()) if gradient is None else gradient, at[key], f"{key}, step {step}")


def test_fixmatch_masks_are_neither_empty_nor_full(golden: Golden) -> None:
    """Else the comparison above would prove little."""
    for file in ("single", "multi", "multi_soft", "multi_ignore", "multi_scalar_cutoff"):
        assert 0.1 < golden(f"stssl_fixmatch_{file}")["mask"].mean() < 0.9
    assert (golden("stssl_fixmatch_multi_ignore")["in_y_lb"] == -1).any()


@pytest.mark.parametrize("ours, theirs", [("mse", "mse"), ("mae", "mae"), ("cosine", "cos")])
def test_distillation(ours: str, theirs: str, golden: Golden, assert_golden: Check) -> None:
    recorded = golden("distillation")
    tensors = {key: torch.from_numpy(value).requires_grad_() for key, value in recorded.items() if "_feat_" in key}
    student, teacher = (
        torch.cat([tensors[f"{role}_feat_lb"], tensors[f"{role}_feat_ulb"]]) for role in ("student", "teacher")
    )
    loss = distillation_loss(student, teacher, ours)
    assert_golden(loss, recorded[f"loss_{theirs}"])
    loss.backward()
    for part in ("lb", "ulb"):
        assert_golden(tensors[f"student_feat_{part}"].grad, recorded[f"grad_student_feat_{part}_{theirs}"])
        assert tensors[f"teacher_feat_{part}"].grad is None


def test_losses(golden: Golden, assert_golden: Check) -> None:
    recorded = {key: torch.from_numpy(np.asarray(value)) for key, value in golden("criteria").items()}
    logits, hard, soft, hot = (recorded[key] for key in ("logits", "hard", "soft", "multihot"))
    ignore, per_image, per_entry = (recorded[key] for key in ("multihot_ignore", "mask_sample", "mask_element"))
    assert (ignore == -1).any()

    def check(ours: Tensor, name: str) -> None:
        assert_golden(ours, recorded[name].numpy(), name)

    check(entry_losses(logits, hard, "single"), "ce_hard_none")
    check(entry_losses(logits, soft, "single"), "ce_soft_none")
    check(entry_losses(logits, hot, "multi"), "bce_none")
    check(supervised_loss(logits, hard, "single"), "ce_hard_mean")
    check(supervised_loss(logits, hot, "multi"), "bce_mean")
    check(supervised_loss(logits, ignore, "multi"), "bce_ignore_mean")
    check(consistency_loss(logits, hard, per_image, "single"), "cons_ce_hard")
    check(consistency_loss(logits, soft, per_image, "single"), "cons_ce_soft")
    check(consistency_loss(logits, hot, per_entry, "multi"), "cons_bce")
    check(consistency_loss(logits, hot, torch.ones_like(per_entry), "multi"), "cons_bce_nomask")
