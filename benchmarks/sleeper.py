"""Trials that train nothing; in a module of its own, so that their workers do not load PyTorch."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ray import tune

from stssl.search.pulse import Heart


class Bare(tune.Trainable):
    """Reports five times, and does nothing."""

    def setup(self, config: dict[str, Any]) -> None:
        self.count = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.count = 0
        return True

    def step(self) -> dict[str, Any]:
        self.count += 1
        result = {"step": self.count, "seconds": 0.0, "train": {}, "validation": {"accuracy": 0.5}}
        return {"outcome": json.dumps({"result": result}), "done": self.count == 5}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing was kept."""


class Driven(Bare):
    """The same where the study says when a trial is over."""

    def step(self) -> dict[str, Any]:
        return {**super().step(), "done": False}


class Sleeper(Driven):
    """Sleeps before each report, and has a heart as a real trial has."""

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        self.heart = Heart(config["listener"], config["hang_minutes"])
        self.heart.work_on(config["trial"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.heart.work_on(new_config["trial"])
        return super().reset_config(new_config)

    def step(self) -> dict[str, Any]:
        time.sleep(float(os.environ["STSSL_SLEEP"]))
        return super().step()

    def cleanup(self) -> None:
        self.heart.stop()
