"""Asynchronous successive halving, stopping variant (Li et al., MLSys 2020), as a pure decision."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from stssl.config import Config
from stssl.errors import ConfigError
from stssl.search.state import SearchState


class SchedulerConfig(Config):
    """Which trials are stopped early.

    `grace_steps` is the first rung; each further rung is `reduction_factor` times as long, and about one in
    `reduction_factor` trials goes on. `name: none` trains every trial to the end.
    """

    name: Literal["asha", "none"] = "asha"
    grace_steps: int = Field(2_000, ge=1)
    reduction_factor: int = Field(3, ge=2, le=16)


def rungs(config: SchedulerConfig, steps: int, eval_interval: int) -> list[int]:
    """Training lengths at which trials are compared; the last one is the full length.

    Args:
        config: The scheduler.
        steps: Full length of a trial.
        eval_interval: Trials report every so many steps, so a rung must be a multiple of it.

    Raises:
        ConfigError: A rung falls between two evaluations, or the first one is not below the full length.
    """
    if config.name == "none":
        return [steps]
    if config.grace_steps >= steps:
        raise ConfigError(
            f"scheduler.grace_steps {config.grace_steps}: must be below recipe.training.steps {steps}, or no trial is ever "
            "stopped; lower it, or set scheduler.name: none"
        )
    lengths, rung = [], config.grace_steps
    while rung < steps:
        lengths.append(rung)
        rung *= config.reduction_factor
    wrong = [length for length in lengths if length % eval_interval]
    if wrong:
        raise ConfigError(
            f"scheduler.grace_steps {config.grace_steps}: the rung at step {wrong[0]} is no multiple of "
            f"recipe.training.eval_interval {eval_interval}; choose a grace_steps that is"
        )
    return [*lengths, steps]


def decide(state: SearchState, trial: str, step: int, score: float, config: SchedulerConfig, ladder: list[int]) -> str:
    """Whether a search trial goes on after a result.

    Of the n trials that reached a rung (this one among them), ceil(n / reduction_factor) may go on. A trial goes on while
    fewer than that are better, or equal and gone on already: equals fill the free places in the order of
    their arrival, and do not all pass. The rung is read from the state, so a search that is rebuilt
    from its ledger decides as if it had never been away.

    Args:
        state: The search before this result.
        trial: The trial's name.
        step: The step of the result.
        score: Its score, finite, more is better.
        config: The scheduler.
        ladder: The rungs.

    Returns:
        `continue`, `stop` or `complete`.
    """
    if step >= ladder[-1]:
        return "complete"
    if step not in ladder or config.name == "none":
        return "continue"
    others = [t for t in state.of_kind("search") if t.id != trial and step in t.scores]
    ahead = sum(t.scores[step] > score or (t.scores[step] == score and not t.ended_at(step)) for t in others)
    return "continue" if ahead < math.ceil((len(others) + 1) / config.reduction_factor) else "stop"
