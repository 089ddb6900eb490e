"""Reading a YAML file of the reference project, and what contradicts what in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stssl import config as cfg
from stssl.errors import ConfigError
from stssl.reference.keys import MOST, WIDTHS, ReferenceConfig, structure

# What an algorithm reads and the reference has no default for, with the published value.
NEEDED: dict[str, dict[str, Any]] = {
    "freematch": {"sup_warmup_iters": 2000},
    "udal": {"a_min": 0.5, "k": 2},
    "cdmad": {"p_cutoff": "[0.05, 0.95]", "debias_start_iter": 2000},
    "cap": {
        "pseudolabel_from_ema": "true", "ema_t": 0.999, "pos_per": 1.0, "neg_per": 1.0, "use_asl": "true", "gamma_neg": 4,
        "gamma_pos": 1, "clip": 0.05, "eps": 1e-8, "disable_torch_grad_focal_loss": "true",
    },
}  # fmt: skip
STUDENT = {"feat_dim": 384, "lambda_d": 1.0, "distill_loss_type": "mse"}  # the same for every stssl_ algorithm
CLASSES = {"bigearthnet": (43, 19), "eurosat": (10,)}
THRESHOLDED = ("fixmatch", "defixmatch", "udal", "cdmad")


def read(path: Path | str) -> ReferenceConfig:
    """Read a YAML file of the reference project.

    Raises:
        ConfigError: Every unknown key with the nearest known one, every value that cannot be, and every pair of keys that
            contradict each other or that cannot be done here, each with a remedy.
    """
    config = cfg.validate(ReferenceConfig, cfg.read_yaml(path), str(path))
    faults = [*_of_the_data(config), *_of_the_networks(config), *_of_the_method(config), *_of_the_training(config)]
    if faults:
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults))
    return config


def _of_the_data(c: ReferenceConfig) -> Iterator[str]:
    known = CLASSES[c.dataset]
    if c.num_classes not in known:
        counts = " or ".join(map(str, known))
        yield f"num_classes: {c.num_classes} with dataset {c.dataset}, which has {counts}; set num_classes: {known[0]}"
    several = c.dataset == "bigearthnet"
    if c.multilabel != several:
        labels = "several labels" if several else "one label"
        yield (
            f"multilabel: {_yaml(c.multilabel)} with dataset {c.dataset}, whose images have {labels}; "
            f"set multilabel: {_yaml(several)}"
        )
    whole = c.num_labels >= 1 and c.num_labels == int(c.num_labels)
    if several and not (whole or 0 < c.num_labels < 1 or c.num_labels == -1):
        yield f"num_labels: {c.num_labels:g}; give a fraction below 1, a count, or -1 for all labels"
    if not several and not (whole and c.num_labels % 10 == 0):
        yield f"num_labels: {c.num_labels:g} with dataset eurosat; give a multiple of its 10 classes, such as 40"
    neutral = {"lb_imb_ratio": 1, "ulb_imb_ratio": 1, "ulb_num_labels": None, "include_lb_to_ulb": True}
    for key, value in neutral.items():
        given = getattr(c, key)
        if not several and given not in (value, str(value)):
            yield f"{key}: {_yaml(given)}; the unlabeled pool here is the whole training split: set {_yaml(value)} or remove it"


def _of_the_networks(c: ReferenceConfig) -> Iterator[str]:
    net = structure(c.net)
    seer = c.algorithm.startswith(("stssl_", "st_"))
    other = c.net.removeprefix("early_fusion_") if net.fusion else f"early_fusion_{c.net}"
    if seer and not net.fusion:
        yield f"net: {c.net} cannot be told place and date, which algorithm {c.algorithm} needs; set net: {other}"
    if net.fusion and c.framework == "plain":
        yield (
            f"net: {c.net} is told place and date, which algorithm {c.algorithm} does not know; set algorithm: "
            f"stssl_{c.algorithm} or net: {other}"
        )
    if c.img_size != net.image:
        yield f"img_size: {c.img_size}, but net {c.net} takes images of {net.image} px; set img_size: {net.image}"
    if c.framework != "plain" and c.feat_dim not in (None, WIDTHS[net.size]):
        yield f"feat_dim: {c.feat_dim}, but net {c.net} is {WIDTHS[net.size]} wide; set feat_dim: {WIDTHS[net.size]}"
    if c.framework != "plain" and c.no_loc and c.no_time:
        yield f"no_loc and no_time leave algorithm {c.algorithm} no metadata; set one to false, or take the plain algorithm"
    if c.net_from_name:
        yield "net_from_name: true asks for a torchvision network; set it to false"
    if c.use_pretrain and not c.pretrain_path:
        yield "use_pretrain: true without a pretrain_path; name a weight file, or set use_pretrain: false"


def _of_the_method(c: ReferenceConfig) -> Iterator[str]:
    needed = {**NEEDED.get(c.method, {}), **(STUDENT if c.framework == "teacher_student" else {})}
    for key, published in needed.items():
        if getattr(c, key) is None:
            published = WIDTHS[structure(c.net).size] if key == "feat_dim" else published
            yield f"{key}: algorithm {c.algorithm} needs it, and the reference has no default; add {key}: {published}"
    if isinstance(c.p_cutoff, tuple) and c.method in THRESHOLDED:
        low, high = c.p_cutoff
        if not c.multilabel:
            yield f"p_cutoff: [{low:g}, {high:g}] with multilabel: false; one label per image has one threshold, such as 0.95"
        elif not 0 <= low < high <= 1:
            yield f"p_cutoff: [{low:g}, {high:g}]; the first must be below the second, both within 0 and 1"
    elif isinstance(c.p_cutoff, float) and c.method in THRESHOLDED and not 0 <= c.p_cutoff <= 1:
        yield f"p_cutoff: {c.p_cutoff:g}; a threshold lies within 0 and 1"
    if c.method == "cap" and not c.multilabel:
        yield f"algorithm: {c.algorithm} is only for several labels per image; with multilabel: false take softmatch or udal"
    if c.method == "softmatch" and c.per_class and not c.multilabel:
        yield "per_class: true with multilabel: false; it is for several labels per image: set it to false"
    if c.method == "freematch" and c.use_quantile and c.multilabel:
        yield "use_quantile: true with multilabel: true; it is for one label per image: set it to false"


def _of_the_training(c: ReferenceConfig) -> Iterator[str]:
    if not c.use_cat and c.method != "supervised":
        yield f"use_cat: false, which algorithm {c.algorithm} does not implement; set it to true"
    for key in ("epoch", "num_eval_iter"):
        if c.num_train_iter % getattr(c, key):
            yield f"num_train_iter: {c.num_train_iter} is not a multiple of {key} {getattr(c, key)}; change one of them"
    if c.num_warmup_iter >= c.num_train_iter:
        yield f"num_warmup_iter: {c.num_warmup_iter} is not below num_train_iter {c.num_train_iter}; lower it"
    for method, key in (("freematch", "sup_warmup_iters"), ("cdmad", "debias_start_iter")):
        if c.method == method and (getattr(c, key) or 0) >= c.num_train_iter:
            yield f"{key}: {getattr(c, key)} is not below num_train_iter {c.num_train_iter}; lower it"
    if c.batch_size * c.uratio > MOST:
        yield f"uratio: {c.uratio} times batch_size {c.batch_size} is more than {MOST} images at a time; lower one"
    if c.optim != "AdamW":
        yield f"optim: {c.optim} (the reference's default is SGD); only AdamW is offered here, as published: set optim: AdamW"
    if c.layer_decay != 1.0:
        yield f"layer_decay: {c.layer_decay:g}; all layers learn at one rate here, as published: set layer_decay: 1.0"
    if c.imb_algorithm is not None:
        yield f"imb_algorithm: {c.imb_algorithm}; none is offered here: remove it"


def _yaml(value: Any) -> str:
    """A value as it stands in YAML."""
    return cfg.dump_yaml({"": value}).partition(":")[2].strip()
