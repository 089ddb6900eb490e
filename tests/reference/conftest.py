"""Checkpoints in the reference project's layout, with the weights that were recorded from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

Save = Callable[..., Path]


def fused(recorded: dict[str, Any]) -> dict[str, Tensor]:
    """Teacher and student, with the backbones' own heads, which are never trained or used."""
    state = {key[2:]: torch.from_numpy(array) for key, array in recorded.items() if key.startswith("p:")}
    torch.manual_seed(1)
    for part in ("joint_backbone", "student_backbone"):
        state |= {f"{part}.head.weight": torch.randn(7, 48), f"{part}.head.bias": torch.randn(7)}
    return state


def plain(recorded: dict[str, Any]) -> dict[str, Tensor]:
    """The plain network with the student's weights."""
    start, state = "student_backbone.", fused(recorded)
    own = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start) and "metainfo" not in k}
    return own | {f"head.{part}": state[f"student_head.{part}"] for part in ("weight", "bias")}


@pytest.fixture(scope="session")
def states(golden: Callable[[str], dict[str, Any]]) -> dict[str, dict[str, Tensor]]:
    recorded = golden("early_fusion_vit")
    return {"fused": fused(recorded), "plain": plain(recorded)}


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes `model_best.pth` as the reference does, the average beside other weights: scores in it are numpy's numbers."""

    def write(state: dict[str, Tensor], name: str = "model_best.pth", parallel: bool = False, **changes: Any) -> Path:
        network = nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        with torch.enable_grad():
            network(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        named = {f"module.{key}" if parallel else key: value for key, value in state.items()}
        file = {
            "model": {key: value + 1 for key, value in named.items()},
            "ema_model": named,
            "optimizer": optimizer.state_dict(),
            "loss_scaler": {},
            "it": 2001,
            "epoch": 1,
            "best_it": 2000,
            "best_eval_ap": np.float64(0.5),
            "scheduler": scheduler.state_dict(),
            "p_model": torch.rand(7),
            **changes,
        }
        torch.save({key: value for key, value in file.items() if value is not None}, tmp_path / name)
        return tmp_path / name

    return write
