"""Folders on a disk or in a bucket, by path or by any URI that pyarrow opens (`s3://...`, `gs://...`, `file://...`)."""

from __future__ import annotations

import contextlib
import os
import posixpath
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import pyarrow as pa
from pyarrow import fs as pafs

from stssl.errors import DataError, short_repr
from stssl.files import NAME_BYTES, atomic_path, check_file

T = TypeVar("T")
CHUNK = 8 << 20
PATIENCE_SECONDS = 600.0  # for a bucket that does not answer in the middle of a search: results are worth the wait
# what no further attempt will change: S3, GCS, Azure
_FINAL = (
    "ACCESS_DENIED", "AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "PERMISSION_DENIED",
    "Permission denied", "AuthenticationFailed", "AuthorizationFailure",
)  # fmt: skip


class Entry(NamedTuple):
    """What a folder lists: `name` relative to it, `bytes` and `mtime_ns` (0 for a folder)."""

    name: str
    is_folder: bool
    bytes: int
    mtime_ns: int


def is_uri(place: str | Path) -> bool:
    """Whether a place is given as a URI with a scheme, not as a path."""
    return "://" in str(place)


class Folder:
    """A folder. Names in it are relative, with `/` between their parts. It can be pickled.

    Every path below a folder is built here. A name that leads out of it (absolute, with `..`) is refused, and nothing is
    written or deleted where a symbolic link leads out of the folder that was opened. Links are followed for reading: data sets
    are often put together from them.

    Printed, a folder never shows the credentials that its URI may hold.

    Args:
        place: A path, or a URI. For `s3://`, $AWS_ENDPOINT_URL and $AWS_REGION are heeded, as boto3 does, unless the URI
            has `?endpoint_override=host:port&scheme=http&region=...` of its own.

        patience: For so many seconds what a bucket fails to do is tried again; 0 = never.

    Attributes:
        place: What opens it again.
        path: The local path, or None in a bucket.

    Raises:
        DataError: The URI cannot be understood.
    """

    place: str
    path: Path | None
    _fs: pafs.FileSystem
    patience: float
    _root: str
    _shown: str
    _top: Path | None  # what was opened, where this is a folder below it

    def __init__(self, place: str | Path | Folder, patience: float | None = None) -> None:
        if isinstance(place, Folder):
            vars(self).update(vars(place))
            self.patience = place.patience if patience is None else patience
            return
        text = str(place)
        self.patience = patience or 0.0
        scheme = urlsplit(text).scheme if is_uri(text) else "file"
        if scheme == "file":
            local = unquote(urlsplit(text).path) if is_uri(text) else text
            if is_uri(text) and urlsplit(text).netloc not in ("", "localhost"):
                raise DataError(f"{text}: names a host, not a folder; write file:///FOLDER, with three slashes")
            try:
                if b"\0" in local.encode():
                    raise ValueError(local)
                self.path = Path(os.path.abspath(Path(local).expanduser()))
            except (RuntimeError, ValueError):  # the home of nobody; a name that is no UTF-8 or holds a NUL
                raise DataError(f"{text!a}: no path on this machine; correct or rename it") from None
            self._fs, self._root, self._shown = pafs.LocalFileSystem(), str(self.path).rstrip("/"), str(self.path)
            self.place, self._top = self._shown, self.path
            return
        try:
            self._fs, root = pafs.FileSystem.from_uri(_with_environment(text))
            if not root.strip("/"):
                raise ValueError("it names no bucket")
        except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{_without_secrets(text)}: no folder that can be opened: {reason}") from None
        self.path, self._top, self._root = None, None, root.rstrip("/")
        self._shown, self.place = f"{scheme}://{self._root}", text

    def __str__(self) -> str:
        return self._shown

    __repr__ = __str__

    def __truediv__(self, name: str) -> Folder:
        """A folder in this one.

        Raises:
            DataError: The name leads out of it.
        """
        child = Folder(self)
        child._root, child._shown = self._join(name), f"{self._shown}/{name}"
        parts = urlsplit(self.place)
        below = f"{parts.path.rstrip('/')}/{quote(name)}"  # `?` and `#` would begin another part of a URI
        child.place = child._shown if self.path is not None else parts._replace(path=below).geturl()
        child.path = self.path / name if self.path is not None else None
        return child

    def _join(self, name: str) -> str:
        """What the file system calls a name in this folder."""
        for part in name.split("/"):
            if part in ("", ".", "..") or "\0" in part:
                raise DataError(f"{self}: {short_repr(name)} is not the name of a file in this folder")
            if len(os.fsencode(part)) > NAME_BYTES:
                raise DataError(f"{self}: {short_repr(name)} is longer than the {NAME_BYTES} bytes of a file's name")
        return f"{self._root}/{name}"

    def local_path(self, name: str) -> Path:
        """The path of a file in a folder on a disk, to read it.

        Raises:
            DataError: The name leads out of the folder.
        """
        return Path(self._join(name))

    def writable_path(self, name: str) -> Path:
        """The path of a file or folder in a folder on a disk, to open it for writing or to write below it.

        Raises:
            DataError: The name leads out of the folder, or a symbolic link does.
        """
        path = self.local_path(name)
        self._check_links(path)
        return path

    def inside(self, name: str) -> Folder:
        """A folder in this one, likewise refused if a symbolic link leads out."""
        if self.path is not None:
            self.writable_path(name)
        return self / name

    def locate(self, path: str) -> tuple[Folder, str]:
        """Where a file lies that users name relative to this folder: on a disk anywhere, in a bucket below it.

        Returns:
            Its folder, and its name there.

        Raises:
            DataError: It names no file, or one that a bucket's folder does not hold.
        """
        path = posixpath.normpath(path)
        above, name = posixpath.split(path)
        if path.startswith("/"):
            return Folder(above), name
        if path.startswith("../") and self.path is not None:
            return Folder(
                os.path.realpath(self.path / above)
            ), name  # the parent of what a link leads to, as `open` has it
        return (self / above if above else self), name

    def _entry(self, name: str) -> Path:
        """The path of an entry that is to be replaced or removed: it may itself be a link, which is not followed."""
        path = self.local_path(name)
        self._check_links(path.parent)
        return path

    def _check_links(self, path: Path) -> None:
        top = os.path.realpath(str(self._top))
        real = os.path.realpath(path)
        if os.path.commonpath([top, real]) != top:
            raise DataError(
                f"{path}: leads out of {self._top} through a symbolic link (to {real}), so nothing is written or deleted there; "
                "replace the link by a folder of its own, or move all of the outer folder to where there is room"
            )

    def show(self, name: str) -> str:
        """A file's full name, for a message."""
        return f"{self._shown}/{name}"

    def exists(self) -> bool:
        """Whether there is such a folder (in a bucket: anything below it)."""
        if self.path is not None:
            return self.path.is_dir()
        return bool(self._try(lambda: self._fs.get_file_info(self._root)).type == pafs.FileType.Directory)

    def entries(self, recursive: bool = False) -> list[Entry]:
        """Everything in the folder, sorted by name; empty if there is no such folder.

        Raises:
            OSError: The disk or the bucket refuses.
        """
        if self.path is not None:
            return sorted(self._scan(self.path, "", recursive))
        selector = pafs.FileSelector(self._root, allow_not_found=True, recursive=recursive)
        infos = self._try(lambda: self._fs.get_file_info(selector))
        start = len(self._root) + 1
        entries = [
            Entry(info.path[start:], info.type == pafs.FileType.Directory, info.size or 0, info.mtime_ns or 0)
            for info in infos
        ]
        return sorted(entry for entry in entries if entry.name)

    def _scan(self, path: Path, prefix: str, recursive: bool) -> Iterator[Entry]:
        """A local folder, whatever its names are encoded in, which pyarrow would stumble over."""
        try:
            found = list(os.scandir(path))
        except FileNotFoundError:
            return
        for entry in found:
            is_folder, status = entry.is_dir(), entry.stat(follow_symlinks=os.path.exists(entry))
            yield Entry(prefix + entry.name, is_folder, 0 if is_folder else status.st_size, status.st_mtime_ns)
            if recursive and is_folder:
                yield from self._scan(path / entry.name, f"{prefix}{entry.name}/", recursive)

    def names(self) -> list[str]:
        """Names of all files and folders in it, sorted: quicker than `entries` on a disk. Empty if there is no such folder.

        Raises:
            OSError: The disk or the bucket refuses.
        """
        if self.path is None:
            return [entry.name for entry in self.entries()]
        try:
            return sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None if it is not there."""
        key = self._join(name)
        info = self._try(lambda: self._fs.get_file_info(key))
        return info.size if info.type == pafs.FileType.File else None

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: It is not there.
            OSError: The disk or the bucket refuses.
            StsslError: It is a pipe, a device or the like.
        """
        if self.path is not None:
            check_file(self.local_path(name))
            return self.local_path(name).read_bytes()
        key = self._join(name)

        def fetch() -> bytes:
            with self._fs.open_input_stream(key, compression=None) as file:
                return bytes(file.read())

        return self._try(fetch)

    def open(self, name: str) -> pa.NativeFile:
        """A file for reading here and there.

        Raises:
            OSError: It is not there, or the disk or the bucket refuses.
        """
        key = self._join(name)
        return self._try(lambda: self._fs.open_input_file(key))

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A file on a disk of this machine, for whoever cannot read from a bucket; a copy lasts as long as the block.

        Raises:
            FileNotFoundError: It is not there.
            OSError: The disk or the bucket refuses.
        """
        if self.path is not None:
            yield self.local_path(name)
            return
        key = self._join(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name.rpartition("/")[2]

            def fetch() -> None:
                with (
                    self._fs.open_input_stream(key, compression=None) as file,
                    path.open("wb") as copy,
                ):
                    shutil.copyfileobj(file, copy, CHUNK)

            self._try(fetch)
            yield path

    def write(self, name: str, data: bytes) -> None:
        """Write a file; it is there whole or not at all.

        Raises:
            OSError: The disk or the bucket refuses.
        """
        if self.path is not None:
            with atomic_path(self._entry(name)) as temporary:
                temporary.write_bytes(data)
            return
        self._try(lambda: undisturbed(lambda: self._upload(name, [data])))

    def put(self, local: Path, name: str) -> None:
        """Move a finished local file into the folder; it is there whole or not at all.

        Raises:
            OSError: The disk or the bucket refuses.
        """
        if self.path is not None:
            path = self._entry(name)
            with local.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(local, path)
            return

        def upload() -> None:
            with local.open("rb") as file:
                self._upload(name, iter(lambda: file.read(CHUNK), b""))

        self._try(lambda: undisturbed(upload))
        local.unlink()

    def _upload(self, name: str, chunks: Iterable[bytes]) -> None:
        with self._fs.open_output_stream(self._join(name), compression=None) as file:
            for chunk in chunks:
                file.write(chunk)

    def delete(self, name: str) -> None:
        """Delete a file; it may be gone already."""
        if self.path is not None:
            self._entry(name).unlink(missing_ok=True)
            return
        key = self._join(name)
        with contextlib.suppress(FileNotFoundError):
            self._try(lambda: self._fs.delete_file(key))

    def _try(self, call: Callable[[], T]) -> T:
        """What pyarrow does, again and again if that may help, and within our patience."""

        def once() -> T:
            with _as_os_error():
                return call()

        return patiently(once, 0 if self.path is not None else self.patience)

    def delete_folder(self, name: str) -> None:
        """Delete a folder of ours with all that is in it; it may be gone already. Of a symbolic link, the link alone goes."""
        if self.path is not None:
            path = self._entry(name)
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)
            return
        for entry in (self / name).entries(recursive=True):
            if not entry.is_folder:
                self.delete(f"{name}/{entry.name}")
        with contextlib.suppress(OSError):  # an object store has no folders
            self._fs.delete_dir(self._join(name))


def patiently(call: Callable[[], T], seconds: float) -> T:
    """Call again and again, for so long, what a bucket fails to do, but for what it will never do.

    Raises:
        OSError: As the last attempt did.
    """
    until, pause = time.monotonic() + seconds, 0.5
    while True:
        try:
            return call()
        except OSError as error:
            final = isinstance(error, FileNotFoundError) or any(sign in str(error) for sign in _FINAL)
            if final or time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 15.0)


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Whatever else pyarrow raises about a bucket is a refusal too."""
    try:
        yield
    except pa.ArrowException as error:
        if isinstance(error, OSError):
            raise
        raise OSError(str(error).splitlines()[0]) from None


