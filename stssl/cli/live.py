"""A search as it runs: a compact table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich import live
from rich.console import Console, Group
from rich.text import Text

from stssl.cli.common import duration, errors, rungs_table
from stssl.search.objectives import more_is_better
from stssl.search.results import STATUSES, failures, hours
from stssl.search.study import Study

QUIET_SECONDS = 15.0  # between two plain lines


class Live:
    """The best so far, trials by rung, failures by cause, what it has cost and the time left.

    Args:
        room: Says how many trials fit on the cluster, which may grow and shrink.
    """

    def __init__(self, room: Callable[[], int]) -> None:
        self.room = room
        self.start = time.monotonic()
        self._next = 0.0
        self._said = ""
        self._live = (
            live.Live(console=Console(stderr=True), refresh_per_second=2, transient=True)
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> Live:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, study: Study) -> None:
        """Show the study as it is now."""
        now = time.monotonic()
        if self._live:
            if now >= self._next:  # a table of a thousand trials is not made anew at every turn of Ray's loop
                lines = [Text(part) for part in self.parts(study)]
                self._live.update(Group(*lines, rungs_table(study.state, study.config)))
                self._next = now + 0.5
        elif now >= self._next or (study.stopping and "stopping" not in self._said):
            line = " | ".join(self.parts(study))
            if line != self._said:
                errors.print(line, markup=False)
                self._said, self._next = line, now + QUIET_SECONDS

    def parts(self, study: Study) -> list[str]:
        """What a line says."""
        state, config = study.state, study.config
        search = {s: state.count(s, "search") for s in STATUSES}
        room = self.room()
        running = min(search["running"], room)  # more wait in Ray's queue
        counts = [f"{running} running" if room else "waiting for a node", f"{search['completed']} done"]
        counts += [f"{search[s]} {s}" for s in ("paused", "stopped") if search[s]]
        parts = [f"{len(state.of_kind('search'))}/{config.trials} trials: {', '.join(counts)}"]
        if causes := failures(state):
            parts.append("failed: " + ", ".join(f"{count} {cause}" for cause, count in causes.items()))
        replicates = state.of_kind("replicate")
        if replicates:
            done = sum(t.status != "running" for t in replicates)
            dropped = sum(t.dropped is not None for t in study.chosen())
            given_up = f", {dropped} recipes given up" if dropped else ""
            parts.append(f"{done}/{len(study.chosen()) * config.replicates.seeds} replicates{given_up}")
        best = state.best()
        if best:
            value = best.score if more_is_better(config.metric) else -best.score
            parts.append(f"best {config.metric} {value:.3f} ({best.id}, step {best.step})")
        parts.append(f"{duration(time.monotonic() - self.start)} gone{self._left(study, max(1, room))}")
        if study.stopping:
            parts.append("stopping at the trials' next evaluations; Ctrl-C again: at once")
        return parts

    def _left(self, study: Study, room: int) -> str:
        """From the time on record for the steps on record."""
        state, cost = study.state, study.config.resources.cost
        unit = "GPU hours" if study.config.resources.gpus else "hours of training"
        spent = hours(state, study.config, "search") + hours(state, study.config, "replicate")
        if state.index.steps == 0:
            return ""
        seconds = study.remaining_steps() * (state.seconds("search") + state.seconds("replicate")) / state.index.steps
        left = f", about {duration(seconds / room)} left"
        return f"{left} | {spent:.2f} {unit} spent, about {cost(seconds) / 3600:.2f} to come"
