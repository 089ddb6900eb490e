"""Warm start: the trials of earlier searches, told to this one's sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stssl.config import flatten
from stssl.errors import ConfigError, RunError, short_repr
from stssl.search import ledger, run_folder
from stssl.search.config import SearchConfig
from stssl.search.space import Space
from stssl.search.state import SearchState
from stssl.storage import Folder

SAME = ("training.steps", "training.eval_interval", "data.split", "data.labeled", "data.validation_budget")


def imports(
    config: SearchConfig, space: Space, fingerprint: str, source: str
) -> dict[str, tuple[list[dict[str, Any]], int]]:
    """What the searches of `warm_start` know that is of use here.

    Args:
        config: This search.
        space: Its space.
        fingerprint: Of its data.
        source: For messages.

    Returns:
        Run folder to the fields of its `imported` events, and how many of its trials have results but lie outside this space.

    Raises:
        ConfigError: No run folder, or its results cannot be compared with those of this search.
    """
    found = {}
    for number, folder in enumerate(config.warm_start):
        where = f"{source}: warm_start[{number}]: {folder}"
        try:
            other, manifest = run_folder.load(Folder(folder))
            state = SearchState.replay(ledger.events_of(Folder(folder)))
        except RunError as error:
            raise ConfigError(f"{source}: warm_start[{number}]: {error}") from None
        _check_comparable(config, other, where)
        if manifest["data"]["fingerprint"] != fingerprint:
            raise ConfigError(
                f"{where}: was run on other data ({manifest['data']['name']}), whose scores say nothing here"
            )
        events, outside = [], 0
        for trial in state.of_kind("search"):
            if not trial.scores and trial.status != "failed":
                continue
            params = space.inside(trial.recipe)
            if params is None:
                outside += 1
                continue
            status = "paused" if trial.status == "running" else trial.status
            more = {"fault": trial.fault} if trial.fault else {}
            more |= {"second": _by_step(trial.second)} if trial.second else {}  # type: ignore[dict-item]
            name = f"{number}:{Path(folder).name}/{trial.id}"
            events.append({
                "trial": name, "params": params, "scores": _by_step(trial.scores), "status": status, **more,
            })  # fmt: skip
        found[folder] = (events, outside)
    return found


def _check_comparable(config: SearchConfig, other: SearchConfig, where: str) -> None:
    ours, theirs = flatten(config.dump()), flatten(other.dump())
    for key in {**ours, **theirs}:
        same = key in ("metric", "second_metric") or f"{key}.".startswith(tuple(f"recipe.{s}." for s in SAME))
        if same and ours.get(key) != theirs.get(key):
            raise ConfigError(
                f"{where}: {key} is {short_repr(theirs.get(key))} there and {short_repr(ours.get(key))} here, so its "
                "scores cannot be compared; make it the same, or leave this search out"
            )


def _by_step(scores: dict[int, float]) -> dict[str, float]:
    """As JSON has it: its keys are text."""
    return {str(step): score for step, score in scores.items()}
