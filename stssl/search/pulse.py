"""Heartbeats: how a driver hears that a worker is frozen, together with the watchdog that would have ended it."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any, NoReturn

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

BEATS = 5  # in the time after which a worker counts as frozen
SECONDS_AT_MOST = 10.0  # between two beats


class _Listener:
    """An actor beside the driver, which hears the workers while the driver is busy."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.heard: dict[str, tuple[float, Any]] = {}  # by the worker's id
        self.left: set[str] = set()

    def beat(self, worker: str, handle: Any) -> None:
        self.heard[worker] = (time.monotonic(), handle)

    def gone(self, worker: str) -> None:
        self.heard.pop(worker, None)

    def leave(self, worker: str, trial: str) -> None:
        self.gone(worker)
        self.left.add(trial)

    def has_left(self, trial: str) -> bool:
        left = trial in self.left
        self.left.discard(trial)
        return left

    def end_silent(self) -> None:
        """End the workers that were not heard for too long; Ray tells the driver that they died by `ray.kill`."""
        now = time.monotonic()
        for name in [name for name, (at, _) in self.heard.items() if now - at > self.limit]:
            ray.kill(self.heard.pop(name)[1])


class Listener:
    """The driver's side. Needs a cluster.

    Args:
        minutes: Workers that are silent for so long are ended.

    Attributes:
        name: By which workers find it.
    """

    def __init__(self, minutes: float) -> None:
        self.name = f"stssl-{uuid.uuid4().hex}"
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0)(_Listener)
        self._actor: Any = actor.options(name=self.name, scheduling_strategy=here).remote(60 * minutes)
        self._asked: Any = None

    def has_left(self, trial: str) -> bool:
        """Whether the worker of a trial took its leave before it ended."""
        try:
            return bool(ray.get(self._actor.has_left.remote(trial), timeout=10))
        except (RayError, GetTimeoutError):
            return False

    def look(self) -> None:
        """End workers that are frozen; does not wait for it."""
        if self._asked is None or ray.wait([self._asked], timeout=0)[0]:
            self._asked = self._actor.end_silent.remote()


class Heart:
    """A worker's side: beats until it is stopped.

    Args:
        listener: The listener's name.
        minutes: After so long without a beat the worker counts as frozen.
    """

    def __init__(self, listener: str, minutes: float) -> None:
        context = ray.get_runtime_context()
        self._listener = ray.get_actor(listener)
        self._worker = context.get_actor_id(), context.current_actor
        self._pause = min(SECONDS_AT_MOST, 60 * minutes / BEATS)
        self._trial = ""
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="heart").start()

    def work_on(self, trial: str) -> None:
        """What this worker does from now on."""
        self._trial = trial
        self._listener.beat.remote(*self._worker)

    def _beat(self) -> None:
        while not self._stopped.wait(self._pause):
            self._listener.beat.remote(*self._worker)

    def leave(self) -> NoReturn:
        """End this worker, in good order: its trial is to go on elsewhere."""
        self._stopped.set()
        ray.get(self._listener.leave.remote(self._worker[0], self._trial))
        ray.actor.exit_actor()
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """The worker ends."""
        self._stopped.set()
        self._listener.gone.remote(self._worker[0])
