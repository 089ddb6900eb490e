"""The reference project's YAML files: all of them make recipes, and what contradicts itself is named with a remedy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stssl import config as cfg
from stssl.errors import ConfigError
from stssl.reference import config as reference
from stssl.reference.keys import NETS, ReferenceConfig, structure
from stssl.reference.recipe import notes, recipe_data
from stssl.training.recipe import Recipe
from tests.reference.published import BIGEARTHNET, EUROSAT, FUSION, METHODS, published

FILES = published()
STUDENT = {**FUSION, "lambda_d": 1.0, "distill_loss_type": "mse"}


def read(folder: Path, data: dict[str, Any]) -> Any:
    path = folder / "theirs.yaml"
    path.write_text(yaml.safe_dump(data))
    return reference.read(path)


def recipe_of(config: Any) -> Recipe:
    return cfg.validate(Recipe, recipe_data(config), "theirs.yaml")


@pytest.mark.parametrize("name", FILES)
def test_every_published_file_makes_a_recipe(name: str, tmp_path: Path) -> None:
    data = FILES[name]
    config = read(tmp_path, data)
    recipe, said = recipe_of(config), list(notes(config))
    assert recipe.data.shards == f"runs/data/{data['dataset']}" and recipe.data.split.by == "column"
    assert recipe.training.steps == data["num_train_iter"] and recipe.optimizer.lr == data["lr"]
    assert recipe.training.batch_labeled == data["batch_size"] and recipe.training.ema_decay == data["ema_m"]
    assert recipe.training.batch_unlabeled == data["batch_size"] * data["uratio"]
    expected = "plain" if "early" not in data["net"] else "teacher_student"
    assert recipe.framework == ("metadata_input" if "extrainfo_supervised" in name else expected)
    assert recipe.model.image_size == data["img_size"] and recipe.model.pretrained is False
    assert any("patience_iters" in note for note in said) and any("model.pretrained=FILE" in note for note in said)
    assert "parity=reference" in said[-1] and "parity" not in "".join(notes(config, ["parity"]))


@pytest.mark.parametrize(
    "name, base",
    [("bigearthnet/sup0.01.yaml", "bigearthnet_supervised")]
    + [(f"bigearthnet/stssl_{m}0.01.yaml", f"bigearthnet_{m}".removesuffix("_fixmatch")) for m in METHODS]
    + [("eurosat/stssl_fixmatch40.yaml", "eurosat"), ("eurosat/sup40.yaml", "eurosat_supervised")],
)
def test_it_is_the_recipe_that_comes_with_the_project(name: str, base: str, tmp_path: Path) -> None:
    """But for spellings, and what the recipes say that they do otherwise."""
    ours = Recipe.read(Path(__file__).parents[2] / "search_spaces" / "recipes" / f"{base}.yaml").dump()
    theirs = recipe_of(read(tmp_path, FILES[name])).dump()
    a, b = cfg.flatten(ours), cfg.flatten(theirs)
    otherwise = {"encoding.time.period_days", "distillation.loss", "data.bands", "data.split.by"}
    if base.startswith("eurosat"):  # ours: split by blocks
        otherwise |= {key for key in a if key.startswith("data.split")}
    if theirs["framework"] == "plain":  # ours are to be had in all frameworks
        otherwise |= {key for key in {**a, **b} if key.startswith(("framework", "encoding", "distillation"))}
    assert {k: v for k, v in a.items() if k not in otherwise} == {k: v for k, v in b.items() if k not in otherwise}


def test_what_single_keys_become(tmp_path: Path) -> None:
    def made(**changes: Any) -> dict[str, Any]:
        return cfg.flatten(
            recipe_of(read(tmp_path, {**FILES["bigearthnet/stssl_fixmatch0.01.yaml"], **changes})).dump()
        )

    assert made()["algorithm.threshold_positive"] == 0.7 and made(p_cutoff=0.9)["algorithm.threshold"] == 0.9
    assert made(lambda_d=0.0)["distillation.weight"] == 0 == made(distill_loss_type="none")["distillation.weight"]
    assert made(distill_loss_type="cos")["distillation.loss"] == "cosine"
    assert made(no_loc=True)["encoding.location.name"] == "none" and made(no_time=True)["encoding.time.name"] == "none"
    assert made(num_labels=-1)["data.labeled.fraction"] is None and made(num_labels=70)["data.labeled.count"] == 70
    assert made(use_pretrain=False)["model.pretrained"] is False
    assert made(pretrain_path="w.pth")["model.pretrained"] == "w.pth"
    udal = recipe_of(read(tmp_path, FILES["bigearthnet/udal0.01.yaml"])).algorithm
    assert udal.threshold == 0.95 and udal.target == "labeled"  # its default; frequencies whatever dist_uniform says
    soft = {**EUROSAT, "algorithm": "softmatch", "num_labels": 40}
    assert recipe_of(read(tmp_path, soft)).algorithm.alignment == "uniform"
    every = recipe_of(read(tmp_path, {**EUROSAT, "algorithm": "fullysupervised", "num_labels": 40}))
    assert every.data.labeled.count is None and every.algorithm.name == "supervised"
    assert recipe_of(read(tmp_path, {**EUROSAT, "num_labels": 40, "seed": 3})).data.labeled.seed == 3


def test_notes_name_what_had_an_effect_there(tmp_path: Path) -> None:
    data = {
        **BIGEARTHNET,
        "algorithm": "softmatch",
        "amp": True,
        "clip_grad": 1.0,
        "dist_align": False,
        "num_labels": 100,
    }
    said = list(notes(read(tmp_path, data)))
    assert said[0].startswith("ignored: patience_iters 16000 (no early stopping), amp True (")
    assert "clip_grad 1.0" in said[0] and "dist_align" in said[0] and "use_wandb" not in "".join(said)
    assert any("num_labels 100 is a count" in note for note in said)
    quiet = {**data, "patience_iters": None, "amp": False, "clip_grad": 0, "dist_align": True, "use_pretrain": False}
    assert not any("ignored" in note for note in notes(read(tmp_path, quiet)))


def test_the_names_of_nets() -> None:
    assert structure("early_fusion_vit_base_patch16_128") == (True, "base", 16, 128, 0.2)
    assert structure("vit_tiny_patch2_32") == (False, "tiny", 2, 32, 0.1)
    assert all(structure(net).image % structure(net).patch == 0 for net in NETS)


BEN = {**BIGEARTHNET, "algorithm": "fixmatch", "num_labels": 0.01}
EURO = {**EUROSAT, "algorithm": "fixmatch", "num_labels": 40}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({**BEN, "ulb_loss_ration": 1}, "unknown key 'ulb_loss_ration'; did you mean 'ulb_loss_ratio'?"),
    "unknown bookkeeping": ({**BEN, "sav_dir": 1}, "unknown key 'sav_dir'; did you mean 'save_dir'?"),
    "algorithm": ({**BEN, "algorithm": "stssl_fixmach"}, "algorithm: unknown choice 'stssl_fixmach'; did you mean 'stssl_fix"),
    "net": ({**BEN, "net": "wrn_28_2"}, "net: unknown choice 'wrn_28_2'; "),
    "dataset": ({**BEN, "dataset": "cifar10"}, "dataset: unknown choice 'cifar10'; known: bigearthnet, eurosat"),
    "no dataset": ({k: v for k, v in BEN.items() if k != "dataset"}, "dataset: this key is required"),
    "lr": ({**BEN, "lr": 0}, "lr: input should be greater than 0"),
    "truth": ({**BEN, "lr": True}, "lr: input should be a number, not true or false"),
    "classes": ({**EURO, "num_classes": 43}, "num_classes: 43 with dataset eurosat, which has 10; set num_classes: 10"),
    "one label": ({**BEN, "multilabel": False}, "multilabel: false with dataset bigearthnet, .*set multilabel: true"),
    "several": ({**EURO, "multilabel": True}, "multilabel: true with dataset eurosat, .*set multilabel: false"),
    "labels": ({**BEN, "num_labels": 0}, "num_labels: 0; give a fraction below 1, a count, or -1"),
    "part of a label": ({**BEN, "num_labels": 1.5}, "num_labels: 1.5; give a fraction"),
    "uneven": ({**EURO, "num_labels": 25}, "num_labels: 25 with dataset eurosat; give a multiple of its 10 classes"),
    "imbalance": ({**EURO, "lb_imb_ratio": 10}, "lb_imb_ratio: 10"),
    "without labeled": ({**EURO, "include_lb_to_ulb": False}, "include_lb_to_ulb: false; .*set true or remove it"),
    "student, plain net": (
        {**BEN, **STUDENT, "algorithm": "stssl_fixmatch", "net": "vit_small_patch16_128"},
        "net: vit_small_patch16_128 cannot be told .*; set net: early_fusion_vit_small_patch16_128",
    ),
    "plain, fusing net": ({**BEN, **FUSION}, "net: early_.* set algorithm: stssl_fixmatch or net: vit_small_patch16_128"),
    "size": ({**BEN, "img_size": 224}, "img_size: 224, but net vit_small_patch16_128 takes images of 128 px; set img_size"),
    "width": ({**BEN, **STUDENT, "algorithm": "stssl_fixmatch", "feat_dim": 768}, "feat_dim: 768, .*set feat_dim: 384"),
    "no metadata": (
        {**BEN, **STUDENT, "algorithm": "stssl_fixmatch", "no_loc": True, "no_time": True},
        "no_loc and no_time leave algorithm stssl_fixmatch no metadata",
    ),
    "torchvision": ({**BEN, "net_from_name": True}, "net_from_name: true asks for a torchvision network; set it to false"),
    "no weights": ({**BEN, "pretrain_path": ""}, "use_pretrain: true without a pretrain_path"),
    "needed": ({**BEN, "algorithm": "udal"}, "a_min: algorithm udal needs it, .*; add a_min: 0.5"),
    "needed by a student": (
        {**BEN, **FUSION, "algorithm": "stssl_fixmatch"},
        "lambda_d: algorithm stssl_fixmatch needs it, and the reference has no default; add lambda_d: 1.0",
    ),
    "pair": ({**EURO, "p_cutoff": [0.05, 0.7]}, "p_cutoff: .0.05, 0.7. with multilabel: false; one label per image"),
    "pair reversed": ({**BEN, "p_cutoff": [0.7, 0.05]}, "p_cutoff: .0.7, 0.05.; the first must be below the second"),
    "threshold": ({**BEN, "p_cutoff": 1.5}, "p_cutoff: 1.5; a threshold lies within 0 and 1"),
    **{
        f"p_cutoff {wrong}": ({**BEN, "p_cutoff": wrong}, "p_cutoff: input should be a number or a pair of numbers")
        for wrong in (True, [0.1, True], {}, [], [0.1], "high", [0.1, 0.2, 0.3], float("nan"))
    },
    "bias": ({**BEN, **METHODS["cdmad"], "algorithm": "cdmad", "debias_start_iter": 64000}, "debias_start_iter: 64000 is not"),
    "batch": ({**BEN, "uratio": 10000}, "uratio: 10000 times batch_size 64 is more than 65536 images at a time; lower one"),
    "cap": ({**EURO, **METHODS["cap"], "algorithm": "cap"}, "algorithm: cap is only for several labels per image"),
    "per class": ({**EURO, "algorithm": "softmatch", "per_class": True}, "per_class: true with multilabel: false"),
    "quantile": ({**BEN, **METHODS["freematch"], "algorithm": "freematch", "use_quantile": True}, "use_quantile: true with"),
    "warm-up": ({**BEN, **METHODS["freematch"], "algorithm": "freematch", "sup_warmup_iters": 64000}, "sup_warmup_iters"),
    "no cat": ({**BEN, "use_cat": False}, "use_cat: false, which algorithm fixmatch does not implement; set it to true"),
    "evaluations": ({**BEN, "num_eval_iter": 3000}, "num_train_iter: 64000 is not a multiple of num_eval_iter 3000"),
    "epochs": ({**BEN, "epoch": 7}, "num_train_iter: 64000 is not a multiple of epoch 7"),
    "lr warm-up": ({**BEN, "num_warmup_iter": 64000}, "num_warmup_iter: 64000 is not below num_train_iter 64000"),
    "optimizer": ({k: v for k, v in BEN.items() if k != "optim"}, "optim: SGD .the reference's default.*set optim: AdamW"),
    "layers": ({**BEN, "layer_decay": 0.75}, "layer_decay: 0.75; .*set layer_decay: 1.0"),
    "imbalanced algorithm": ({**BEN, "imb_algorithm": "crest"}, "imb_algorithm: crest; none is offered here: remove it"),
}  # fmt: skip


@pytest.mark.parametrize("data, said", FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_is_named_with_a_remedy(data: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, data)
    lines = str(caught.value).splitlines()
    pattern = re.escape(f"{tmp_path / 'theirs.yaml'}: ") + said.replace("?", r"\?")
    assert any(re.match(pattern, line) for line in lines), lines


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_read_makes_a_recipe(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever a key holds, a fault is told by that key, not by the recipe's."""
    start = data.draw(st.sampled_from([FILES[name] for name in sorted(FILES)]))
    numbers = [1e-300, 1e-3, 0.3, 0.999999, 1, 1.5, 2, 10, 10.1, 20, 100, 999, 1000, 1e5, 2**31, 10**12, 1e300, 0, -1]
    key = data.draw(st.sampled_from(sorted(ReferenceConfig.model_fields)))
    value = data.draw(st.sampled_from([*numbers, True, None, [1, 2], "x"]))
    try:
        config = read(tmp_path_factory.getbasetemp(), {**start, key: value})
    except ConfigError as error:
        assert key in str(error)
        return
    recipe_of(config)


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, {**BEN, "img_size": 32, "multilabel": False, "epoch": 7})
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "multilabel",
        "img_size",
        "num_train_iter",
    ]
