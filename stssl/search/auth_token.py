"""The token that lets a user's programs into that user's Ray clusters. Whoever can read it can run jobs as its owner."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from stssl.errors import RunError


def ensure() -> None:
    """Make a token that the user alone can read, if there is none, and protect one that is there.

    Ray would make it too (`ray get-auth-token --generate`), but readable for every user of the machine.

    Raises:
        RunError: The token or its folder belongs to another user, or cannot be written.
    """
    path = _path()
    if path is None or "RAY_AUTH_TOKEN_PATH" in os.environ or path.exists():
        protect()
        return
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        protect()
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        protect()  # another process was quicker
    except OSError as error:
        raise RunError(f"{path}: Ray's token cannot be written: {error}; set RAY_AUTH_TOKEN instead") from None


def protect() -> None:
    """Take away the rights of other users to read the token, and refuse one that another user has put there.

    Raises:
        RunError: It belongs to another user.
    """
    path = _path()
    if path is None:
        return
    folder = [] if "RAY_AUTH_TOKEN_PATH" in os.environ else [path.parent]  # which may hold other things than Ray's
    for entry in (*folder, path):
        try:
            status = entry.stat()
        except OSError:
            continue  # not there, or Ray will say why it cannot be read
        if status.st_uid not in (os.getuid(), 0):
            raise RunError(
                f"{entry}: belongs to another user (number {status.st_uid}), who could run jobs under your name; remove it, or "
                "give a token of your own in RAY_AUTH_TOKEN"
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077 and status.st_uid == os.getuid():
            entry.chmod(mode & 0o700)


def _path() -> Path | None:
    """Where Ray looks for it; None where the environment holds the token itself."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(given).expanduser() if given else Path.home() / ".ray" / "auth_token"
