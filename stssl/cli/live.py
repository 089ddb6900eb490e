"""The live line of a search: redrawn on a terminal, printed now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from stssl.cli.common import duration, errors
from stssl.search.study import Study

QUIET_SECONDS = 15.0  # between two plain lines


class LiveLine:
    """Trials running, stopped, done, failed; the best so far; the time left.

    Args:
        concurrent: How many trials run at a time.
    """

    def __init__(self, concurrent: int) -> None:
        self.concurrent = concurrent
        self.start = time.monotonic()
        self._next_plain = 0.0
        self._said = ""
        self._live = (
            Live(console=Console(stderr=True), refresh_per_second=4, transient=True) if sys.stderr.isatty() else None
        )

    def __enter__(self) -> LiveLine:
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
            self._live.update(Text(self.text(study)))
        elif now >= self._next_plain:
            line = self.text(study)
            if line != self._said:
                errors.print(line)
                self._said, self._next_plain = line, now + QUIET_SECONDS

    def text(self, study: Study) -> str:
        """The line."""
        state, config = study.state, study.config
        search = {s: len(state.of_kind("search", s)) for s in ("running", "stopped", "completed", "failed")}  # type: ignore[arg-type]
        running = min(search["running"], self.concurrent)  # one more waits in Ray's queue
        ended = search["stopped"] + search["completed"] + search["failed"]
        parts = [
            f"{ended}/{config.trials} trials: {running} running, {search['stopped']} stopped, "
            f"{search['completed']} done" + (f", {search['failed']} failed" if search["failed"] else "")
        ]
        replicates = state.of_kind("replicate")
        if replicates:
            done = sum(t.status == "completed" for t in replicates)
            parts.append(f"{done}/{config.replicates.top * config.replicates.seeds} replicates")
        best = state.best()
        if best:
            value = best.score if study.more_is_better else -best.score
            parts.append(f"best {config.metric} {value:.3f} ({best.id}, step {best.step})")
        parts.append(f"{duration(time.monotonic() - self.start)} gone{self._left(study)}")
        return " | ".join(parts)

    def _left(self, study: Study) -> str:
        """From the time on record for the steps on record."""
        trials = study.state.trials.values()
        steps = sum(t.step for t in trials)
        if steps == 0:
            return ""
        seconds = study.remaining_steps() * sum(t.seconds for t in trials) / steps / self.concurrent
        return f", about {duration(seconds)} left"