def undisturbed(upload: Callable[[], None]) -> None:
    """Run an upload to its end before Ctrl-C or SIGTERM is answered: pyarrow would close, and so publish, half of a file.

    So for all that must not be left half done.
    """
    if threading.current_thread() is not threading.main_thread():  # no other thread hears signals
        upload()
        return
    heard: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: heard.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        upload()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if heard:
            signal.raise_signal(heard[0])


def _with_environment(uri: str) -> str:
    """An S3 URI with endpoint and region from the environment where it names none; pyarrow itself ignores them."""
    parts = urlsplit(uri)
    parts = parts._replace(path=quote(parts.path, safe="/%~!$&'()*+,;=:@"))
    if parts.scheme != "s3":
        return parts.geturl()
    query = {"allow_delayed_open": "true"} | dict(parse_qsl(parts.query))  # a small file is one request, not three
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override" not in query:
        server = urlsplit(endpoint)
        if server.scheme not in ("http", "https") or not server.netloc:
            raise DataError(
                f"AWS_ENDPOINT_URL={endpoint}: no address of a server; write http://HOST:PORT or https://HOST"
            )
        query |= {"endpoint_override": server.netloc, "scheme": server.scheme or "https"}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region or "endpoint_override" in query:  # a server of one's own has no region to be asked for
        query.setdefault("region", region or "us-east-1")
    return parts._replace(query=urlencode(query, quote_via=quote)).geturl()


def _without_secrets(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
