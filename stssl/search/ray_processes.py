"""The processes of Ray: watched while a command needs them, and ended with it.

Ray's own end is late and silent: 60 seconds after its GCS (the process that knows the cluster) was lost, the C++ code exits
from within, and agents of a node that was killed while it started live on for more than a minute. Names of programs are all
that is known of Ray here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

VITAL = {"gcs_server": "Ray's GCS", "raylet": "Ray's raylet"}  # programs without which a local cluster is none
LOOK_SECONDS = 0.5
ASK_SECONDS, SILENT_SECONDS = 3.0, 45.0  # of the GCS of others' cluster; after 60 Ray ends this process
END_SECONDS = 10.0
_PR_SET_CHILD_SUBREAPER = 36


class Process(NamedTuple):
    """A line of the system's table."""

    name: str
    parent: int
    lives: bool


def _process(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    name, (state, parent) = text[text.index("(") + 1 : text.rindex(")")], text.rpartition(")")[2].split()[:2]
    return Process(name, int(parent), state not in "ZX")


def descendants() -> dict[int, Process]:
    """Processes below this one by their ids, also dead ones that nobody has waited for; none without a /proc."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc/self") else []
    table = {pid: found for pid in pids if (found := _process(pid)) is not None}
    below = {os.getpid()}
    while more := {pid for pid, process in table.items() if process.parent in below} - below:
        below |= more
    return {pid: table[pid] for pid in below - {os.getpid()}}


def adopt_orphans(adopt: bool = True) -> None:
    """Become the parent of descendants whose own parent dies, so that they are found, or cease to; a no-op outside of Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def end_descendants(but: Collection[int] = ()) -> None:
    """Kill the processes below this one, and those that they start meanwhile.

    Args:
        but: Ids of processes that stay.
    """
    until = time.monotonic() + END_SECONDS
    while time.monotonic() < until:
        left = [pid for pid, process in descendants().items() if process.lives and pid not in but]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


class Watch:
    """Ends this process, and what Ray has started below it, once its cluster is lost.

    The main thread may then be in C++ code that waits for Ray and heeds neither signals nor exceptions. Nothing needs its
    farewell: whatever is on record is on the disk, as after `kill -9`.

    Args:
        tell: Told why this process ends, in another thread; may return another exit code than 1.
    """

    def __init__(self, tell: Callable[[str], int | None]) -> None:
        self._tell = tell
        self._stopped = threading.Event()
        self._before: Collection[int] | None = None

    def own(self) -> None:
        """Watch a local cluster, from before it starts."""
        adopt_orphans()
        self._before = before = descendants().keys()
        pids: dict[str, int] = {}

        def look() -> str | None:
            if len(pids) < len(VITAL):
                found = {process.name: pid for pid, process in descendants().items() if pid not in before}
                pids.update({name: found[name] for name in VITAL if name in found and name not in pids})
            gone = [VITAL[name] for name, pid in pids.items() if (now := _process(pid)) is None or not now.lives]
            return f"{' and '.join(gone)} died (killed, or out of memory?)" if gone else None

        self._start(look, LOOK_SECONDS)

    def others(self, gcs: str) -> None:
        """Watch a cluster of others', in which nothing is touched.

        Args:
            gcs: HOST:PORT of its GCS.
        """
        heard = time.monotonic()

        def ask() -> str | None:
            nonlocal heard
            host, _, port = gcs.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=ASK_SECONDS).close()
                heard = time.monotonic()
            except OSError as error:
                if time.monotonic() - heard > SILENT_SECONDS:
                    return f"the Ray cluster at {gcs} has not answered for {SILENT_SECONDS:g} s ({error})"
            return None

        self._start(ask, ASK_SECONDS)

    def _start(self, look: Callable[[], str | None], seconds: float) -> None:
        def run() -> None:
            while not self._stopped.wait(seconds):
                reason = look()
                if reason is not None and not self._stopped.is_set():
                    code = None
                    try:
                        code = self._tell(reason)
                    finally:
                        self.end_processes()
                        os._exit(code or 1)

        threading.Thread(target=run, daemon=True, name="watch on Ray").start()

    def stop(self) -> None:
        """Look no more: the cluster is to be left."""
        self._stopped.set()

    def end_processes(self) -> None:
        """Kill what a local cluster has started; nothing of others'."""
        if self._before is not None:
            end_descendants(self._before)
            adopt_orphans(False)
