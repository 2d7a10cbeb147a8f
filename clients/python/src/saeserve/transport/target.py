"""Where to connect: what a caller wrote, as gRPC takes it."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from grpc import StatusCode

from saeserve.transport.errors import Unavailable

log = logging.getLogger(__name__)

_SCHEME = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds|google-c2p):")
_LOOPBACK_NAMES = {
    "localhost": "localhost",
    "localhost.localdomain": "localhost",
    "localhost4": "127.0.0.1",
    "localhost6": "::1",
    "ip6-localhost": "::1",
    "ip6-loopback": "::1",
}
"""And what of them gRPC knows without asking a name server."""
_LONGEST_SOCKET = 107
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
    """The name that certificates are checked against, where the address does not say it; None where there is none."""
    host: str
    """Of one server, its host; empty where there are several or none."""


def parse_target(given: str | Iterable[str]) -> Target:
    """One `HOST:PORT`, several (a list, or with commas), or a gRPC name such as `dns:///NAME:PORT` or `unix:PATH`.

    Names among several are looked up here, once. Raises ValueError and TypeError for what cannot be an address, and
    Unavailable where none of several names is known.
    """
    written = _texts(given)
    if not written:
        raise ValueError(f"no target is given; {_EXPECTED}")
    if len(written) == 1 and _SCHEME.match(written[0]):
        return _of_scheme(written[0])
    parts = [part.strip() for one in written for part in one.split(",")]
    pairs = [_host_and_port(part) for part in parts]
    local = all(this_machine(host) is not None for host, _ in pairs)
    if len(parts) == 1:
        host, port = pairs[0]
        if not local:
            return Target(parts[0], parts[0], False, False, None, host)
        return _own(parts[0], "", host, port, several=False)
    pairs = [(this_machine(host) or host, port) for host, port in pairs]
    hosts = {host for host, _ in pairs}
    server_name = pairs[0][0] if len(hosts) == 1 else None
    return Target(",".join(parts), _literal(pairs), True, local, server_name, "")


def _texts(given: Any) -> list[str]:
    written = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if not all(isinstance(one, str) for one in written):
        raise TypeError(f"target {given!r} is no text; {_EXPECTED}")
    return written


def _of_scheme(given: str) -> Target:
    scheme, _, rest = given.partition(":")
    path = rest.rpartition("/")[2]
    if scheme == "dns":
        host, port = _host_and_port(path, given)
        asks_another = rest.startswith("//") and not rest.startswith("///")  # a name server of the caller's choice
        if this_machine(host) is None or asks_another:
            return Target(given, given, True, False, None, host)
        return _own(given, "dns:///", host, port, several=True)
    if scheme in ("ipv4", "ipv6"):
        pairs = [_host_and_port(part, given) for part in path.split(",")]
        local = all(this_machine(host) is not None for host, _ in pairs)
        return Target(given, given, len(pairs) > 1, local, None, pairs[0][0] if len(pairs) == 1 else "")
    if scheme == "unix" and len(rest.encode()) > _LONGEST_SOCKET:
        raise ValueError(f"target {given!r}: the path of a socket has at most {_LONGEST_SOCKET} bytes")
    return Target(given, given, scheme in ("xds", "google-c2p"), scheme.startswith("unix"), None, "")


def _own(given: str, scheme: str, host: str, port: int, several: bool) -> Target:
    """This machine. gRPC's resolver knows few of its spellings, so it gets one that it does."""
    own = this_machine(host) or host
    if own == host.lower():
        return Target(given, given, several, True, None, host)
    address = f"{scheme}[{own}]:{port}" if ":" in own else f"{scheme}{own}:{port}"
    named = not _is_address(host) and _numeric(host) is None
    return Target(given, address, several, True, host.rstrip(".") if named else None, host)


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


def this_machine(host: str) -> str | None:
    """The loopback name or address that a host stands for, however it is written; None for another machine.

    Names of the loopback, all of 127.0.0.0/8 in any notation, ::1, the same mapped into IPv6, and the unspecified
    addresses that a server binds to (0.0.0.0, ::), which reach this machine where they are called.
    """
    name = host.strip("[]").lower().removesuffix(".")
    if name in _LOOPBACK_NAMES or name.endswith(".localhost"):  # RFC 6761
        return _LOOPBACK_NAMES.get(name, "localhost")
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return _numeric(name)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "::1"
    return str(address) if address.is_loopback else None


def _numeric(name: str) -> str | None:
    """127.1, 2130706433, 0x7f.1: what the C library reads as an IPv4 address of this machine."""
    if not name or not (name[0].isascii() and name[0].isdigit()):
        return None
    try:
        address = ipaddress.ip_address(socket.inet_aton(name))
    except OSError:
        return None
    return this_machine(str(address))
