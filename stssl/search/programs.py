"""Other programs, and ports of this machine: what a search needs to get to a cluster."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from stssl.errors import RunError

START_SECONDS = 120.0


def environment() -> dict[str, str]:
    """In which `python` and `ray` are those of this process, whose environment need not be activated."""
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}


def call(
    command: list[str],
    source: str,
    quiet: bool = False,
    text: str | None = None,
    variables: dict[str, str] | None = None,
) -> str:
    """Run a program; what it prints is for the user to see, or returned.

    Raises:
        RunError: It is not there, or fails.
    """
    shown = " ".join(part for part in command if part != sys.executable).replace("-m ray.scripts.scripts", "ray")[:200]
    try:
        done = subprocess.run(
            command,
            env=variables,
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            capture_output=quiet,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise RunError(f"{source}: `{command[0]}` is not on this machine, and is needed to submit there") from None
    if done.returncode:
        said = ((done.stderr or "").strip() or (done.stdout or "").strip()).splitlines()
        raise RunError(f"{source}: `{shown}` failed{': ' + said[-1] if said else ''}")
    return done.stdout or ""


def is_open(port: int) -> bool:
    """Whether anything listens at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_open(port: int, source: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until it does.

    Args:
        port: Which one.
        source: For whose sake, in messages.
        process: What is to listen there.

    Raises:
        RunError: It has ended, or START_SECONDS are over.
    """
    until = time.monotonic() + START_SECONDS
    while not is_open(port):
        if process is not None and process.poll() is not None:
            raise RunError(f"{source}: no tunnel to the head node could be opened; does `ray attach {source}` work?")
        if time.monotonic() > until:
            raise RunError(f"{source}: nothing listens at port {port} after {START_SECONDS:g} s")
        time.sleep(0.3)


def answers(address: str, seconds: float) -> bool:
    """Whether an HTTP server says anything within so many seconds, be it a refusal; at once where nothing listens."""
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
            return True
        except urllib.error.HTTPError:
            return True
        except (OSError, ValueError, http.client.HTTPException) as error:
            nobody = isinstance(getattr(error, "reason", None), ConnectionRefusedError | socket.gaierror)
            if nobody or time.monotonic() > until:
                return False
            time.sleep(0.5)
