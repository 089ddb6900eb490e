"""A lease: by which a driver holds a run folder in a bucket, where there are no locks.

The holder writes one small object anew every few seconds. Who finds it old, by the bucket's own clock, may take it: he
writes his own, waits, and holds it if it is still his. Buckets are consistent, so of two who try at once the later
writer wins and the other one sees it; what remains is a takeover from a driver that slept, and that one looks before it
writes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid

from stssl.errors import RunError
from stssl.storage import Folder

NAME = "driver.json"
BEAT_SECONDS, STALE_SECONDS, SETTLE_SECONDS = 5.0, 30.0, 2.0


def _now() -> float:
    """Seconds that a suspended machine counts too, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def held(run: Folder) -> bool:
    """Whether a driver is at work: whether its lease is there and young."""
    age = _age(run)
    return age is not None and age < STALE_SECONDS


def _age(run: Folder) -> float | None:
    """How old a lease is, by the bucket's clock; None without one."""
    written = _times(run).get(NAME)
    if written is None:
        return None
    name = f".clock-{uuid.uuid4().hex}"
    try:
        run.write(name, b"")
        now = _times(run)[name]
        run.delete(name)
    except (OSError, KeyError):  # who may only read has to trust his own clock
        return time.time() - written
    return now - written


def _times(run: Folder) -> dict[str, float]:
    return {entry.name: entry.mtime_ns / 1e9 for entry in run.entries() if not entry.is_folder}


class Lease:
    """Holds a run folder in a bucket until it is closed.

    A lease that its holder left behind, dying, is waited for, up to STALE_SECONDS.

    Raises:
        RunError: Another driver holds it.
    """

    def __init__(self, run: Folder) -> None:
        self.run = Folder(run, patience=0)  # what comes late may come after another's takeover
        self.id = uuid.uuid4().hex
        self._closed = threading.Event()
        self._beaten = 0.0
        self.lost = False
        self._take()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._thread.start()

    def _take(self) -> None:
        taken = RunError(
            f"{self.run}: another driver is at work in this folder; wait for it, stop it, "
            f"or watch it with: python launch.py status {self.run}"
        )
        before = self._holder()
        until = time.monotonic() + STALE_SECONDS + BEAT_SECONDS
        while before is not None and held(self.run):
            if self._holder() != before:
                raise taken  # it is alive
            if time.monotonic() > until:
                break
            time.sleep(1)
        start = _now()
        self._write()
        time.sleep(max(SETTLE_SECONDS, 2 * (_now() - start)))  # whoever writes as slowly has been heard by then
        if (self._holder() or {}).get("id") != self.id:
            raise taken

    def _holder(self) -> dict[str, str | float] | None:
        """What the lease says, which changes with every beat."""
        try:
            said = json.loads(self.run.read(NAME))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    def _write(self) -> None:
        mark = {"id": self.id, "host": socket.gethostname(), "process": os.getpid(), "beat": time.time()}
        self.run.write(NAME, json.dumps(mark).encode())
        self._beaten = _now()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError, RunError):  # `check` sees that it has grown old
                self._renew()

    def _renew(self) -> None:
        if (self._holder() or {}).get("id") != self.id:
            self.lost = True
            self._closed.set()
        else:
            self._write()

    def check(self) -> None:
        """Make sure, before something is written, that the folder is still ours.

        Raises:
            RunError: Another driver has taken over.
            OSError: The bucket does not answer.
        """
        if not self.lost and _now() - self._beaten > 2 * BEAT_SECONDS:
            self._renew()
        if self.lost:
            raise RunError(f"{self.run}: another driver has taken over, as this one was silent for too long")

    def close(self) -> None:
        """Let go of the folder."""
        self._closed.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if (self._holder() or {}).get("id") == self.id:
                self.run.delete(NAME)
