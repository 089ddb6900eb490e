"""What ends a worker that hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from stssl.storage import Folder

GRACE_SECONDS = 60.0  # for a hanging process to send its tracebacks to a bucket


class Watchdog:
    """Ends this process, with the tracebacks of all threads in a file, when nothing has moved for too long.

    A hanging process cannot report its own fault: its lock or its GPU may be what it hangs on. Python's faulthandler waits in
    a thread of its own that needs neither, but can only write to a disk. Where the file is to be in a bucket, a thread of
    Python's sends it there first, and faulthandler ends the process should that thread hang too.

    Args:
        folder: Where the file is to be.
        name: The file; empty or absent as long as all is well.
        seconds: How long is too long.
    """

    def __init__(self, folder: Folder, name: str, seconds: float) -> None:
        self.folder, self.name, self.seconds = folder, name, seconds
        self._file: IO[str] | None = None
        self._armed = 0.0
        self._watching = False
        self._closed = threading.Event()

    def __enter__(self) -> None:
        if self._file is None:
            if self.folder.path is not None:
                self._path = self.folder.writable_path(self.name)
                self._path.parent.mkdir(parents=True, exist_ok=True)
            else:
                self._path = Path(tempfile.mkdtemp(prefix="stssl-")) / self.name
            self._file = self._path.open("w", encoding="utf-8")
            if self.folder.path is None:
                threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        self._watching = True
        self._arm()

    def __exit__(self, *error: object) -> None:
        self._watching = False
        faulthandler.cancel_dump_traceback_later()

    def alive(self) -> None:
        """Something has moved."""
        if time.monotonic() - self._armed > min(1.0, self.seconds / 10):  # arming starts a thread
            self._arm()

    def _arm(self) -> None:
        assert self._file is not None
        self._armed = time.monotonic()
        patience = self.seconds if self.folder.path is not None else self.seconds + GRACE_SECONDS
        faulthandler.dump_traceback_later(patience, exit=True, file=self._file)

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self.seconds / 10)):
            if self._watching and time.monotonic() - self._armed > self.seconds and self._file is not None:
                faulthandler.dump_traceback(self._file)
                with contextlib.suppress(OSError):
                    self.folder.write(self.name, self._path.read_bytes())
                os._exit(1)

    def close(self) -> None:
        """Remove the empty file."""
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()
        if self._file is not None:
            self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)
            if self.folder.path is None:
                self._path.parent.rmdir()
