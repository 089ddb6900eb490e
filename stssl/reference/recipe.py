"""From the reference project's keys to a recipe, and what is to be said about it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from stssl.data.dataset import Dataset
from stssl.errors import ConfigError
from stssl.reference.config import THRESHOLDED
from stssl.reference.keys import ReferenceConfig, structure

BANDS = {"bigearthnet": ("B04", "B03", "B02"), "eurosat": ("R", "G", "B")}
LOSSES = {"mse": "mse", "mae": "mae", "cos": "cosine"}


def recipe_data(c: ReferenceConfig, shards: str | None = None) -> dict[str, Any]:
    """The recipe as plain data, for `--set` and validation.

    Strong views are three operations of magnitude 5, as the reference has it in its code for both data sets. Each data set
    is divided as its authors did; as many images are labeled as there, but others, unless
    `prepare` was told which.

    Args:
        c: What was read.
        shards: The prepared data; by default those of the published recipes.
    """
    net = structure(c.net)
    return {
        "data": {
            "shards": shards or f"runs/data/{c.dataset}",
            "bands": list(BANDS[c.dataset]),
            "split": {"by": "column"},
            "labeled": _labeled(c),
        },
        "views": {"crop_ratio": c.crop_ratio, "flips": True, "strong_ops": 3, "strong_magnitude": 5.0},
        "framework": c.framework,
        "encoding": {"location": _location(c), "time": _time(c)} if c.framework != "plain" else {},
        "model": {
            "name": net.size,
            "image_size": net.image,
            "patch_size": net.patch,
            "drop_path_rate": net.drop_path,
            "pretrained": c.pretrain_path if c.use_pretrain and not _remote(c) else False,
        },
        "injection": {"name": "token", "count": 1, "before_block": 0},
        "algorithm": _algorithm(c),
        "distillation": _distillation(c),
        "optimizer": {"lr": c.lr, "weight_decay": c.weight_decay, "warmup_steps": c.num_warmup_iter},
        "training": {
            "steps": c.num_train_iter,
            "eval_interval": c.num_eval_iter,
            "batch_labeled": c.batch_size,
            "batch_unlabeled": c.batch_size * c.uratio,
            "ema_decay": c.ema_m,
            "target_source": "ema" if c.method == "cap" and c.pseudolabel_from_ema else "online_train",
        },
        "seed": c.seed,
    }


def _labeled(c: ReferenceConfig) -> dict[str, Any]:
    if c.num_labels == -1 or _all_of_eurosat(c):
        return {}
    if c.num_labels < 1:
        return {"fraction": c.num_labels}
    return {"count": int(c.num_labels), **({"seed": c.seed} if c.dataset == "eurosat" else {})}


def _location(c: ReferenceConfig) -> str:
    return "none" if c.no_loc and c.dataset == "bigearthnet" else "scaled"


def _time(c: ReferenceConfig) -> Any:
    if c.dataset == "eurosat" or c.no_time:  # it has no dates; the reference puts the same day for all images
        return "none"
    return {"name": "day_of_year", "harmonics": 1, "period_days": 365.0}


def _distillation(c: ReferenceConfig) -> dict[str, Any]:
    if c.framework != "teacher_student" or c.distill_loss_type == "none" or not c.lambda_d:
        return {"weight": 0.0}
    return {"loss": LOSSES[str(c.distill_loss_type)], "weight": c.lambda_d}


def _algorithm(c: ReferenceConfig) -> dict[str, Any]:
    common: dict[str, Any] = {"name": c.method, "unlabeled_weight": c.ulb_loss_ratio}
    labels = {"hard_labels": c.hard_label, "temperature": c.T}
    # with several labels per image the reference aligns to their frequencies, whatever dist_uniform says
    aligned = "uniform" if c.dist_uniform and not c.multilabel else "labeled"
    if c.method in THRESHOLDED:
        common |= _thresholds(c)
    own: dict[str, dict[str, Any]] = {
        "fixmatch": labels,
        "defixmatch": labels,
        "cdmad": {"debias_start": c.debias_start_iter},
        "udal": {**labels, "alpha_min": c.a_min, "power": c.k, "momentum": c.ema_p, "target": aligned},
        "softmatch": {
            **labels, "momentum": c.ema_p, "n_sigma": c.n_sigma, "alignment": aligned, "per_class": c.per_class,
        },
        "freematch": {
            **labels, "momentum": c.ema_p, "fairness_weight": c.ent_loss_ratio, "warmup_steps": c.sup_warmup_iters,
            "quantile": c.use_quantile, "clip": c.clip_thresh,
        },
        "cap": {
            "positive_share": c.pos_per, "negative_share": c.neg_per, "asymmetric": c.use_asl,
            "gamma_negative": c.gamma_neg, "gamma_positive": c.gamma_pos, "clip": c.clip,
            "focal_gradient": c.disable_torch_grad_focal_loss is False,
        },
    }  # fmt: skip
    return {"name": "supervised"} if c.method == "supervised" else {**common, **own[c.method]}


def _thresholds(c: ReferenceConfig) -> dict[str, float]:
    if isinstance(c.p_cutoff, tuple):
        return {"threshold_negative": c.p_cutoff[0], "threshold_positive": c.p_cutoff[1]}
    return {"threshold": 0.95 if c.p_cutoff is None else c.p_cutoff}  # its default where it has one


def _all_of_eurosat(c: ReferenceConfig) -> bool:
    """`fullysupervised` takes every label of EuroSAT, but num_labels of BigEarthNet."""
    return c.dataset == "eurosat" and c.algorithm == "fullysupervised"


def _remote(c: ReferenceConfig) -> bool:
    return "://" in str(c.pretrain_path)


def notes(c: ReferenceConfig, overrides: Collection[str] = ()) -> Iterator[str]:
    """What a user of the reference should know about the recipe, one line each.

    Args:
        c: What was read.
        overrides: The recipe's keys that the user has set, of which nothing more need be said.
    """
    ignored = [
        ("patience_iters", c.patience_iters is not None, "no early stopping"),
        ("amp", c.amp, "the nearest is --set training.precision=bfloat16"),
        ("clip_grad", c.clip_grad > 0, "gradients are not clipped"),
        ("train_sampler", c.train_sampler != "RandomSampler", "images come at random"),
        ("world_size", c.world_size != 1, "one device"),
        ("multiprocessing_distributed", c.multiprocessing_distributed, "one device"),
        ("resume", c.resume, "the same command again resumes"),
        ("debug", c.debug, "all images"),
        ("no_loc", c.no_loc and (c.dataset == "eurosat" or c.framework == "plain"), "it has no effect there either"),
        ("no_time", c.no_time and (c.dataset == "eurosat" or c.framework == "plain"), "it has no effect there either"),
        ("dist_align", not c.dist_align and c.method in ("softmatch", "udal"), "it has no effect there either"),
        ("lambda_d", bool(c.lambda_d) and c.distill_loss_type == "none", "distill_loss_type is none"),
        ("num_labels", _all_of_eurosat(c), "fullysupervised takes all labels of EuroSAT"),
    ]
    shown = [f"{key} {getattr(c, key)} ({why})" for key, effective, why in ignored if effective]
    random_start = c.use_pretrain and _remote(c) and "model.pretrained" not in overrides
    if random_start:
        shown.append("pretrain_path (see below)")
    if shown:
        yield f"ignored: {', '.join(shown)}"
    if random_start:
        yield (
            f"weights start at random, there from {c.pretrain_path}: fetch that file and add --set model.pretrained=FILE; "
            "or --set model.pretrained=true for timm's own ImageNet weights"
        )
    if c.dataset == "bigearthnet" and c.num_labels >= 1:
        yield f"num_labels {c.num_labels:g} is a count, which the reference's own code no longer takes for BigEarthNet"
    if c.dataset == "eurosat":
        yield "here 60 % of EuroSAT trains and 20 % selects; the reference trains on these 80 % and selects on the test images"
    if c.framework == "metadata_input":
        yield "read as the metadata baseline (framework: metadata_input), which the reference's own code cannot run"
    if "parity" not in overrides:
        yield "faults of the reference are corrected; --set parity=reference repeats those that docs/method.md lists"


def check_data(c: ReferenceConfig, dataset: Dataset, path: Path | str) -> None:
    """Refuse data of another kind than the file says.

    Raises:
        ConfigError: Another number of classes or of labels per image.
    """
    task = "multi" if c.multilabel else "single"
    if (len(dataset.classes), dataset.task) != (c.num_classes, task):
        labels = {"multi": "several labels", "single": "one label"}
        raise ConfigError(
            f"{path}: num_classes: {c.num_classes} and {labels[task]} per image, but '{dataset.store.card.name}' has "
            f"{len(dataset.classes)} classes and {labels[dataset.task]}; give other shards (--shards), or change num_classes"
        )
