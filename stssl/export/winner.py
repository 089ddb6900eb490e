"""From a finished search to a bundle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from stssl.config import validate
from stssl.data.dataset import Dataset
from stssl.errors import CheckpointError, RunError, did_you_mean
from stssl.export import bundle
from stssl.search import trial_folder
from stssl.search.ledger import NAME
from stssl.search.objectives import HOLDOUT, more_is_better
from stssl.search.replicate import Standing, baseline, number_of, paired, standings
from stssl.search.results import interval, test_score
from stssl.search.state import SearchState, TrialState
from stssl.storage import Folder
from stssl.training import checkpoint
from stssl.training.deployed import load as deployed_network
from stssl.training.recipe import Recipe
from stssl.training.trainer import Trainer


def choose(state: SearchState) -> Standing | None:
    """The replicated recipe that has proven most (see `standings`); None when no replicate completed."""
    return next(iter(standings(state)), None)


def _weights_of(run: Folder, trial: TrialState) -> dict[str, Any]:
    """The checkpoint of a trial, if it is its own and fit for use.

    Raises:
        CheckpointError: It is gone, damaged, another trial's, or has weights that are no numbers.
        OSError: It cannot be read.
    """
    folder = trial_folder.trial_folder(run, trial.id)
    state, at = trial_folder.load(folder), folder.show(trial_folder.CHECKPOINT)
    if state is None:
        raise CheckpointError(f"{at}: no such checkpoint")
    recipe = validate(Recipe, trial.recipe, f"{run.show(NAME)}: recipe of {trial.id}")
    checkpoint.check(state, recipe.dump(), recipe.digest(), state["fingerprint"], at)
    for part in ("networks", "ema"):
        for name, tensor in state[part].items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise CheckpointError(f"{at}: {part}.{name} holds NaN or infinity, so these weights are of no use")
    return state


def _best_at_hand(run: Folder, standing: Standing) -> TrialState:
    """The replicate whose weights are exported: the best on validation whose checkpoint can be used."""
    faults = []
    for replicate in sorted(standing.replicates, key=lambda r: -r.score):
        try:
            _weights_of(run, replicate)
            return replicate
        except CheckpointError as error:
            faults.append(str(error))
    raise RunError(
        f"{run / trial_folder.TRIALS}: the weights of all replicates of {standing.trial.id} are gone, damaged or of no use "
        f"({faults[0] if faults else 'none ran to its end'}); train it again: status --json names its settings, and "
        f"{run.show('search.yaml')} the base recipe"
    )


def test(run: Folder, best: Path, state: SearchState, metric: str) -> dict[str, Any]:
    """Read the test split: the exported student, and all replicates of the winner and of the published recipe.

    Args:
        run: The run folder.
        best: The exported bundle.
        state: The search.
        metric: What it optimised.

    Returns:
        The fields of the event `tested`: scores of the exported student; of each replicate by its name; and the paired
        difference of the winner to the published recipe, in the metric's own sign.
    """
    scores = bundle.evaluate(best, None, "test")
    base = baseline(state)
    tested = [s for s in standings(state) if s.trial.id == state.winner or (base is not None and s.trial.id == base.id)]
    found: dict[str, dict[str, float]] = {}
    for standing in tested:
        found[standing.trial.id] = {}
        for replicate in standing.replicates:
            try:
                _weights_of(run, replicate)
                with trial_folder.weights_at_hand(run, replicate.id) as weights:
                    deployed, correction = deployed_network(weights)
            except CheckpointError:
                continue  # damaged on disk: what is left has to do
            value = deployed.evaluate("test", correction).get(metric.removeprefix(HOLDOUT), math.nan)
            if math.isfinite(value):  # average precision is not defined without a positive
                found[standing.trial.id][replicate.id] = value
    fields: dict[str, Any] = {"trial": state.winner, "scores": {k: v for k, v in scores.items() if math.isfinite(v)}}
    fields["replicates"] = found
    if base is not None and base.id in found and base.id != state.winner:
        winner, published = (
            {number_of(name): value for name, value in found[str(trial)].items()} for trial in (state.winner, base.id)
        )
        gain, half, p = paired(winner, published)
        if math.isfinite(gain):
            fields |= {"published": base.id, "gain": gain, "p": p} | (
                {"gain_half": half} if math.isfinite(half) else {}
            )
    return fields


def export(run: Folder, state: SearchState, folder: Path, metric: str, trial: str | None = None) -> TrialState:
    """Write a bundle of the winner's best replicate, or of a trial by name.

    Args:
        run: The run folder.
        state: The search.
        folder: Where to.
        metric: For the model card.
        trial: A trial or replicate; None = the winner.

    Returns:
        The trial whose weights were exported.

    Raises:
        RunError: There is no winner yet, no such trial, or its weights are gone.
    """
    sign = 1 if more_is_better(metric) else -1
    facts = []
    if trial is None:
        standing = next((s for s in standings(state) if s.trial.id == state.winner), None)
        if standing is None:
            raise RunError(
                f"{run}: the search has no winner yet; finish it with: python launch.py resume {run}, "
                "or name a trial with --trial"
            )
        chosen = _best_at_hand(run, standing)
        facts.append(
            f"Over {len(standing.replicates)} replicates this recipe reached validation {metric} "
            f"{interval(standing, metric)}; these weights are those of {chosen.id} ({sign * chosen.score:.3f}), the best of them."
        )
        if state.tested is not None:
            facts.append(f"Test split, read once: {test_score(state.tested, metric)}.")
    else:
        if trial not in state.trials:
            raise RunError(f"{run}: no trial '{trial}'; {did_you_mean(trial, state.trials)}")
        chosen = state.trials[trial]
        if chosen.status != "completed":
            kept = [t.id for t in state.trials.values() if t.status == "completed" and t.deployable]
            raise RunError(
                f"{run}: trial {trial} is {chosen.status}, and only trials that ran in full keep their weights: {', '.join(kept)}"
            )
        facts.append(f"Validation {metric}: {sign * chosen.score:.3f} (one training).")
    recipe = validate(Recipe, chosen.recipe, f"{run.show(NAME)}: recipe of {chosen.id}")
    trainer = Trainer(recipe, Dataset.open(recipe.data))
    at = trial_folder.trial_folder(run, chosen.id).show(trial_folder.CHECKPOINT)
    trainer.load_state_dict(_weights_of(run, chosen), at)
    bundle.write(trainer, folder, f"Found by the search {str(run).rpartition('/')[2]}, trial {chosen.id}.", facts)
    return chosen
