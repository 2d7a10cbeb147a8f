"""Whether gRPC goes through a proxy, by the rules that it reads the environment by."""

from __future__ import annotations

import ipaddress
import os

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def proxy_for(host: str) -> str:
    """The variable that names a proxy on the way to a host, and its value; empty where the way is direct."""
    for variable in _PROXIES:
        value = os.environ.get(variable)
        if value:
            return "" if _excepted(host) else f"{variable}={_without_password(value)}"
    return ""


def _excepted(host: str) -> bool:
    listed = next((os.environ[name] for name in _EXCEPTIONS if os.environ.get(name)), "")
    entries = [entry.strip().lower() for entry in listed.split(",")]
    return any(entry and (host.lower().endswith(entry) or _in_network(host, entry)) for entry in entries)


def _in_network(host: str, entry: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _without_password(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]
