"""What the tests of studies share."""

from pathlib import Path

from stssl.search.ledger import NAME, Ledger, read
from stssl.search.replicate import candidates
from stssl.search.state import SearchState
from stssl.search.study import Study
from stssl.training.recipe import Recipe


def study_in(config, space_of, folder: Path) -> Study:
    return Study(config, space_of(config), Ledger(folder))


def check_whole(run, state: SearchState) -> None:
    """What holds at the end of every search."""
    config = run.config
    search, replicates = state.of_kind("search"), state.of_kind("replicate")
    assert not any(t.status == "running" for t in state.trials.values())
    assert state == SearchState.replay(read(run.folder / NAME))
    assert [t.id for t in search] == [f"t{i + 1:04d}" for i in range(len(search))]
    assert state.exhausted or len(search) == config.trials or config.budget_hours
    assert all(Recipe.model_validate(t.recipe).dump() == t.recipe for t in search)
    assert all(a.params != b.params for i, a in enumerate(search) for b in search[:i])
    for trial in state.trials.values():  # no interval is missing, none is there twice
        steps = [result["step"] for result in trial.results]
        assert steps == [run.interval * (i + 1) for i in range(len(steps))]
        assert (trial.step == config.recipe["training"]["steps"]) == (trial.status == "completed")
    chosen = candidates(state, config.replicates.top)
    assert [t.id for t in replicates] == [f"{c.id}-r{n + 1}" for n in range(config.replicates.seeds) for c in chosen]
    assert all(t.deployable for t in chosen)
    if replicates:
        first = next(i for i, e in enumerate(run.events) if e["event"] == "created" and e["kind"] == "replicate")
        ids = {t.id for t in search}
        later = [e for e in run.events[first:] if e["event"] in ("created", "result", "promoted", "failed", "lost")]
        assert not any(e["trial"] in ids for e in later), "a replicate before the search was over"
    for trial in replicates:
        of = Recipe.model_validate(state.trials[str(trial.of)].recipe)
        assert (
            Recipe.model_validate(trial.recipe) == of.replicate(int(trial.id[-1]))
            and trial.params == state.trials[trial.of].params
        )
