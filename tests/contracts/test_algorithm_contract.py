"""What every algorithm promises, alone and in a real training."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stssl import plugins
from stssl.algorithms.base import Algorithm, Logits, Seen, Setting, Targets
from stssl.data.schema import Task
from stssl.errors import ConfigError
from stssl.training.trainer import Trainer


def cases() -> dict[str, tuple[type[Algorithm], Any]]:
    """Every algorithm with its defaults, and with each of its switches the other way round."""
    found: dict[str, tuple[type[Algorithm], Any]] = {}
    for name, plugin in plugins.find("stssl.algorithms", Algorithm).items():
        default = plugin.Config()
        found[name] = (plugin, default)
        for key, value in default:
            if isinstance(value, bool):
                found[f"{name} {key}={not value}"] = (plugin, plugin.Config(**{key: not value}))
    return found


ALGORITHMS = cases()
BELIEVERS = [name for name, (plugin, _) in ALGORITHMS.items() if plugin.uses_unlabeled]
CLASSES, LABELED, UNLABELED = 5, 8, 24  # a batch
FREQUENCIES = {
    "single": torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0], dtype=torch.float64),  # one class has no label
    "multi": torch.tensor([0.7, 0.4, 0.2, 0.1, 0.0], dtype=torch.float64),
}
both_tasks = pytest.mark.parametrize("task", ["single", "multi"])


def make(name: str, task: Task, order: list[int] | None = None) -> Algorithm:
    plugin, config = ALGORITHMS[name]
    order = order or list(range(CLASSES))
    try:
        return plugin(config, Setting(task, CLASSES, FREQUENCIES[task][order], 2 * LABELED, 2 * UNLABELED, 10))
    except ConfigError as error:
        assert "algorithm" in str(error) and len(str(error)) > 30  # where, and why
        pytest.skip(str(error))


def draw(task: Task, seed: int) -> dict[str, Tensor]:
    """Logits as a half-trained network makes them: most classes unlikely, some images sure."""
    random = torch.Generator().manual_seed(seed)

    def logits(rows: int) -> Tensor:
        return 4 * torch.randn(rows, CLASSES, generator=random) - 2

    if task == "single":
        y = torch.randint(-1, CLASSES, (LABELED,), generator=random)
    else:
        y = torch.randint(-1, 2, (LABELED, CLASSES), generator=random).float()
    names = {"labeled": LABELED, "labeled_strong": LABELED, "weak": UNLABELED, "strong": UNLABELED, "blank": 1}
    drawn = {name: logits(rows) for name, rows in names.items()} | {"y": y}
    # the second half of the labeled pool: whole folds of it, so that resting ones are among them
    drawn["labeled_rows"] = torch.arange(LABELED) + LABELED
    drawn["rows"] = torch.randperm(2 * UNLABELED, generator=random)[:UNLABELED]
    return drawn


def losses_of(
    algorithm: Algorithm, data: dict[str, Tensor], targets: Targets | None, role: str = "teacher", step: int = 0
) -> dict[str, Tensor]:
    strong = data["strong"] if targets else None
    labeled_strong = data["labeled_strong"] if algorithm.uses_labeled_strong else None
    return algorithm.losses(Logits(data["labeled"], strong, labeled_strong), data["y"], targets, role, step)


def run(algorithm: Algorithm, data: dict[str, Tensor], step: int = 0) -> tuple[Targets | None, dict[str, Tensor]]:
    targets = None
    if algorithm.uses_unlabeled:
        blank = data["blank"] if algorithm.uses_blank else None
        labeled = data["labeled"].detach()
        seen = Seen(data["weak"], labeled, data["y"], data["rows"], data["labeled_rows"], blank)
        targets = algorithm.believe(seen, step)
    return targets, losses_of(algorithm, data, targets, step=step)


@both_tasks
@pytest.mark.parametrize("name", ALGORITHMS)
def test_losses_are_finite_named_scalars_with_finite_gradients(name: str, task: Task) -> None:
    algorithm = make(name, task)
    for step in range(3):
        data = draw(task, step)
        for key in ("labeled", "strong"):
            data[key].requires_grad_()
        _, losses = run(algorithm, data, step)
        assert "supervised" in losses
        assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        assert data["labeled"].grad.isfinite().all() and data["labeled"].grad.abs().sum() > 0
        assert data["strong"].grad is None or data["strong"].grad.isfinite().all()


@both_tasks
@pytest.mark.parametrize("name", BELIEVERS)
def test_targets(name: str, task: Task) -> None:
    algorithm = make(name, task)
    data = draw(task, 0)
    data["weak"].requires_grad_()
    targets, _ = run(algorithm, data)
    assert not targets.labels.requires_grad and not targets.weights.requires_grad
    assert (targets.weights >= 0).all() and (targets.weights <= 1).all()
    whole = (UNLABELED, CLASSES)
    assert targets.weights.shape == (whole[:1] if task == "single" else whole)
    if targets.labels.dtype == torch.int64:
        assert task == "single" and targets.labels.shape == whole[:1]
        assert targets.labels.min() >= 0 and targets.labels.max() < CLASSES
    else:
        assert targets.labels.shape == whole and (targets.labels >= 0).all() and (targets.labels <= 1).all()


@both_tasks
@pytest.mark.parametrize("name", BELIEVERS)
def test_targets_depend_on_labeled_images_where_the_algorithm_says_so(name: str, task: Task) -> None:
    """Else the trainer need not ask the network that makes the targets about them."""
    results = []
    for sign in (1, -1):
        algorithm = make(name, task)
        for step in range(6):
            data = draw(task, step)
            data["labeled"] *= sign
            targets, _ = run(algorithm, data, step)
        results.append(torch.cat([x.float().flatten() for x in (targets.weights, *algorithm.state_dict().values())]))
        if targets.labeled is not None:
            results[-1] = torch.cat([results[-1], targets.labeled.labels.float().flatten()])
    assert torch.equal(*results) != algorithm.uses_labeled


@both_tasks
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_same_code_serves_both_roles(name: str, task: Task) -> None:
    first, second, data = make(name, task), make(name, task), draw(task, 0)
    targets, _ = run(first, data)
    run(second, data)
    teacher = losses_of(first, data, targets, "teacher")
    student = losses_of(second, data, targets, "student")
    assert teacher.keys() == student.keys()
    assert all(value.isfinite() for value in student.values())


@both_tasks
@pytest.mark.parametrize("name", ALGORITHMS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(CLASSES)))
def test_the_order_of_classes_means_nothing(name: str, task: Task, seed: int, order: list[int]) -> None:
    plain, shuffled = make(name, task), make(name, task, order)
    where = torch.tensor(order).argsort()  # where[k]: the new number of class k
    for step in range(2):  # the second step uses the state that the first one left
        data = draw(task, seed + step)
        other = {key: tensor[:, order] if tensor.ndim == 2 else tensor for key, tensor in data.items()}
        if task == "single":
            other["y"] = torch.where(data["y"] >= 0, where[data["y"].clamp(min=0)], -1)
        targets, losses = run(plain, data, step)
        theirs, their_losses = run(shuffled, other, step)
        for key, loss in losses.items():
            torch.testing.assert_close(their_losses[key], loss, rtol=1e-4, atol=1e-5, msg=f"{key} at step {step}")
        if targets is None or theirs is None:
            continue
        if targets.labels.ndim == 1:
            assert torch.equal(theirs.labels, where[targets.labels])
        else:
            torch.testing.assert_close(theirs.labels, targets.labels[:, order], rtol=1e-4, atol=1e-5)
        weights = targets.weights if task == "single" else targets.weights[:, order]
        torch.testing.assert_close(theirs.weights, weights, rtol=1e-4, atol=1e-5)


@both_tasks
@pytest.mark.parametrize("name", ALGORITHMS)
def test_unknown_labels_never_count(name: str, task: Task) -> None:
    results = []
    for scale in (1, -50):
        algorithm, data = make(name, task), draw(task, 1)
        unknown = data["y"] < 0
        assert unknown.any() and not unknown.all()
        data["labeled"][unknown] *= scale
        data["labeled"].requires_grad_()
        loss = losses_of(algorithm, data, None)["supervised"]
        loss.backward()
        assert (data["labeled"].grad[unknown] == 0).all()
        results.append(loss.detach())
    assert torch.equal(*results)


@both_tasks
@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_known_gives_zero_not_nan(name: str, task: Task) -> None:
    algorithm, data = make(name, task), draw(task, 1)
    data["labeled"].requires_grad_()
    data["y"] = torch.full_like(data["y"], -1)
    loss = losses_of(algorithm, data, None)["supervised"]
    loss.backward()
    assert loss == 0 and (data["labeled"].grad == 0).all()


@both_tasks
@pytest.mark.parametrize("name", ALGORITHMS)
def test_half_precision_logits(name: str, task: Task) -> None:
    algorithm, data = make(name, task), draw(task, 2)
    logits = {key for key, tensor in data.items() if tensor.ndim == 2 and key != "y"}
    half = {key: tensor.bfloat16() if key in logits else tensor for key, tensor in data.items()}
    whole = {key: tensor.float() if key in logits else tensor for key, tensor in half.items()}
    for key in ("labeled", "strong"):
        half[key].requires_grad_()
    _, losses = run(algorithm, half)
    _, expected = run(make(name, task), whole)
    for key, loss in losses.items():  # computed in float32 from what half precision left of the logits
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[key])
    sum(losses.values()).backward()
    assert half["labeled"].grad.isfinite().all()


@both_tasks
@pytest.mark.parametrize("name", ALGORITHMS)
def test_state_dict_round_trip(name: str, task: Task) -> None:
    first, second = make(name, task), make(name, task)
    for step in range(3):
        run(first, draw(task, step), step)
    second.load_state_dict(first.state_dict())
    for step in (3, 4):
        (a, losses_a), (b, losses_b) = run(first, draw(task, step), step), run(second, draw(task, step), step)
        assert all(torch.equal(losses_a[key], losses_b[key]) for key in losses_a)
        assert a is None or (torch.equal(a.labels, b.labels) and torch.equal(a.weights, b.weights))


@both_tasks
@pytest.mark.parametrize("framework", ["plain", "metadata_input", "teacher_student"])
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if " " not in name])  # the switches are all inside
def test_two_steps_of_a_real_training(
    name: str, framework: str, task: Task, make_trainer: Callable[..., Trainer]
) -> None:
    overrides: dict[str, Any] = {"algorithm": ALGORITHMS[name][1].model_dump(), "framework": framework}
    try:
        trainer = make_trainer(task, overrides)
    except ConfigError as error:
        assert "algorithm" in str(error)
        pytest.skip(str(error))
    before = {key: tensor.clone() for key, tensor in trainer.networks.state_dict().items()}
    losses = trainer.train(2)
    assert all(math.isfinite(value) for value in losses.values())
    assert {f"{role}/supervised" for role in trainer.networks.roles} < losses.keys()
    assert ("mask_rate" in losses) == trainer.algorithm.uses_unlabeled
    assert ("student/distillation" in losses) == (framework == "teacher_student")
    for key, tensor in trainer.networks.state_dict().items():
        assert tensor.isfinite().all(), key
    moved = {
        key.split(".")[0]
        for key, tensor in trainer.networks.state_dict().items()
        if not torch.equal(tensor, before[key])
    }
    assert moved == set(trainer.networks.roles)
    assert math.isfinite(trainer.evaluate()["loss"])
