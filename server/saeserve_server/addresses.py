"""Addresses to listen on, as they are written: `HOST:PORT`, `[V6]:PORT`, `unix:PATH`."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from saeserve_server.errors import shown

UNIX = "unix:"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is offered to those who wrote `*` or nothing
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")


def check_address(value: str, *, default_port: int, sockets: bool = True) -> str:
    """`HOST:PORT`, `[V6]:PORT` or, with `sockets`, `unix:PATH`, unchanged.

    Raises ValueError for anything else: it says what is expected, what is there, and what was probably meant.
    """
    if sockets and value.startswith(UNIX):
        if not socket_path(value).name:
            raise ValueError(f"expected unix:PATH, got {shown(value)}")
        return value
    host, colon, port = value.rpartition(":")
    if colon and _is_port(port) and _is_host(host):
        return value
    expected = "HOST:PORT or unix:PATH" if sockets else "HOST:PORT or none"
    if colon and _is_host(host) and re.fullmatch(r"\d+", port):
        raise ValueError(f"expected a port from 0 to 65535, got {shown(value)}")
    meant = "none" if not sockets and value.casefold() == "none" else _meant(value, default_port)
    hint = f"; did you mean {meant}?" if meant else ""
    raise ValueError(f"expected {expected}, got {shown(value)}{hint}")


def socket_path(address: str) -> Path:
    """The path of `unix:PATH` or `unix:///PATH`."""
    return Path(address.removeprefix(UNIX).removeprefix("//"))


def host_and_port(address: str) -> tuple[str, int]:
    """Host, without brackets, and port of an address that was checked."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def collide(one: str, other: str) -> bool:
    """Whether two checked addresses cannot both be listened on: one port, of the same host or of every one."""
    if one.startswith(UNIX) or other.startswith(UNIX):
        return one == other
    (host, port), (other_host, other_port) = host_and_port(one), host_and_port(other)
    return port != 0 and port == other_port and (host == other_host or any(map(_is_everywhere, (host, other_host))))


def _is_everywhere(host: str) -> bool:
    address = _literal(host)
    return address is not None and address.is_unspecified


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and int(text) <= 65535


def _is_host(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        return isinstance(_literal(text[1:-1]), ipaddress.IPv6Address)
    if re.fullmatch(r"[\d.]+", text):
        return _literal(text) is not None
    return _HOST.fullmatch(text) is not None


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _meant(value: str, default_port: int) -> str | None:
    """The address that was probably meant, None where nothing is near."""
    if value.startswith(UNIX):
        return f"127.0.0.1:{default_port}"
    text = re.sub(r"^[a-z]+:/+", "", re.sub(r"\s", "", value)).rstrip("/")
    host, _, port = text.rpartition(":")
    tries = [
        text,
        f"127.0.0.1:{text}",
        f"[{host}]:{port}",
        f"[{text}]:{default_port}",
        f"{text}:{default_port}",
        f"{EVERYWHERE}:{port}" if host in ("", "*") else "",
        f"{EVERYWHERE}:{default_port}" if text == "*" else "",
    ]
    for one in tries:
        host, colon, port = one.rpartition(":")
        if colon and one != value and _is_port(port) and _is_host(host):
            return one
    return None
