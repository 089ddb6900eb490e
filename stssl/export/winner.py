"""From a finished search to a bundle."""

from __future__ import annotations

from pathlib import Path

from stssl.data.dataset import Dataset
from stssl.data.store import ImageStore
from stssl.errors import RunError, did_you_mean
from stssl.export import bundle
from stssl.search.replicate import Standing, standings
from stssl.search.results import more_is_better, test_score
from stssl.search.state import SearchState, TrialState
from stssl.training import checkpoint
from stssl.training.recipe import Recipe
from stssl.training.trainer import Trainer


def choose(state: SearchState) -> Standing | None:
    """The replicated recipe with the best mean validation score; None when no replicate completed."""
    return next(iter(standings(state)), None)


def best_replicate(standing: Standing) -> TrialState:
    """The replicate whose weights are exported: the best on validation, the first on a tie."""
    return max(standing.replicates, key=lambda replicate: replicate.score)


def export(run: Path, state: SearchState, folder: Path, metric: str, trial: str | None = None) -> TrialState:
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
        standing = next((s for s in standings(state) if s.trial.id == state.winner), choose(state))
        if standing is None:
            raise RunError(f"{run}: no recipe is replicated yet; finish the search with: python launch.py resume {run}")
        chosen = best_replicate(standing)
        low, high = sorted((sign * standing.low, sign * standing.high))
        facts.append(
            f"Over {len(standing.replicates)} seeds and labeled subsets this recipe reached validation {metric} "
            f"{sign * standing.mean:.3f} (95 % interval {low:.3f} to {high:.3f}); these weights are those of the best of them "
            f"({chosen.id}, {sign * chosen.score:.3f})."
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
    recipe = Recipe.model_validate(chosen.recipe)
    trainer = Trainer(recipe, Dataset(recipe.data, ImageStore.open(Path(recipe.data.shards))))
    path = run / "trials" / chosen.id / "checkpoint.pt"
    trainer.load_state_dict(checkpoint.load(path), str(path))
    bundle.write(trainer, folder, f"Found by the search {run.name}, trial {chosen.id}.", facts)
    return chosen
