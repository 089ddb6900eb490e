"""Loopback is never asked through a proxy, however the environment spells it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request

import pytest
import requests.utils  # type: ignore[import-untyped]

from stssl.proxies import exempt_loopback, is_loopback, proxy_of

NAMES = [f"{kind}_proxy" for kind in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        for spelt in (name, name.upper()):
            monkeypatch.setenv(spelt, "")  # what is set in a test is taken back after it
            monkeypatch.delenv(spelt)


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "listed", [{}, {"no_proxy": "intern.example"}, {"NO_PROXY": "intern.example"}, {"no_proxy": " "}]
)
def test_every_library_asks_loopback_directly(
    proxy: str, listed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(proxy, "http://10.0.0.1:3128")
    for name, hosts in listed.items():
        monkeypatch.setenv(name, hosts)
    exempt_loopback()
    exempt_loopback()  # adds nothing more
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] and os.environ["no_proxy"].count("localhost") == 1
    for url in ("http://127.0.0.1:8265", "https://localhost:1", "http://[::1]:8265/x"):
        assert requests.utils.should_bypass_proxies(url, None)
        assert urllib.request.proxy_bypass(url.split("//")[1].split("/")[0])
    asked = requests.utils.should_bypass_proxies("http://intern.example", None)
    assert bool(asked) == any("intern" in hosts for hosts in listed.values())
    assert not requests.utils.should_bypass_proxies("http://elsewhere.example", None)


def test_nothing_is_added_to_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    exempt_loopback()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "*"


def test_programs_that_are_started_inherit_it() -> None:
    code = "from stssl.search.ray_environment import prepare; import os; prepare('auto'); print(os.environ['NO_PROXY'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "127.0.0.1" in done.stdout


@pytest.mark.parametrize(
    ("host", "is_it"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("LOCALHOST.", True), ("a.localhost", True),
     ("10.0.0.1", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_what_is_loopback(host: str, is_it: bool) -> None:
    assert is_loopback(host) == is_it


def test_which_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_of("http://head.example:8265") is None
    monkeypatch.setenv("ALL_PROXY", "http://all.example:1")
    monkeypatch.setenv("https_proxy", "http://tls.example:1")
    assert proxy_of("http://head.example:8265") == "http://all.example:1"
    assert proxy_of("https://head.example:8265") == "http://tls.example:1"
    assert proxy_of("http://127.0.3.1:8265") is None
    monkeypatch.setenv("no_proxy", "head.example")
    assert proxy_of("https://head.example:8265") is None
