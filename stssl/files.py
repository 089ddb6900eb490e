"""Files that are either whole or absent, and names that stay where they belong."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stssl.errors import StsslError, short_repr

NAME_BYTES = 255  # what file systems allow for one name
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO)
UNREADABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENXIO,
    errno.ETIMEDOUT,
    errno.EMFILE,
    errno.ENFILE,
)
_KINDS = (
    (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"), (stat.S_ISSOCK, "a socket"),
)  # fmt: skip
_IDENTIFIER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def check_name(name: object, what: str) -> str:
    """Check that a value that was read from a file is one name in a folder, not a path.

    Args:
        name: The value.
        what: What it names, for the message, such as `shard`.

    Returns:
        The name.

    Raises:
        StsslError: It is no text, is empty, too long or no UTF-8, is `.` or `..`, or holds a separator or a control character.
    """
    if not isinstance(name, str):
        fault = "it is not text"
    elif not name or name in (".", ".."):
        fault = "it names no file"
    elif "/" in name or "\\" in name:
        fault = "it holds a separator of paths"
    elif _CONTROL.search(name):
        fault = "it holds a control character"
    elif any("\ud800" <= letter <= "\udfff" for letter in name):
        fault = "it is not UTF-8"
    elif len(name.encode()) > NAME_BYTES:
        fault = f"it is longer than {NAME_BYTES} bytes"
    else:
        return name
    raise StsslError(f"{what} {short_repr(name)} is not a valid name: {fault}")


def check_identifier(name: object, what: str) -> str:
    """Check a name of the kind that stssl gives itself, such as `t0001-r3`: letters, digits, `_`, `-` and `.`.

    Args:
        name: The value.
        what: What it names, for the message, such as `trial`.

    Returns:
        The name.

    Raises:
        StsslError: It holds anything else, begins with `-` or `.`, or is longer than 100 characters.
    """
    if isinstance(name, str) and _IDENTIFIER.fullmatch(name):
        return name
    raise StsslError(
        f"{what} {short_repr(name)} is not a valid name: expected at most 100 letters, digits, '_', '-' and '.', and neither '-' "
        "nor '.' first"
    )


def check_file(path: Path | str, most: int | None = None) -> None:
    """Refuse, before it is opened, what is no regular file or larger than it can be.

    A pipe would be waited for without end, and a device read without end.

    Args:
        path: It may be missing.
        most: Bytes; None = any number.

    Raises:
        StsslError: Says what it is, or how large, and what would be right.
        OSError: It cannot be looked at.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return  # whoever opens it says so
    if stat.S_ISDIR(status.st_mode):
        return  # which opening refuses in the same moment
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in _KINDS if test(status.st_mode)), "something else")
        raise StsslError(f"{path}: is {kind}, not a regular file; write its contents into a file, and name that")
    if most is not None and status.st_size > most:
        raise StsslError(
            f"{path}: has {status.st_size:,} bytes, where at most {most:,} can be right; is it another file than you meant?"
        )


def check_archive(path: Path | str) -> None:
    """Refuse, before it is unpacked, an archive of torch's that takes more room than its file: torch never compresses.

    Raises:
        StsslError: It is no regular file, or unpacks to more than it has.
        zipfile.BadZipFile: It is no archive.
        OSError: It cannot be read.
    """
    check_file(path)
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > (size := os.stat(path).st_size):
        raise StsslError(f"{path}: damaged, or no file of torch's: it unpacks to {unpacked:,} bytes from {size:,}")


def new_file(folder: Path | str, prefix: str, suffix: str = "") -> Path:
    """Create an empty file under a name that is not taken, with the mode that the umask gives."""
    while True:
        path = Path(folder) / f"{prefix}{secrets.token_hex(4)}{suffix}"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        return path


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and vanishes otherwise.

    The file is synced before it is renamed, so that neither a kill nor a power cut leaves half of it. Its mode is the one that
    the umask gives, whatever the block makes of it: some writers replace the file by a private one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = new_file(path.parent, f".{path.name[:50]}.", ".partial")
    mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        with named_faults(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            os.chmod(temporary, mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def named_faults(path: Path | str) -> Iterator[None]:
    """Give the errors of a disk that is full or refuses the name of the file that was written: `write` itself tells none.

    Raises:
        OSError: With that name, whichever library met the fault.
    """
    try:
        yield
    except Exception as error:
        # torch and safetensors have errors of their own for what the system told them
        cause = error if isinstance(error, OSError) else error.__context__
        number = cause.errno if isinstance(cause, OSError) else None
        number = number or next((n for n in _DISK if os.strerror(n).lower() in str(error).lower()), None)
        if number not in _DISK or (isinstance(error, OSError) and error.filename):
            raise
        raise OSError(number, f"{os.strerror(number)} while writing", str(path)) from error


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
