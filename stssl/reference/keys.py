"""The keys of the reference project's YAML files, with its own defaults.

What a file leaves out is the default of its argument parser. A key whose default is None here has none there: the
algorithms that need it fail without it (`config.NEEDED`). Limits are those of the recipe's keys, so that a fault is told
in the user's own words.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field, field_validator

from stssl.config import Config

Algorithm = Literal[
    "fullysupervised", "supervised", "st_supervised", "fixmatch", "freematch", "softmatch", "udal", "cap", "cdmad",
    "defixmatch", "stssl_fixmatch", "stssl_freematch", "stssl_softmatch", "stssl_udal", "stssl_cap", "stssl_cdmad",
    "stssl_defixmatch",
]  # fmt: skip
Net = Literal[
    "vit_tiny_patch2_32", "vit_small_patch2_32", "vit_small_patch16_128", "vit_small_patch16_224", "vit_base_patch16_96",
    "vit_base_patch16_224", "early_fusion_vit_small_patch2_32", "early_fusion_vit_tiny_patch16_128",
    "early_fusion_vit_small_patch16_128", "early_fusion_vit_small_patch16_224", "early_fusion_vit_base_patch16_128",
]  # fmt: skip
NETS: tuple[str, ...] = get_args(Net)
MOST = 65_536  # images in a batch
WIDTHS = {"tiny": 192, "small": 384, "base": 768}


class Structure(NamedTuple):
    """What the name of a net says."""

    fusion: bool  # it can be told place and date
    size: str
    patch: int
    image: int
    drop_path: float


def structure(net: str) -> Structure:
    """Read a net's name, such as `early_fusion_vit_small_patch16_128`."""
    plain = net.removeprefix("early_fusion_")
    _, size, patch, image = plain.split("_")
    drop_path = 0.1 if plain == "vit_tiny_patch2_32" else 0.2
    return Structure(plain != net, size, int(patch.removeprefix("patch")), int(image), drop_path)


class Bookkeeping(Config):
    """Keys that mean nothing here: where things are written, and on which machine."""

    save_dir: Any = None
    save_name: Any = None
    resume: bool = False
    load_path: Any = None
    overwrite: Any = True
    use_tensorboard: Any = False
    use_wandb: Any = False
    use_aim: Any = False
    num_log_iter: Any = 5
    eval_batch_size: Any = 16
    momentum: Any = 0.9  # of SGD
    data_dir: Any = "./data"
    pt_data_dir: Any = None
    metadata_file: Any = None
    num_workers: Any = 1
    max_length: Any = 512
    max_length_seconds: Any = 4.0
    sample_rate: Any = 16000
    rank: Any = 0
    gpu: Any = None
    dist_url: Any = None
    dist_backend: Any = "nccl"
    c: Any = ""


class Limits(Config):
    """Keys that would change the training, and that have no counterpart here: noted, or refused if set."""

    patience_iters: int | None = None
    amp: bool = False
    clip_grad: float = 0.0
    train_sampler: str = "RandomSampler"
    world_size: int = 1
    multiprocessing_distributed: bool = False
    debug: bool = False
    use_cat: bool = True
    layer_decay: float = 1.0
    net_from_name: bool = False
    imb_algorithm: str | None = None
    include_lb_to_ulb: bool = True
    lb_imb_ratio: float = 1
    ulb_imb_ratio: float = 1
    ulb_num_labels: int | str | None = None


class Methods(Config):
    """Keys of single algorithms; those of another algorithm than the chosen one are not looked at, as there."""

    hard_label: bool = True
    T: float = Field(0.5, gt=0, le=10)
    p_cutoff: float | tuple[float, float] | None = None
    ema_p: float = Field(0.999, ge=0, lt=1)
    ent_loss_ratio: float = Field(0.01, ge=0, le=10)
    use_quantile: bool = False
    clip_thresh: bool = False
    sup_warmup_iters: int | None = Field(None, ge=0)
    dist_align: bool = True
    dist_uniform: bool = True
    n_sigma: float = Field(2, gt=0, le=10)
    per_class: bool = False
    a_min: float | None = Field(None, ge=0, le=1)
    k: float | None = Field(None, gt=0, le=10)
    debias_start_iter: int | None = Field(None, ge=0)
    pseudolabel_from_ema: bool | None = None
    ema_t: float | None = None  # CAP stores it and never uses it
    pos_per: float | None = Field(None, ge=0, le=1)
    neg_per: float | None = Field(None, ge=0, le=1)
    use_asl: bool | None = None
    gamma_neg: float | None = Field(None, ge=0, le=20)
    gamma_pos: float | None = Field(None, ge=0, le=20)
    clip: float | None = Field(None, ge=0, lt=1)
    eps: float | None = None
    disable_torch_grad_focal_loss: bool | None = None
    feat_dim: int | None = None
    lambda_d: float | None = Field(None, ge=0, le=1000)
    distill_loss_type: Literal["none", "mse", "mae", "cos"] | None = None

    @field_validator("p_cutoff", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        numbers = value if isinstance(value, (list, tuple)) else [value]
        strange = any(isinstance(n, bool) or not isinstance(n, (int, float)) or not math.isfinite(n) for n in numbers)
        if value is not None and (strange or (numbers is value and len(numbers) != 2)):
            raise ValueError("input should be a number or a pair of numbers")
        return value


class ReferenceConfig(Bookkeeping, Limits, Methods):
    """One YAML file of the reference project, with its argument parser's defaults."""

    algorithm: Algorithm = "fixmatch"
    dataset: Literal["bigearthnet", "eurosat"]
    net: Net
    num_classes: int = 10
    multilabel: bool = False
    num_labels: float = 400
    img_size: int = 32
    crop_ratio: float = Field(0.875, ge=0.5, le=1)
    no_loc: bool = False
    no_time: bool = False
    use_pretrain: bool = False
    pretrain_path: str | None = ""
    epoch: int = Field(1, ge=1)
    num_train_iter: int = Field(20, ge=1)
    num_eval_iter: int = Field(10, ge=1)
    num_warmup_iter: int = Field(0, ge=0)
    batch_size: int = Field(8, ge=1, le=MOST)
    uratio: int = Field(1, ge=1, le=MOST)
    ema_m: float = Field(0.999, ge=0, lt=1)
    ulb_loss_ratio: float = Field(1.0, ge=0, le=100)
    optim: str = "SGD"
    lr: float = Field(3e-2, gt=0, le=1e6)
    weight_decay: float = Field(5e-4, ge=0, le=10)
    seed: int = Field(1, ge=0, lt=2**31)

    @property
    def method(self) -> str:
        """The algorithm without what it is put into: `fixmatch` of `stssl_fixmatch`."""
        name = self.algorithm.removeprefix("stssl_").removeprefix("st_")
        return "supervised" if name == "fullysupervised" else name

    @property
    def framework(self) -> str:
        """Which networks there are.

        `supervised` with a net that fuses metadata is the metadata baseline of the paper. (Its file cannot be run there:
        the name stands for the image-only class, which calls the net without metadata.)
        """
        if self.algorithm.startswith("stssl_"):
            return "teacher_student"
        fused = self.method == "supervised" and structure(self.net).fusion
        return "metadata_input" if fused or self.algorithm == "st_supervised" else "plain"
