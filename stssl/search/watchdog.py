"""What ends a worker that hangs."""

from __future__ import annotations

import faulthandler
import time
from pathlib import Path
from typing import IO


class Watchdog:
    """Ends this process, with the tracebacks of all threads in a file, when nothing has moved for too long.

    A hanging process cannot report its own fault: its lock or its GPU may be what it hangs on. Python's faulthandler waits in
    a thread of its own that needs neither.

    Args:
        path: The file; empty as long as all is well.
        seconds: How long is too long.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._file: IO[str] | None = None
        self._armed = 0.0

    def __enter__(self) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8")
        self._arm()

    def __exit__(self, *error: object) -> None:
        faulthandler.cancel_dump_traceback_later()

    def alive(self) -> None:
        """Something has moved."""
        if time.monotonic() - self._armed > min(1.0, self.seconds / 10):  # arming starts a thread
            self._arm()

    def _arm(self) -> None:
        assert self._file is not None
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self._file)
        self._armed = time.monotonic()

    def close(self) -> None:
        """Remove the empty file."""
        faulthandler.cancel_dump_traceback_later()
        if self._file is not None:
            self._file.close()
            self.path.unlink(missing_ok=True)
