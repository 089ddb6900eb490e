"""Whether a server runs: yes, no, or it cannot be asked; each with real sockets, some of them behind a proxy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stssl.errors import RunError
from stssl.search import clusters
from stssl.search.programs import answers, is_open

FOLDER = Path(__file__).parents[2] / "cluster"


@contextmanager
def server(answer: bytes | None, port: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """Gives every request on loopback that answer; empty hangs up, None says nothing. Yields its port and the requests."""
    listening, asked, held = socket.create_server(("127.0.0.1", port)), list[bytes](), []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            held.append(connection)
            asked.append(connection.recv(1000))
            if answer is not None:
                connection.sendall(answer)
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1], asked
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for connection in held:
            connection.close()


def says(code: int) -> bytes:
    return f"HTTP/1.1 {code} Whatever\r\nContent-Length: 0\r\n\r\n".encode()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@pytest.fixture(autouse=True)
def proxies(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets every proxy that the environment can name."""
    names = [f"{kind}_proxy" for kind in ("http", "https", "all", "no")]
    for name in (*names, *(name.upper() for name in names)):
        monkeypatch.delenv(name, raising=False)

    def set_all(proxy: str) -> None:
        for name in (*names[:3], *(name.upper() for name in names[:3])):
            monkeypatch.setenv(name, proxy)

    return set_all


@pytest.mark.parametrize("code", [200, 401, 403, 404, 500])
def test_a_server_on_loopback_is_asked_without_the_proxy(code: int, proxies: Callable[[str], None]) -> None:
    with server(says(502)) as (proxy, through), server(says(code)) as (port, _):
        proxies(f"http://127.0.0.1:{proxy}")
        assert answers(f"http://127.0.0.1:{port}", 2) and answers(f"http://localhost:{port}", 2) and not through
        assert not answers(f"http://127.0.0.1:{free_port()}", 2) and not through


@pytest.mark.parametrize("code", [407, 502, 503, 504])
def test_a_proxy_that_does_not_get_through(code: int, proxies: Callable[[str], None]) -> None:
    with server(says(code)) as (proxy, through):
        proxies(f"http://me:word@127.0.0.1:{proxy}")
        with pytest.raises(
            RunError, match=rf"http://head\.example:8265: cannot be asked through the proxy .*{code}"
        ) as error:
            answers("http://head.example:8265", 0.1)
        assert through and "word" not in str(error.value)


def test_a_proxy_that_does_not_run(proxies: Callable[[str], None]) -> None:
    proxies(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(
        RunError, match=r"through the proxy http://127\.0\.0\.1:\d+, .*refused; whether it runs is not known"
    ):
        answers("http://head.example:8265", 0.1)


def test_what_cannot_be_asked() -> None:
    with server(None) as (port, _), pytest.raises(RunError, match="cannot be asked: timed out"):
        answers(f"http://127.0.0.1:{port}", 0.1)
    with pytest.raises(RunError, match=r"nowhere\.invalid:1: cannot be asked: "):
        answers("http://nowhere.invalid:1", 30)  # it does not wait
    with server(says(503)) as (port, _), pytest.raises(RunError, match="cannot be asked: 503"):
        answers(f"http://127.0.0.1:{port}", 0.1)


def test_what_does_not_run() -> None:
    assert not answers(f"http://127.0.0.1:{free_port()}", 30)
    with server(b"") as (port, _):  # as a tunnel hangs up behind which nothing listens
        assert not answers(f"http://127.0.0.1:{port}", 0.1)
        assert is_open(port)
    assert not is_open(free_port())


def launcher(
    answer: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[clusters.Launcher, list[str]]:
    """A cluster behind a tunnel that gives an answer; and the commands that were run to reach it."""
    path, port, ran = tmp_path / "onprem.yaml", free_port(), []
    text = (FOLDER / "onprem.yaml").read_text().replace("FILL_IN", "filled")
    path.write_text(text.replace("--dashboard-port=8265", f"--dashboard-port={port}"))
    cluster = clusters.read(path)
    assert isinstance(cluster, clusters.Launcher) and cluster.port == port

    @contextmanager
    def tunnel(self: clusters.Launcher) -> Iterator[None]:
        with server(answer, port):
            yield

    monkeypatch.setattr(clusters.Launcher, "_tunnel", tunnel)
    monkeypatch.setattr(clusters, "call", lambda command, *_, **__: ran.append(" ".join(command)))
    monkeypatch.setattr(clusters, "ANSWER_SECONDS", 0.1)
    return cluster, ran


def test_a_cluster_that_runs_is_not_restarted_because_of_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxies: Callable[[str], None]
) -> None:
    proxies(f"http://127.0.0.1:{free_port()}")
    cluster, ran = launcher(says(401), tmp_path, monkeypatch)
    with cluster.reach(print) as address:
        assert address == f"http://127.0.0.1:{cluster.port}"
    assert any(" up " in command for command in ran) and not any("--restart-only" in command for command in ran)


@pytest.mark.parametrize("answer", [None, says(502)])
def test_a_cluster_that_cannot_be_asked_is_not_restarted(
    answer: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, ran = launcher(answer, tmp_path, monkeypatch)
    with pytest.raises(RunError, match="so nothing is started or restarted") as error, cluster.reach(print):
        pass
    assert str(cluster.path) in str(error.value) and not any("--restart-only" in command for command in ran)


def test_a_cluster_that_does_not_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, ran = launcher(b"", tmp_path, monkeypatch)
    with cluster.reach(print):
        pass
    assert any("--restart-only" in command for command in ran)
