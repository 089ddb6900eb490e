"""The driver: hands the study's jobs to Ray Tune and Ray's results to the study."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from stssl.errors import RunError, StsslError
from stssl.search import autoscaler, cluster
from stssl.search.pulse import Listener
from stssl.search.run_folder import STOP
from stssl.search.study import Next, Study
from stssl.search.trial import RecipeTrial
from stssl.search.trial_folder import TRIALS, delete_weights, fault, hung
from stssl.storage import Folder

Observer = Callable[[Study], None]
Say = Callable[[str], object]
NO_ROOM_SECONDS = 600.0  # how long nodes may be away
SAY_SECONDS = 300.0  # after which it is said that a cluster that may grow does not
NO_GROWTH_SECONDS = 1800.0  # after which a cluster that may grow is given up: its head costs money


def _actor_task_failed(
    self: Any, tracked_actor_task: Any, exception: Exception, told: Any = RayActorManager._actor_task_failed
) -> None:
    # Ray Tune would end the whole search for a worker that Ray's memory monitor has ended: it knows errors of actors only.
    if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
        exception = RayActorError(error_msg=str(exception))
    told(self, tracked_actor_task, exception)


RayActorManager._actor_task_failed = _actor_task_failed  # type: ignore[method-assign]


class _Searcher(Searcher):
    """Ray asks for the next configuration; the study answers, once a worker is free.

    Ray likes to have one more trial in its queue than run. What the study says then, it says without the results that are
    under way, and who comes first after a dead worker or a new driver would be another one than in an undisturbed search.

    Args:
        listener: To whom workers send their heartbeats.
        grows: The cluster may grow, which it does for trials that wait: so many are handed out as may run one day.
    """

    def __init__(self, study: Study, run: Folder, listener: str, grows: bool) -> None:
        super().__init__()
        self.listener = listener
        self.study, self.run, self.grows = study, run, grows
        self.look()
        self._open: set[str] = set()  # Ray's trials that wait or run

    def look(self) -> None:
        """See how many trials may be in Ray's hands."""
        resources = self.study.config.resources
        self.limit = cluster.capacity(resources)
        if self.grows:
            self.limit = max(self.limit + 1, cluster.most_capacity(resources))

    def suggest(self, trial_id: str) -> Any:
        resources = self.study.config.resources
        if not self.study.stopping and len(self._open) >= self.limit:
            return None
        job = self.study.next()
        if job is Next.DONE:
            return Searcher.FINISHED
        if job is Next.WAIT:
            return None
        self._open.add(trial_id)
        return {
            "trial": job.trial, "recipe": job.recipe, "reported": job.reported, "run": self.run.place,
            "cpus": resources.cpus, "gpus": resources.gpus, "hang_minutes": resources.hang_minutes,
            "holdout": self.study.objectives.holdout, "listener": self.listener,
        }  # fmt: skip

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A worker is free; the scheduler has heard of the rest already."""
        self._open.discard(trial_id)

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

    def __init__(self, study: Study, run: Folder, listener: Listener) -> None:
        super().__init__()
        self.study, self.run, self.listener = study, run, listener
        self._due: list[str] = []  # whose weights are to be deleted
        self._there, self._begun = (
            set((run / TRIALS).names()),
            False,
        )  # of the many that are named at first, few have any

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        name, outcome = trial.config["trial"], json.loads(result["outcome"])
        if "failure" in outcome:
            decision = self._failed(name, **outcome["failure"])
        else:
            entry = outcome["result"]
            decision = self.study.report(name, entry["step"], entry["seconds"], entry["validation"], entry["train"])
        if decision != "continue":
            self.delete_weights()
        return self.CONTINUE if decision == "continue" and not self.study.stopping else self.STOP

    def delete_weights(self) -> None:
        """Weights that nobody will go on with make room; those of a promoted trial are there again."""
        self._due += [name for name in self.study.disposable_trials() if name in self._there or self._begun]
        self._begun, left = True, []
        for name in self._due:
            if self.study.state.trials[name].status in ("running", "completed"):
                continue  # it goes on all the same
            try:
                delete_weights(self.run, name)
            except OSError:  # a bucket that does not answer: the next time will do
                left.append(name)
        self._due = left

    def _failed(self, name: str, kind: str, reason: str) -> str:
        if kind == "infrastructure":
            self.study.lost(name, reason)
            return "again"
        return self.study.fail(name, kind, reason)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        # Faults of a recipe come as results; what Ray itself reports is a dead worker or node.
        name, text = trial.config["trial"], _last_words(trial)
        if self.listener.has_left(name):  # it leaks, or its node is to be taken away
            self.study.give_back(name)
            return
        if "ray.kill" in text:  # see Listener
            minutes = self.study.config.resources.hang_minutes
            self.study.fail(name, "hung", f"no sign of life from its worker for {minutes:g} minutes")
            return
        if hung(self.run, name):
            minutes = self.study.config.resources.hang_minutes
            self.study.fail(name, "hung", f"nothing moved for {minutes:g} minutes (traceback: trials/{name}/error.txt)")
            return
        if said := fault(self.run, name):
            self._failed(name, *said)
            return
        out_of_memory = any(sign in text for sign in ("running low on memory", "OutOfMemory", "OUT_OF_MEMORY"))
        reason = "its worker used more memory than the node has" if out_of_memory else text.partition(" class_name:")[0]
        gone = re.search(r"its node (has died|was|is)\b", text)
        self.study.lost(name, "its node is gone" if gone else reason[:200], out_of_memory, node=gone is not None)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        if not self.study.stopping:
            return super().choose_trial_to_run(tune_controller)
        for trial in tune_controller.get_trials():  # what waits for a worker would begin otherwise
            if trial.status == Trial.PENDING:
                tune_controller.stop_trial(trial)
        return None

    def __reduce__(self) -> Any:  # as in _Searcher
        return (FIFOScheduler, ())


def _last_words(trial: Trial) -> str:
    """What Ray says of a dead worker, in one line; `trial.get_error` looks where Ray copies that only later."""
    try:
        lines = Path(trial.error_file or "").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return " ".join(" ".join(lines[1:]).split()) or "its worker died"  # the first line counts and dates


def _name(trial: Trial) -> str:
    """What Ray's logs call a trial; a trial that goes on after a dead worker is a new one to Ray."""
    return f"{trial.config['trial']}_{trial.trial_id}"


