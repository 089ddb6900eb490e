"""Other programs, and ports of this machine: what a search needs to get to a cluster."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from stssl.errors import RunError
from stssl.proxies import proxy_of

START_SECONDS = 120.0
GATEWAY = (407, 502, 503, 504)  # said by what stands between, not by the server that was asked


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
    """Whether anything listens at a port of this machine; also if it is too busy to say so."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except TimeoutError:
        return True
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
    """Whether an HTTP server says anything, be it a refusal; False if nothing listens, or hangs up at once for so long.

    Raises:
        RunError: It cannot be asked, so whether it runs is not known: a proxy or a gateway stands between that does not get
            through to it, its name is not known, or it is silent for so many seconds.
    """
    until, proxy = time.monotonic() + seconds, proxy_of(address)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({} if proxy is None else {urlsplit(address).scheme: proxy})
    )
    while True:
        try:
            opener.open(f"{address}/api/version", timeout=min(5.0, seconds)).close()
            return True
        except urllib.error.HTTPError as error:
            if error.code not in GATEWAY:
                return True
            reason, runs_not = f"{error.code} {error.reason}", False
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            reason = str(cause) or type(cause).__name__
            if proxy is None and isinstance(cause, ConnectionRefusedError):
                return False
            # so ends a tunnel behind which nothing listens
            runs_not = proxy is None and isinstance(cause, ConnectionResetError)  # RemoteDisconnected is one
            if isinstance(cause, socket.gaierror):
                until = 0
        if time.monotonic() > until:
            break
        time.sleep(0.5)
    if runs_not:
        return False
    through = "" if proxy is None else f" through the proxy {_without_login(proxy)}, which the environment names"
    raise RunError(f"{address}: cannot be asked{through}: {reason}; whether it runs is not known")


def _without_login(proxy: str) -> str:
    return re.sub(r"[^/]*@", "", proxy)
