"""A recipe in training, as Ray Tune sees it: a class Trainable around the Trainer, its process reused."""

from __future__ import annotations

import gc
import json
import os
import socket
import traceback
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from stssl.data.dataset import Dataset
from stssl.errors import CheckpointError, DataError
from stssl.search import cluster, trial_folder
from stssl.search.pulse import Heart
from stssl.search.run_folder import MANIFEST
from stssl.search.trial_folder import ERROR, FAULT, HANG
from stssl.search.watchdog import Watchdog
from stssl.storage import PATIENCE_SECONDS, Folder
from stssl.training.faults import explain
from stssl.training.recipe import Recipe
from stssl.training.team import Leader, team_for
from stssl.training.trainer import Trainer

CONTEXT_BYTES = 600 << 20  # what a process takes of a GPU before PyTorch has taken anything; an estimate
LEAK_BYTES = 2 << 30  # a worker that has kept so much more than after its first trial leaks, and is retired


class RecipeTrial(tune.Trainable):
    """One `step()` trains one evaluation interval, evaluates, writes the checkpoint and reports.

    The checkpoint lies in the run folder and holds all results of the trial. So a trial that is started again, after it
    was paused, after a dead worker or by a new driver, goes on where the checkpoint is, and first hands over what the
    ledger has not heard of yet. A fault of the trial itself is a report too: the worker lives on for the next trial.
    Reports travel as JSON, because Ray flattens nested results.
    """

    def setup(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(max(1, int(config["cpus"])))
        self.team: Leader | None = None
        self.node = ray.get_runtime_context().get_node_id()
        self.memory: int | None = None  # after the first trial
        self.sound = False  # the node is known to see the run folder and the right shards
        self.spent = False  # no trial is to begin in this process any more
        self.heart = Heart(config["listener"], config["hang_minutes"])
        share = float(config["gpus"])
        # Ray counts shares of a GPU, and leaves it to us to keep to them
        if torch.cuda.is_available() and 0 < share < 1:
            torch.cuda.set_per_process_memory_fraction(memory_share(share, torch.cuda.mem_get_info()[1]))
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial."""
        self.watchdog.close()
        del self.trainer  # whose memory is not counted
        gc.collect()
        now = resident_bytes()
        self.spent = self.spent or (self.memory is not None and now - self.memory > LEAK_BYTES)
        self.memory = self.memory or now
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self.run_folder = Folder(config["run"], PATIENCE_SECONDS)
        self.folder = trial_folder.trial_folder(self.run_folder, config["trial"])
        self.heart.work_on(config["trial"])
        self.reported, self.holdout = config["reported"], config["holdout"]
        self.watchdog = Watchdog(self.folder, HANG, 60 * config["hang_minutes"])
        self.trainer: Trainer | None = None
        self.failure: dict[str, str] | None = None
        if self.spent:
            return  # see step
        try:
            with self.watchdog:
                self.trainer = self._make_trainer(config)
        except Exception as error:
            self.failure = self._explain(error)

    def _make_trainer(self, config: dict[str, Any]) -> Trainer:
        recipe = Recipe.model_validate(config["recipe"])
        dataset = Dataset.open(recipe.data)
        if not self.sound:
            self._check_node(recipe.data.shards, dataset)
            self.sound = True
        device = "cuda" if torch.cuda.is_available() and config["gpus"] > 0 else "cpu"
        self.team = self.team or team_for(config["gpus"], config["cpus"], self._last_words)
        trainer = Trainer(recipe, dataset, device, self.team)
        try:
            state = trial_folder.load(self.folder, device)
            if state is not None:
                trainer.load_state_dict(state, self.folder.show(trial_folder.CHECKPOINT))
        except CheckpointError:
            # Damaged on disk: a recipe is deterministic, so training it again gives the same results.
            trial_folder.put_aside(self.folder)
            trainer = Trainer(recipe, dataset, device, self.team)
        return trainer

    def _check_node(self, shards: str, dataset: Dataset) -> None:
        """That this node sees what the driver sees: it may have come after the preflight."""
        host = socket.gethostname()
        try:
            expected = json.loads(self.run_folder.read(MANIFEST))["data"]["fingerprint"]
        except FileNotFoundError:
            raise DataError(
                f"{host}: {self.run_folder} is not there; --out must be a folder that all nodes share"
            ) from None
        found = dataset.store.card.fingerprint
        if found != expected:
            raise DataError(
                f"{host}: the shards at {shards} are others than the driver's (fingerprint {found[:12]}, not {expected[:12]})"
            )

    def step(self) -> dict[str, Any]:
        if self.failure is None and (self.spent or self.node in cluster.draining()):
            self.heart.leave()
        if self.failure is None and self.trainer is not None:
            try:
                with self.watchdog:
                    result = self._next_result(self.trainer)
                self.reported = result["step"]
                return {"outcome": json.dumps({"result": result}), **result["validation"]}
            except Exception as error:
                self.failure = self._explain(error)
        self.trainer = None  # let go of its memory
        return {"outcome": json.dumps({"failure": self.failure})}

    def _next_result(self, trainer: Trainer) -> dict[str, Any]:
        splits = ("validation", "holdout") if self.holdout else ("validation",)
        while True:
            for entry in trainer.history:
                if entry["step"] > self.reported:
                    return self._as_result(entry, trainer)
            trainer.run_interval(lambda step: self.watchdog.alive(), splits)
            self.watchdog.alive()
            trial_folder.save(self.folder, trainer.state_dict())

    def _as_result(self, entry: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
        """With the scores on other splits named so; on the whole validation split once, at the end, for people to see."""
        scores = {**entry["validation"], **{f"holdout/{k}": v for k, v in entry.get("holdout", {}).items()}}
        split = trainer.dataset.split
        if entry["step"] == trainer.recipe.training.steps and len(split.validation_full) > len(split.validation):
            scores |= {f"validation_full/{k}": v for k, v in trainer.evaluate("validation_full").items()}
        return {"step": entry["step"], "seconds": entry["seconds"], "train": entry["train"], "validation": scores}

    def _explain(self, error: Exception) -> dict[str, str]:
        """Kind and one line of a failure; the traceback goes into the trial's folder."""
        kind, reason = self.team.explain(error) if self.team else explain(error)
        if self.team:  # the others wait in the middle of something
            self._disband()
            self.spent = True
        if kind != "diverged":
            text = "".join(traceback.format_exception(error))
            try:
                self.folder.write(ERROR, text.encode(errors="backslashreplace"))
                reason += f" (traceback: {self.folder.show(ERROR).removeprefix(f'{self.run_folder}/')})"
            except OSError:
                pass  # the folder itself may be the fault; the reason is on record anyway
        return {"kind": kind, "reason": reason}

    def _last_words(self, kind: str, reason: str) -> None:
        """This process is about to end because another one of its team has."""
        self.folder.write(FAULT, json.dumps({"kind": kind, "reason": reason}).encode())

    def _disband(self) -> None:
        if self.team:
            self.team.close()
            self.team = None

    def cleanup(self) -> None:
        self._disband()
        self.watchdog.close()
        self.heart.stop()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing for Ray to keep: see the class."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See save_checkpoint."""


def memory_share(share: float, total: int) -> float:
    """What part of a GPU's memory PyTorch may take, so that every trial of that share has room for its CUDA context too."""
    return max(share / 2, share - CONTEXT_BYTES / total)


def resident_bytes() -> int:
    """Memory of this process; 0 where that cannot be known."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