class _Ticker(tune.Callback):
    """Lets the observer look at every turn of Ray's loop, listens for `stop`, and watches the cluster.

    Args:
        here: Id of the node that this driver is on.
        say: See `run`.
    """

    def __init__(
        self,
        searcher: _Searcher,
        listener: Listener,
        observer: Observer,
        here: str = "",
        say: Say = lambda text: None,
    ) -> None:
        self.listener, self._here, self.say = listener, here, say
        self.searcher, self.study, self.run, self.observer = searcher, searcher.study, searcher.run, observer
        self._looked = self._roomless = time.monotonic()
        self._said = False

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        local = self.run.path is not None
        if local:
            self._listen()
        self.observer(self.study)
        if time.monotonic() - self._looked > (1 if local else 3):
            if not local:
                self._listen()
            self._look()
            self._looked = time.monotonic()

    def _listen(self) -> None:
        try:
            if not self.study.stopping and self.run.size(STOP) is not None:
                self.study.stopping = True
        except OSError:
            pass  # it is asked again

    def _look(self) -> None:
        """How many trials fit on the cluster now; and whether the driver's own node is, or Ray would wait without end."""
        if any(not node["Alive"] and node.get("NodeID") == self._here for node in ray.nodes()):
            raise RunError(
                "the Ray node on which this driver runs died (killed, or out of memory?); every trial is kept. Go on with: "
                f"python launch.py resume {self.run}"
            )
        self.searcher.look()
        self.listener.look()
        resources = self.study.config.resources
        if cluster.room(resources):
            self._roomless, self._said = time.monotonic(), False
        elif cluster.may_have_room(resources):
            self._wait_for_growth(time.monotonic() - self._roomless)
        elif time.monotonic() - self._roomless > NO_ROOM_SECONDS:
            raise RunError(
                f"for {NO_ROOM_SECONDS / 60:g} minutes there has been no node on which a trial fits; every trial is kept. Go on, "
                f"once there is one, with: python launch.py resume {self.run}"
            )

    def _wait_for_growth(self, seconds: float) -> None:
        """A cluster that may grow has no node for a trial: a cloud may have none left, or the autoscaler has a fault."""
        if seconds > NO_GROWTH_SECONDS:
            raise RunError(
                f"for {NO_GROWTH_SECONDS / 60:g} minutes no node has come on which a trial fits (the autoscaler reports: "
                f"{autoscaler.status()}); every trial is kept. Mend that, then go on with: python launch.py resume {self.run} "
                "(on a cluster: submit it again with the same --out)"
            )
        if seconds > SAY_SECONDS and not self._said:
            self._said = True
            self.say(
                f"for {SAY_SECONDS / 60:g} minutes no node has come on which a trial fits; the autoscaler reports: "
                f"{autoscaler.status()}. The search ends after {NO_GROWTH_SECONDS / 60:g} minutes without one, and can be resumed"
            )

    def __reduce__(self) -> Any:
        return (tune.Callback, ())


