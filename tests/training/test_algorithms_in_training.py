"""What the trainer does for an algorithm: views, rows, the white image, the warm-up, parity."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stssl.algorithms.base import Logits, Seen, Setting
from stssl.config import validate
from stssl.errors import ConfigError
from stssl.training.parts import algorithm_of
from stssl.training.recipe import Recipe
from stssl.training.trainer import Trainer

Make = Callable[..., Trainer]


def watch(trainer: Trainer) -> tuple[list[Seen], list[tuple[str, Logits]]]:
    """Notes what the algorithm is shown from now on."""
    shown: list[Seen] = []
    said: list[tuple[str, Logits]] = []
    believe, losses = trainer.algorithm.believe, trainer.algorithm.losses

    def noting_believe(seen: Seen, step: int) -> Any:
        shown.append(seen)
        return believe(seen, step)

    def noting_losses(logits: Logits, y: Any, targets: Any, role: Any, step: int) -> Any:
        said.append((role, logits))
        return losses(logits, y, targets, role, step)

    trainer.algorithm.believe = noting_believe  # type: ignore[method-assign]
    trainer.algorithm.losses = noting_losses  # type: ignore[method-assign]
    return shown, said


def test_only_who_asks_gets_strong_views_of_labeled_images(make_trainer: Make) -> None:
    for name, asks in (("defixmatch", True), ("fixmatch", False)):
        trainer = make_trainer("single", {"algorithm": name})
        _, said = watch(trainer)
        trainer.train(1)
        assert [role for role, _ in said] == ["teacher", "student"]
        for _, logits in said:
            assert logits.labeled.shape == (6, 3) and logits.strong is not None and logits.strong.shape == (10, 3)
            assert (logits.labeled_strong is not None) == asks
            if logits.labeled_strong is not None:
                assert logits.labeled_strong.shape == (6, 3)
                assert not torch.allclose(logits.labeled_strong, logits.labeled, atol=1e-4)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_members_are_positions_in_the_pools(task: str, make_trainer: Make) -> None:
    trainer = make_trainer(task, {"training.steps": 12})
    shown, _ = watch(trainer)
    trainer.train(12)
    split, labels = trainer.dataset.split, trainer.dataset.store.labels
    everyone = torch.cat([seen.rows for seen in shown])
    assert everyone.unique().tolist() == list(range(len(split.unlabeled)))
    for seen in shown:
        rows = torch.as_tensor(split.labeled)[seen.labeled_rows]
        assert torch.equal(labels[rows], seen.y) and not seen.weak.requires_grad and not seen.labeled.requires_grad


def test_the_setting_is_the_datas(make_trainer: Make) -> None:
    trainer = make_trainer("multi", {"framework": "plain", "training.steps": 8})
    setting: Setting = trainer.algorithm.setting
    labels = trainer.dataset.store.labels[torch.as_tensor(trainer.dataset.split.labeled)]
    known = labels >= 0
    assert torch.equal(setting.frequencies, ((labels == 1).sum(0) / known.sum(0).double()))
    assert (setting.labeled, setting.unlabeled) == (len(labels), len(trainer.dataset.split.unlabeled))
    assert (setting.task, setting.classes, setting.steps) == ("multi", 3, 8)
    assert (setting.believer, setting.parity) == ("student", False)


@pytest.mark.parametrize("framework", ["plain", "metadata_input", "teacher_student"])
def test_the_white_image_is_seen_without_noise_place_and_date(framework: str, make_trainer: Make) -> None:
    noisy = {"model.drop_path_rate": 0.9, "model.depth": 3, "encoding.dropout": 0.5}
    trainer = make_trainer("single", {"algorithm": "cdmad", "framework": framework, **noisy})
    before = {key: value.clone() for key, value in trainer.networks.state_dict().items()}
    shown, _ = watch(trainer)
    trainer.train(1)
    trainer.networks.load_state_dict(before)
    role = trainer.networks.roles[0]
    white = torch.full((1, 3, 16, 16), 2.0)
    with torch.no_grad():
        expected = trainer.networks.eval()(role, white, torch.full((1, 2), torch.nan), torch.full((1,), torch.nan))
    assert shown[0].blank is not None
    torch.testing.assert_close(shown[0].blank, expected.logits)


def test_only_labels_teach_while_freematch_warms_up(make_trainer: Make) -> None:
    trainer = make_trainer("single", {"algorithm": {"name": "freematch", "warmup_steps": 2}})
    warm = trainer.train(2)
    assert "student/supervised" in warm and "mask_rate" in warm
    assert not {"student/unsupervised", "student/distillation", "student/fairness"} & warm.keys()
    after = trainer.train(4)
    assert {"student/unsupervised", "student/distillation", "student/fairness"} < after.keys()


def test_an_endless_warm_up_is_refused(make_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(ConfigError, match=r"algorithm.warmup_steps 6 must be below training.steps 6"):
        make_recipe({"algorithm": {"name": "freematch", "warmup_steps": 6}})


def test_more_folds_than_labels_are_refused(make_trainer: Make) -> None:
    with pytest.raises(ConfigError, match=r"algorithm.folds: 20 folds for 14 labeled images; lower it, or use 0"):
        make_trainer("single", {"algorithm": {"name": "metric_threshold", "folds": 20}})


def test_cap_is_refused_for_one_label_before_anything_is_trained(make_trainer: Make) -> None:
    with pytest.raises(ConfigError, match="cap is defined for data with several labels per image"):
        make_trainer("single", {"algorithm": "cap"})


def test_parity(make_trainer: Make) -> None:
    """All that `parity: reference` changes outside the algorithms."""
    runs = {
        (parity, seed): make_trainer("single", {"algorithm": "cdmad", "parity": parity, "seed": seed})
        for parity in ("corrected", "reference")
        for seed in (0, 1)
    }
    order = {key: trainer.batches.draw(0)[0].member.tolist() for key, trainer in runs.items()}
    assert order["corrected", 0] != order["corrected", 1] and order["reference", 0] == order["reference", 1]
    for (parity, _), trainer in runs.items():
        published = parity == "reference"
        decayed, rest = trainer.optimizer.param_groups
        tokens = {id(p) for name, p in trainer.networks.named_parameters() if name.endswith(("cls_token", "pos_embed"))}
        assert len(tokens) == 4  # two networks
        assert tokens <= {id(p) for p in (decayed if published else rest)["params"]}
        assert trainer.algorithm.setting.parity is published
    white = [runs[parity, 0].correction() for parity in ("corrected", "reference")]
    assert not torch.allclose(*white)  # one sees white, the other what the published code takes for it


def test_an_algorithm_that_no_data_fits_is_named(make_recipe: Callable[..., Recipe], make_trainer: Make) -> None:
    dataset = make_trainer("single").dataset
    with pytest.raises(ConfigError, match=r"algorithm.per_class: only for data with several labels"):
        algorithm_of(make_recipe({"algorithm": {"name": "softmatch", "per_class": True}}), dataset)


def test_settings_of_another_algorithm_are_named() -> None:
    with pytest.raises(ConfigError, match="algorithm: unknown key 'threshold'"):
        validate(Recipe, {"data": {"shards": "x"}, "algorithm": {"name": "softmatch", "threshold": 0.9}}, "r.yaml")
