"""Where to connect: what a caller wrote, as gRPC takes it."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from grpc import StatusCode

from saeserve.transport.errors import Unavailable

log = logging.getLogger(__name__)

_SCHEME = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds|google-c2p):")
_EXPECTED = "HOST:PORT is expected, for example 127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class Target:
    """One server, or several that share the calls."""

    given: str
    """As written, several with commas."""
    address: str
    """As gRPC takes it."""
    several: bool
    """Whether several servers may answer."""
    local: bool
    """Whether what is sent stays on this machine."""
    server_name: str | None
    """Of several addresses: the one name that their certificates are checked against; None where there is none."""


def parse_target(given: str | Iterable[str]) -> Target:
    """One `HOST:PORT`, several (a list, or with commas), or a gRPC name such as `dns:///NAME:PORT` or `unix:PATH`.

    Names among several are looked up here, once. Raises ValueError for what cannot be an address, and Unavailable where
    none of several names is known.
    """
    written = [given] if isinstance(given, str) else list(given)
    if not written:
        raise ValueError(f"no target is given; {_EXPECTED}")
    if len(written) == 1 and _SCHEME.match(written[0]):
        return _of_scheme(written[0])
    parts = [part.strip() for one in written for part in one.split(",")]
    pairs = [_host_and_port(part) for part in parts]
    local = all(_is_loopback(host) for host, _ in pairs)
    if len(parts) == 1:
        return Target(parts[0], parts[0], False, local, None)
    hosts = {host for host, _ in pairs}
    server_name = pairs[0][0] if len(hosts) == 1 else None
    return Target(",".join(parts), _literal(pairs), True, local, server_name)


def _of_scheme(given: str) -> Target:
    scheme, _, rest = given.partition(":")
    path = rest.rpartition("/")[2]
    if scheme == "dns":
        host, _ = _host_and_port(path, given)
        return Target(given, given, True, _is_loopback(host), None)
    if scheme in ("ipv4", "ipv6"):
        pairs = [_host_and_port(part, given) for part in path.split(",")]
        local = all(_is_loopback(host) for host, _ in pairs)
        return Target(given, given, len(pairs) > 1, local, None)
    return Target(given, given, scheme in ("xds", "google-c2p"), scheme.startswith("unix"), None)


def _host_and_port(part: str, given: str | None = None) -> tuple[str, int]:
    """`HOST:PORT` or `[V6]:PORT`. Raises ValueError."""
    given = part if given is None else given
    if "://" in part:
        raise ValueError(f"target {given!r} is a URL; {_EXPECTED}")
    host, colon, port = part.rpartition(":")
    if not colon or part.endswith("]"):
        raise ValueError(f"target {given!r} has no port; {_EXPECTED}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"target {given!r}: an IPv6 address stands in brackets, for example [::1]:50051")
    if not host.strip("[]") or "/" in host or any(char.isspace() for char in host):
        raise ValueError(f"target {given!r} is no address; {_EXPECTED}")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"target {given!r} has no port from 1 to 65535; {_EXPECTED}")
    return host.strip("[]"), int(port)


def _literal(pairs: list[tuple[str, int]]) -> str:
    """Several addresses in gRPC's form, which takes numbers of one family only."""
    for family, scheme in ((socket.AF_INET, "ipv4"), (socket.AF_INET6, "ipv6")):
        found: dict[str, None] = {}
        unknown = []
        for host, port in pairs:
            try:
                answers = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            except OSError:
                unknown.append(host)
                continue
            for *_, address in answers:
                found[f"{address[0]}:{port}" if family == socket.AF_INET else f"[{address[0]}]:{port}"] = None
        if found and any(_is_address(host) for host in unknown):
            raise ValueError("several targets must be all of IPv4 or all of IPv6")
        if found:
            if unknown:
                log.warning("no address is known of %s; the other targets are used", ", ".join(unknown))
            return f"{scheme}:" + ",".join(found)
    names = ", ".join(host for host, _ in pairs)
    raise Unavailable(f"no address is known of {names}", code=StatusCode.UNAVAILABLE, reason="TARGET_NOT_FOUND")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    host = host.strip("[]")
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback if _is_address(host) else host == "localhost"
