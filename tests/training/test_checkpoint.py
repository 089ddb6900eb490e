"""Checkpoints: whole or absent, never run as code, never mistaken for another recipe's."""

import pickle
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stssl.errors import CheckpointError
from stssl.training import checkpoint
from stssl.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]


@pytest.fixture(scope="module")
def saved(make_trainer: MakeTrainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real checkpoint; not to be changed."""
    trainer = make_trainer()
    trainer.run_interval()
    path = tmp_path_factory.mktemp("saved") / "checkpoint.pt"
    checkpoint.save(path, trainer.state_dict())
    return path


def test_round_trip(saved: Path, make_trainer: MakeTrainer, assert_same: Callable[..., None]) -> None:
    trainer = make_trainer()
    trainer.load_state_dict(checkpoint.load(saved))
    state = checkpoint.load(saved)
    assert state.pop("format") == checkpoint.FORMAT
    assert_same(trainer.state_dict(), state)
    assert [entry["step"] for entry in trainer.history] == [2]


@pytest.mark.parametrize(
    "overrides, shown",
    [
        ({"optimizer.lr": 0.5}, r"\(optimizer.lr: 0.003 there, 0.5 here\)"),
        ({"seed": 3}, r"\(seed: 0 there, 3 here\)"),
        ({"seed": 3, "data.shards": "moved"}, r"\(seed: 0 there, 3 here\)"),
        ({"data.labeled.count": 9}, r"\(data.labeled.count: 14 there, 9 here\)"),
        ({"algorithm.name": "supervised"}, r"algorithm.name: fixmatch there, supervised here"),
        ({"framework": "plain", "seed": 1, "optimizer.lr": 1, "model.depth": 2}, r"; .*; .* and 1 more\)"),
    ],
)
def test_another_recipe(overrides: dict[str, Any], shown: str, saved: Path, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("single", overrides)
    with pytest.raises(CheckpointError, match=r"run.pt: a checkpoint of another recipe " + ".*" + shown):
        trainer.load_state_dict(checkpoint.load(saved), "run.pt")
    assert trainer.step == 0


def test_the_shards_may_have_moved(saved: Path, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("single", {"data.shards": "elsewhere"})
    trainer.load_state_dict(checkpoint.load(saved))
    assert trainer.step == 2


def test_other_data(saved: Path, make_trainer: MakeTrainer, whole_stores: dict[str, Any]) -> None:
    trainer = make_trainer("single", store=whole_stores["single"])
    with pytest.raises(
        CheckpointError, match=r"run.pt: trained on other data \(fingerprint [0-9a-f]{12}, .*nowhere have"
    ):
        trainer.load_state_dict(checkpoint.load(saved), "run.pt")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none.pt: no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def damage(kind: str, whole: bytes, path: Path) -> None:
    if kind == "a folder":
        path.mkdir()
    elif kind.startswith("cut at"):
        path.write_bytes(whole[: int(len(whole) * float(kind.split()[-1]))])
    elif kind == "the middle is gone":
        path.write_bytes(whole[: len(whole) // 3] + whole[len(whole) // 2 :])
    elif kind == "zeros":
        path.write_bytes(bytes(len(whole)))
    elif kind == "text":
        path.write_text("this is no checkpoint\n")
    elif kind == "other weights":
        torch.save({"weight": torch.zeros(3)}, path)
    elif kind == "a tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "another format":
        torch.save({"format": checkpoint.FORMAT + 1, "step": 3}, path)
    elif kind == "a bomb":
        torch.save({"format": checkpoint.FORMAT, "step": Bomb(path.with_name("executed"))}, path)
    elif kind == "a plain pickle bomb":
        path.write_bytes(pickle.dumps(Bomb(path.with_name("executed")), protocol=2))


KINDS = (
    *(f"cut at {share}" for share in (0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.9999)),
    "the middle is gone",
    "zeros",
    "text",
    "other weights",
    "a tensor",
    "another format",
    "a bomb",
    "a plain pickle bomb",
    "a folder",
)


@pytest.mark.parametrize("kind", KINDS)
def test_not_a_whole_checkpoint(kind: str, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    damage(kind, saved.read_bytes(), path)
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: .*delete it to start this training anew$"):
        checkpoint.load(path)
    assert not (tmp_path / "executed").exists()


def test_a_flipped_bit_in_a_tensor_is_noticed(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    weights = checkpoint.load(saved)["networks"]["student.backbone.head.weight"].numpy().tobytes()
    place = whole.index(weights)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(CheckpointError, match=r"damaged, .* fails its check sum"):
        checkpoint.load(path)


def test_the_bombs_are_real(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    damage("a bomb", b"", tmp_path / "c.pt")
    torch.load(tmp_path / "c.pt", weights_only=False)
    assert (tmp_path / "executed").exists()


def test_random_bytes_are_never_more_than_a_checkpoint_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "c.pt"
    for number in range(300):
        start = b"\x80\x02" if number % 2 else b""  # half of them begin as a pickle does
        path.write_bytes(start + random.bytes(int(random.integers(0, 200))))
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(saved.read_bytes())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # torch's own writer would say RuntimeError
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save(path, checkpoint.load(saved))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == saved.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_state_of_another_version_is_refused(saved: Path, make_trainer: MakeTrainer) -> None:
    state = checkpoint.load(saved)
    for key in ("networks", "ema", "algorithm", "optimizer", "step", "history"):
        with pytest.raises(CheckpointError, match=f"run.pt: .*'{key}'"):
            make_trainer().load_state_dict({k: v for k, v in state.items() if k != key}, "run.pt")
    layer = "student.backbone.norm.weight"
    networks = {k: v for k, v in state["networks"].items() if k != layer}
    with pytest.raises(CheckpointError, match=f"run.pt: .*{layer}"):
        make_trainer().load_state_dict({**state, "networks": networks}, "run.pt")