def run(
    study: Study,
    folder: Folder | Path,
    observer: Observer = lambda study: None,
    grows: bool = False,
    trainable: type[tune.Trainable] = RecipeTrial,
    say: Say = lambda text: None,
) -> None:
    """Run a study until nothing is left to run, or until it is stopping. Needs a cluster.

    Args:
        study: A new one, or one rebuilt from its ledger.
        folder: The run folder.
        observer: Called at every turn of Ray's loop.
        grows: The cluster is not ours, and may grow.
        trainable: What runs a job; another one than RecipeTrial is for measuring the driver itself.
        say: Told in a sentence what the user may want to act upon.

    Raises:
        RunError: The same kind of fault of the infrastructure again and again, or the ledger cannot be written.
        OSError: Ray's own files cannot be written.
        KeyboardInterrupt: Raised by a signal handler; the ledger is whole and the study can be taken up again.
    """
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what went wrong is in the ledger
    resources, folder = study.config.resources, Folder(folder)
    local = folder.path is not None
    logs = (
        folder.writable_path("ray") if local else Path(tempfile.mkdtemp(prefix="stssl-"), "ray")
    )  # a bucket need not keep them
    logs.mkdir(exist_ok=True)
    listener = Listener(resources.hang_minutes)
    scheduler = _Scheduler(study, folder, listener)
    scheduler.delete_weights()  # a driver may have died between a decision and its consequence
    searcher = _Searcher(study, folder, listener.name, grows)
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "1000")  # the searcher itself holds back
    placed = tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus, **resources.custom})
    tuner = tune.Tuner(
        placed,
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=searcher,
            scheduler=scheduler,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=datetime.now().strftime("session-%Y%m%d-%H%M%S"),
            storage_path=str(logs),
            callbacks=[_Ticker(searcher, listener, observer, ray.get_runtime_context().get_node_id(), say)],
            failure_config=tune.FailureConfig(max_failures=0),  # the study tries again itself, within its own budget
            verbose=0,
        ),
    )
    # Ray prints a paragraph for each dead worker; what became of the trial is in the ledger and the live line.
    with (logs / "messages.log").open("a", encoding="utf-8") as log, redirect_stdout(log):
        try:
            tuner.fit()
        except TuneError as error:
            raise _ours(error) from None
    scheduler.delete_weights()


def _ours(error: BaseException) -> BaseException:
    """The fault of ours or of the disk that Ray wrapped up on its way through Ray's loop; else Ray's own."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, StsslError | OSError):
        inner = inner.__cause__ or inner.__context__
    return inner or error
