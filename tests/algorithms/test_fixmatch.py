"""FixMatch's thresholds and settings."""

import pytest
import torch

from stssl.algorithms.base import Logits, Setting
from stssl.algorithms.fixmatch import FixMatch, FixMatchConfig
from stssl.config import validate
from stssl.errors import ConfigError
from tests.algorithms.asking import seen


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).logit()


def test_thresholds_include_equality() -> None:
    single = FixMatch(FixMatchConfig(threshold=0.5), Setting("single", 2))
    assert single.believe(seen(torch.zeros(1, 2)), 0).weights.item() == 1  # p = 0.5 exactly
    multi = FixMatch(FixMatchConfig(threshold_negative=0.25, threshold_positive=0.5), Setting("multi", 3))
    weights = multi.believe(seen(torch.tensor([[0.0, -0.01, -2.0]])), 0).weights
    assert weights.tolist() == [[1, 0, 1]]


def test_a_pair_of_thresholds_is_not_symmetric() -> None:
    multi = FixMatch(FixMatchConfig(threshold_negative=0.05, threshold_positive=0.7), Setting("multi", 5))
    targets = multi.believe(seen(logits_of(0.04, 0.06, 0.6, 0.71, 0.9)), 0)
    assert targets.weights.tolist() == [[1, 0, 0, 1, 1]]
    assert targets.labels.tolist() == [[0, 0, 1, 1, 1]]


def test_one_threshold_holds_on_both_sides() -> None:
    multi = FixMatch(FixMatchConfig(threshold=0.9), Setting("multi", 4))
    assert multi.believe(seen(logits_of(0.05, 0.15, 0.85, 0.95)), 0).weights.tolist() == [[1, 0, 0, 1]]


@pytest.mark.parametrize("task", ["single", "multi"])
def test_temperature_sharpens_soft_labels_but_not_the_mask(task: str) -> None:
    weak = torch.tensor([[1.0, 0.5, -1.0], [4.0, -4.0, -4.0]])
    cold, warm = (
        FixMatch(FixMatchConfig(threshold=0.8, hard_labels=False, temperature=t), Setting(task, 3)).believe(
            seen(weak), 0
        )
        for t in (0.25, 1.0)
    )
    assert torch.equal(cold.weights, warm.weights)
    assert (cold.labels.amax(1) > warm.labels.amax(1)).all()
    expected = weak.softmax(1) if task == "single" else weak.sigmoid()
    torch.testing.assert_close(warm.labels, expected)


def test_unlabeled_weight_scales_only_the_unsupervised_loss() -> None:
    logits, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    one, three = (FixMatch(FixMatchConfig(threshold=0, unlabeled_weight=w), Setting("single", 3)) for w in (1, 3))
    targets = one.believe(seen(logits), 0)
    first, third = (a.losses(Logits(logits, logits), y, targets, "teacher", 0) for a in (one, three))
    torch.testing.assert_close(third["unsupervised"], 3 * first["unsupervised"])
    assert torch.equal(third["supervised"], first["supervised"])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"threshold_negative": 0.1}, "go together; give both or neither"),
        ({"threshold_positive": 0.9}, "go together; give both or neither"),
        ({"threshold_negative": 0.7, "threshold_positive": 0.7}, "threshold_negative 0.7 must be below"),
        ({"threshold": 1.5}, "threshold: .*less than or equal to 1.*1.5"),
        ({"temperature": 0}, "temperature: .*greater than 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(FixMatchConfig, settings, "r.yaml")


def test_a_pair_of_thresholds_needs_several_labels() -> None:
    config = FixMatchConfig(threshold_negative=0.05, threshold_positive=0.7)
    with pytest.raises(ConfigError, match=r"algorithm.threshold_positive: only for .* use algorithm.threshold$"):
        FixMatch(config, Setting("single", 3))
