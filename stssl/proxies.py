"""HTTP proxies from the environment (`http_proxy` and its kin): what is on this machine is asked without them."""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from urllib.parse import urlsplit

# Each program compares these in its own way: some know networks, some want brackets.
LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1", "[::1]")


def exempt_loopback() -> None:
    """Add loopback to `no_proxy` and `NO_PROXY`, for this process and all that it starts."""
    for name in ("no_proxy", "NO_PROXY"):
        # A program that reads one of them does not look at the other.
        listed = os.environ.get(name) or os.environ.get(name.swapcase()) or ""
        hosts = [host.strip() for host in listed.split(",") if host.strip()]
        missing = [] if hosts == ["*"] else [host for host in LOOPBACK if host not in hosts]
        os.environ[name] = ",".join(hosts + missing)


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine as it calls itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost" or host.lower().rstrip(".").endswith(".localhost")


def proxy_of(url: str) -> str | None:
    """The proxy through which the environment wants a URL to be asked; None = directly."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
