"""Algorithms, losses and distillation against the recorded numbers of the reference implementation."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stssl.algorithms.base import Algorithm, Logits, Setting
from stssl.algorithms.distillation import distillation_loss
from stssl.algorithms.losses import asymmetric_loss, consistency_loss, entry_losses, supervised_loss
from tests.algorithms.asking import plugin, seen

Golden = Callable[[str], dict[str, Any]]
Check = Callable[..., None]


def algorithm_of(name: str, recorded: dict[str, Any], parity: bool) -> tuple[Algorithm, dict[str, Any]]:
    """Our algorithm with the recorded hyperparameters, and these."""
    h = json.loads(str(recorded["hyperparameters_json"]))
    settings: dict[str, Any] = {"unlabeled_weight": h["ulb_loss_ratio"]}
    if name != "cap":
        settings |= {"hard_labels": h["hard_label"], "temperature": h["T"]}
    if name == "fixmatch":
        cut = h["p_cutoff"]
        pair = isinstance(cut, list)
        settings |= {"threshold_negative": cut[0], "threshold_positive": cut[1]} if pair else {"threshold": cut}
    elif name == "freematch":
        settings |= {"momentum": h["ema_p"], "fairness_weight": h["ent_loss_ratio"]}
        settings |= {"warmup_steps": h["sup_warmup_iters"], "quantile": h["use_quantile"], "clip": h["clip_thresh"]}
    elif name == "softmatch":
        assert not h["dist_uniform"]
        settings |= {"momentum": h["ema_p"], "n_sigma": h["n_sigma"], "per_class": h["per_class"]}
    else:
        settings |= {"positive_share": h["pos_per"], "negative_share": h["neg_per"], "asymmetric": h["use_asl"]}
        settings |= {"gamma_negative": h["gamma_neg"], "gamma_positive": h["gamma_pos"], "clip": h["clip"]}
        assert h["disable_torch_grad_focal_loss"]
    frequencies = torch.from_numpy(recorded["in_labelled_class_freq"]) if "in_labelled_class_freq" in recorded else None
    task = "multi" if h["multilabel"] else "single"
    setting = Setting(task, h["num_classes"], frequencies, 37, 18, h["num_train_iter"], parity=parity)
    return plugin(name)(plugin(name).Config(**settings), setting), h


def published_constant(strong: Tensor, mask: Tensor, state: dict[str, Tensor]) -> float:
    """What the classes add to the published fairness term whose believed predictions are all positive or all negative."""
    share = ((strong >= 0) * mask).sum(0) / mask.sum(0)
    positive, negative = state["mean_p"] / state["histogram"], (1 - state["mean_p"]) / (1 - state["histogram"])
    a = positive / (positive + negative)
    return float((torch.where(share == 1, 1 - a, 0) + torch.where(share == 0, a, 0)).sum() * np.log(1e-12))


STATE = {  # the reference's name of a state to ours
    "freematch": {"time_p": "confidence", "p_model": "mean_p", "label_hist": "histogram"},
    "softmatch": {"mu": "mean", "var": "variance", "p_model": "mean_p.value", "p_target": "wanted"},
}
FILES = [
    *(f"fixmatch_{kind}" for kind in ("single", "multi", "multi_soft", "multi_ignore", "multi_scalar_cutoff")),
    *("freematch_single", "freematch_multi", "softmatch_multi", "cap_multi"),
]


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize("file", FILES)
def test_eight_steps_of_the_reference(file: str, parity: bool, golden: Golden, assert_golden: Check) -> None:
    recorded, name = golden(f"stssl_{file}"), file.split("_")[0]
    algorithm, h = algorithm_of(name, recorded, parity)
    without_constants = file == "freematch_multi" and not parity
    assert len(recorded["it"]) == 8
    for step in range(8):
        at = {key: value[step] for key, value in recorded.items() if value.ndim and len(value) == 8}
        inputs = {
            key.removeprefix("in_"): torch.from_numpy(value).requires_grad_(value.dtype == np.float32)
            for key, value in at.items()
            if key.startswith("in_")
        }
        y, weak = inputs["y_lb"], inputs["ema_logits_ulb_w" if name == "cap" else "logits_ulb_w"]
        targets = algorithm.believe(seen(weak, inputs["logits_lb"].detach(), y), step)
        if name == "softmatch":
            assert_golden(targets.weights, at["mask"])
        else:
            assert np.array_equal(targets.weights.numpy(), at["mask"])
        if h.get("hard_label", True):
            assert np.array_equal(targets.labels.numpy(), at["pseudo_label"])
        assert_golden(targets.labels, at["pseudo_label"])
        assert_golden(targets.weights.mean(), at["util_ratio"])
        state = algorithm.state_dict()
        for theirs, ours in STATE.get(name, {}).items():
            assert_golden(state[ours], at[f"state_{theirs}"], f"{ours}, step {step}")
        total = torch.zeros(())
        for role, ours, theirs in (("teacher", "", ""), ("student", "st_", "student_")):
            logits = Logits(inputs[f"{ours}logits_lb"], inputs[f"{ours}logits_ulb_s"])
            losses = algorithm.losses(logits, y, targets, role, step)
            assert_golden(losses["supervised"], at[f"{theirs}sup_loss"], f"{role} sup, step {step}")
            if not algorithm.warming_up(step):
                unsupervised = losses["unsupervised"] / h["ulb_loss_ratio"]
                assert_golden(unsupervised, at[f"{theirs}unsup_loss"], f"{role} unsup, step {step}")
            assert (f"{theirs}ent_loss" in at and not algorithm.warming_up(step)) == ("fairness" in losses)
            if "fairness" in losses:
                term = losses["fairness"] / h["ent_loss_ratio"]
                if without_constants:  # they have no gradient, so those below agree
                    constant = published_constant(logits.strong, targets.weights, state)
                    term, total = term + constant, total + h["ent_loss_ratio"] * constant
                assert_golden(term, at[f"{theirs}ent_loss"], f"{role} fairness, step {step}")
            total = total + sum(losses.values())
        student, teacher = (torch.cat([inputs[f"{role}feat_lb"], inputs[f"{role}feat_ulb_s"]]) for role in ("st_", ""))
        distilled = distillation_loss(student, teacher, h["distill_loss_type"])
        assert_golden(distilled, at["distill_loss"])
        total = total + h["lambda_d"] * distilled * (not algorithm.warming_up(step))
        assert_golden(total, at["loss_for_backward"])
        total.backward()
        graded = [key for key in at if key.startswith("grad_")]
        assert len(graded) == 10
        for key in graded:
            gradient = inputs[key.removeprefix("grad_")].grad
            assert_golden(torch.zeros(()) if gradient is None else gradient, at[key], f"{key}, step {step}")
    if name == "cap":
        assert np.array_equal(algorithm.state_dict()["queue"][:, : 8 * 18].T.numpy(), recorded["state_queue_final"])


@pytest.mark.parametrize("file", FILES)
def test_recorded_masks_are_neither_empty_nor_full(file: str, golden: Golden) -> None:
    """Else the comparison above would prove little."""
    assert 0.1 < golden(f"stssl_{file}")["mask"].mean() < 0.97
    assert (golden("stssl_fixmatch_multi_ignore")["in_y_lb"] == -1).any()


@pytest.mark.parametrize("kind", ["", "_soft"])
@pytest.mark.parametrize("settings", ["default", "torchgrad", "noclip", "g20", "nofocus"])
def test_asymmetric_loss(settings: str, kind: str, golden: Golden, assert_golden: Check) -> None:
    recorded = golden("asymmetric_loss")
    gammas = {"g20": (2, 0), "nofocus": (0, 0)}.get(settings, (4, 1))
    logits = torch.from_numpy(recorded["logits"]).requires_grad_()
    y = torch.from_numpy(recorded["soft_targets" if kind else "targets"])
    loss = asymmetric_loss(logits, y, *gammas, 0.0 if settings == "noclip" else 0.05, settings == "torchgrad")
    none = recorded[f"{settings}{kind}_none"].copy()
    if (
        settings == "noclip"
    ):  # log(1-p) at p near 1, where 1-p has lost digits in the recording and -softplus(z) has not
        far = (logits.detach() > 10).numpy() & (logits.detach() < 18).numpy()
        z = logits.detach().double()
        exact = (F.softplus(z) * z.sigmoid() ** 4).float().numpy()
        where = far & (y.numpy() == 0)
        np.testing.assert_allclose(none[where], exact[where], rtol=5e-5)
        none[where] = exact[where]
    assert_golden(loss, none)
    loss.sum().backward()
    assert_golden(logits.grad, recorded[f"{settings}{kind}_grad"])


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
