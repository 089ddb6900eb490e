"""The driver: hands the study's jobs to Ray Tune and Ray's results to the study."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from stssl.errors import StsslError
from stssl.search.run_folder import STOP
from stssl.search.study import Next, Study
from stssl.search.trial import RecipeTrial, delete_weights, hung

Observer = Callable[[Study], None]


class _Searcher(Searcher):
    """Ray asks for the next configuration; the study answers."""

    def __init__(self, study: Study, run: Path) -> None:
        super().__init__()
        self.study, self.run = study, run

    def suggest(self, trial_id: str) -> Any:
        job = self.study.next()
        if job is Next.DONE:
            return Searcher.FINISHED
        if job is Next.WAIT:
            return None
        resources = self.study.config.resources
        return {
            "trial": job.trial, "recipe": job.recipe, "reported": job.reported, "run": str(self.run),
            "cpus": resources.cpus, "gpus": resources.gpus, "hang_minutes": resources.hang_minutes,
            "holdout": self.study.objectives.holdout,
        }  # fmt: skip

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The scheduler has heard of it already."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """See save."""

    def __reduce__(self) -> Any:  # Ray pickles its searcher into its own snapshot, which nobody reads
        return (Searcher, ())


class _Scheduler(FIFOScheduler):
    """Ray reports a result; the study decides.

    A trial that pauses ends for Ray, which knows nothing of it any more; promoted, it is a new one that goes on from its
    checkpoint. So a search of thousands of paused trials holds no more than the running ones in Ray.
    """

    _supports_buffered_results = False

    def __init__(self, study: Study, run: Path) -> None:
        super().__init__()
        self.study, self.run = study, run
        self._gone: set[str] = set()  # trials whose weights are deleted

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        name, outcome = trial.config["trial"], json.loads(result["outcome"])
        if "failure" in outcome:
            failure = outcome["failure"]
            if failure["kind"] == "infrastructure":
                self.study.lost(name, failure["reason"])
                return self.STOP
            decision = self.study.fail(name, **failure)
        else:
            entry = outcome["result"]
            decision = self.study.report(name, entry["step"], entry["seconds"], entry["validation"], entry["train"])
        if decision != "continue":
            self.delete_losers()
        return self.CONTINUE if decision == "continue" and not self.study.stopping else self.STOP

    def delete_losers(self) -> None:
        """Weights that nobody will go on with make room; those of a promoted trial are there again."""
        losers = {t.id for t in self.study.losers()}
        for name in losers - self._gone:
            delete_weights(self.run, name)
        self._gone = losers

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        # Faults of a recipe come as results; what Ray itself reports is a dead worker or node.
        name, error = trial.config["trial"], trial.get_error()
        if hung(self.run, name):
            minutes = self.study.config.resources.hang_minutes
            self.study.fail(name, "hung", f"nothing moved for {minutes:g} minutes (traceback: trials/{name}/error.txt)")
            return
        text = " ".join(str(error).split()) if error else "its worker died"
        out_of_memory = "OutOfMemory" in f"{type(error).__name__} {text}" or "memory usage threshold" in text
        reason = "its worker used more memory than the node has" if out_of_memory else text[:200]
        self.study.lost(name, reason, out_of_memory)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        if not self.study.stopping:
            return super().choose_trial_to_run(tune_controller)
        for trial in tune_controller.get_trials():  # what waits for a worker would begin otherwise
            if trial.status == Trial.PENDING:
                tune_controller.stop_trial(trial)
        return None

    def __reduce__(self) -> Any:  # as in _Searcher
        return (FIFOScheduler, ())


def _name(trial: Trial) -> str:
    """What Ray's logs call a trial; a trial that goes on after a dead worker is a new one to Ray."""
    return f"{trial.config['trial']}_{trial.trial_id}"


class _Ticker(tune.Callback):
    """Lets the observer look at every turn of Ray's loop, and listens for `stop`."""

    def __init__(self, study: Study, run: Path, observer: Observer) -> None:
        self.study, self.run, self.observer = study, run, observer

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if not self.study.stopping and (self.run / STOP).exists():
            self.study.stopping = True
        self.observer(self.study)

    def __reduce__(self) -> Any:
        return (tune.Callback, ())


def run(
    study: Study,
    folder: Path,
    observer: Observer = lambda study: None,
    trainable: type[tune.Trainable] = RecipeTrial,
) -> None:
    """Run a study until nothing is left to run, or until it is stopping. Needs a cluster.

    Args:
        study: A new one, or one rebuilt from its ledger.
        folder: The run folder.
        observer: Called at every turn of Ray's loop.
        trainable: What runs a job; another one than RecipeTrial is for measuring the driver itself.

    Raises:
        RunError: The same kind of fault of the infrastructure again and again, or the ledger cannot be written.
        KeyboardInterrupt: Raised by a signal handler; the ledger is whole and the study can be taken up again.
    """
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what went wrong is in the ledger
    resources = study.config.resources
    (folder / "ray").mkdir(exist_ok=True)
    scheduler = _Scheduler(study, folder)
    scheduler.delete_losers()  # a driver may have died between a decision and its consequence
    placed = tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus})
    tuner = tune.Tuner(
        placed,
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=_Searcher(study, folder),
            scheduler=scheduler,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=datetime.now().strftime("session-%Y%m%d-%H%M%S"),
            storage_path=str(folder / "ray"),
            callbacks=[_Ticker(study, folder, observer)],
            failure_config=tune.FailureConfig(max_failures=0),  # the study tries again itself, within its own budget
            verbose=0,
        ),
    )
    # Ray prints a paragraph for each dead worker; what became of the trial is in the ledger and the live line.
    with (folder / "ray" / "messages.log").open("a", encoding="utf-8") as log, redirect_stdout(log):
        try:
            tuner.fit()
        except TuneError as error:
            raise _ours(error) from None
    scheduler.delete_losers()


def _ours(error: BaseException) -> BaseException:
    """The fault of ours (the disk is full, say) that Ray wrapped up on its way through Ray's loop; else Ray's own."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, StsslError):
        inner = inner.__cause__ or inner.__context__
    return inner or error
