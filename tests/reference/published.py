"""The reference project's 55 YAML files, put together from what they have in common and what each has of its own."""

from __future__ import annotations

from typing import Any

WEIGHTS = "https://github.com/microsoft/Semi-supervised-learning/releases/download/v.0.0.0/"
MACHINE: dict[str, Any] = {
    "amp": False, "data_dir": "./data", "dist_backend": "nccl", "dist_url": "tcp://127.0.0.1:10008", "gpu": 0,
    "layer_decay": 1.0, "load_path": None, "momentum": 0.9, "multiprocessing_distributed": False, "net_from_name": False,
    "optim": "AdamW", "overwrite": True, "rank": 0, "resume": False, "save_dir": "./runs", "save_name": "any", "seed": 0,
    "train_sampler": "RandomSampler", "use_cat": True, "use_pretrain": True, "use_tensorboard": False, "use_wandb": True,
    "weight_decay": 0.0005, "world_size": 1, "crop_ratio": 0.875,
}  # fmt: skip
BIGEARTHNET: dict[str, Any] = {
    **MACHINE, "batch_size": 64, "clip": 0.0, "dataset": "bigearthnet", "ema_m": 0.999, "epoch": 1, "eval_batch_size": 512,
    "img_size": 128, "lr": 1e-4, "multilabel": True, "num_classes": 43, "num_eval_iter": 2000, "num_log_iter": 100,
    "num_train_iter": 64000, "num_workers": 8, "patience_iters": 16000, "pt_data_dir": None, "ulb_loss_ratio": 1.0,
    "uratio": 7, "net": "vit_small_patch16_128", "pretrain_path": f"{WEIGHTS}vit_small_patch16_224_mlp_im_1k_224.pth",
}  # fmt: skip
EUROSAT: dict[str, Any] = {
    **MACHINE, "batch_size": 8, "clip": 0.0, "dataset": "eurosat", "ema_m": 0.999, "epoch": 200, "eval_batch_size": 16,
    "img_size": 32, "lr": 5e-5, "multilabel": False, "num_classes": 10, "num_eval_iter": 2048, "num_log_iter": 256,
    "num_train_iter": 204800, "num_warmup_iter": 5120, "num_workers": 4, "patience_iters": 32768, "uratio": 1,
    "net": "vit_small_patch2_32", "pretrain_path": f"{WEIGHTS}vit_small_patch2_32_mlp_im_1k_32.pth",
}  # fmt: skip
LABELS = {"T": 0.5, "hard_label": True}
ALIGNED = {**LABELS, "dist_align": True, "dist_uniform": False, "ema_p": 0.999, "n_sigma": 2, "num_warmup_iter": 0,
           "per_class": False}  # fmt: skip
CAP = {"clip": 0.05, "disable_torch_grad_focal_loss": True, "ema_t": 0.999, "eps": 1e-8, "gamma_neg": 4, "gamma_pos": 1,
       "neg_per": 1.0, "pos_per": 1.0, "pseudolabel_from_ema": True, "use_asl": True}  # fmt: skip
FREEMATCH = {**LABELS, "ema_p": 0.999, "ent_loss_ratio": 0.001, "sup_warmup_iters": 2000, "use_quantile": False}
METHODS: dict[str, dict[str, Any]] = {
    "cap": CAP,
    "cdmad": {"debias_start_iter": 2000, "p_cutoff": [0.05, 0.95]},
    "defixmatch": {**LABELS, "num_warmup_iter": 0, "p_cutoff": [0.05, 0.7], "ulb_loss_ratio": 0.5},
    "fixmatch": {**LABELS, "num_warmup_iter": 0, "p_cutoff": [0.05, 0.7]},
    "freematch": FREEMATCH,
    "softmatch": ALIGNED,
    "udal": {**ALIGNED, "a_min": 0.5, "k": 2},
}
# config/bigearthnet43 has these instead
EARLIER: dict[str, dict[str, Any]] = {
    "cap": {},
    "cdmad": {"p_cutoff": 0.0},
    "defixmatch": {"p_cutoff": 0.95},
    "fixmatch": {"p_cutoff": 0.95},
    "freematch": {"sup_warmup_iters": 5000},
    "softmatch": {},
    "udal": {"p_cutoff": 0.95},
}
FUSION = {"net": "early_fusion_vit_small_patch16_128", "feat_dim": 384}


def published() -> dict[str, dict[str, Any]]:
    """Path below config/ to the file's keys and values."""
    files: dict[str, dict[str, Any]] = {}
    for method, own in METHODS.items():
        for share in (0.005, 0.01, 0.02, 0.04, 0.08) if method == "fixmatch" else (0.01,):
            plain = {**BIGEARTHNET, **own, "num_labels": share, "algorithm": method}
            student = {"algorithm": f"stssl_{method}", **FUSION, "lambda_d": 1.0, "distill_loss_type": "mse"}
            files[f"bigearthnet/{method}{share}.yaml"] = plain
            files[f"bigearthnet/stssl_{method}{share}.yaml"] = {**plain, **student}
        earlier = {**plain, **EARLIER[method], "num_labels": 100, "pt_data_dir": "bigearthnet_rgb_pt_f16"}
        undistilled = {"algorithm": f"stssl_{method}", **FUSION, "lambda_d": 0.0, "distill_loss_type": "none"}
        files[f"bigearthnet43/{method}.yaml"] = earlier
        files[f"bigearthnet43/extrainfo_{method}.yaml"] = {**earlier, **undistilled}
    del files["bigearthnet43/freematch.yaml"]["ulb_loss_ratio"]
    for share in (0.005, 0.01, 0.02, 0.04, 0.08):
        supervised = {**BIGEARTHNET, **LABELS, "algorithm": "fullysupervised", "ema_m": 0.0, "num_warmup_iter": 0}
        files[f"bigearthnet/sup{share}.yaml"] = {**supervised, "num_labels": share}
    many = {**supervised, **ALIGNED, "dist_uniform": True, "batch_size": 512, "num_labels": 100}
    files["bigearthnet43/supervised.yaml"] = many
    files["bigearthnet43/extrainfo_supervised.yaml"] = {**many, **FUSION, "algorithm": "supervised"}
    for labels in (10, 20, 40, 80):
        plain = {
            **EUROSAT,
            **LABELS,
            "p_cutoff": 0.95,
            "ulb_loss_ratio": 1.0,
            "num_labels": labels,
            "algorithm": "fixmatch",
        }
        student = {"algorithm": "stssl_fixmatch", "net": "early_fusion_vit_small_patch2_32", "feat_dim": 384,
                   "lambda_d": 0.01, "distill_loss_type": "mse", "metadata_file": "eurosat_meta.yaml"}  # fmt: skip
        files[f"eurosat/fixmatch{labels}.yaml"] = plain
        files[f"eurosat/stssl_fixmatch{labels}.yaml"] = {**plain, **student}
        files[f"eurosat/sup{labels}.yaml"] = {**EUROSAT, "ema_m": 0.0, "num_labels": labels, "algorithm": "supervised"}
    return files
