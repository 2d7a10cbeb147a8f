"""Why an address cannot be listened on, found by trying: gRPC says only that it cannot."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from typing import Any

from saeserve_server.addresses import UNIX, host_and_port, socket_path

LONGEST_SOCKET_PATH = 107
"""Bytes that the system has for the path of a socket."""
FIRST_FREE_PORT = 1024
"""Those below are the superuser's on many systems."""


def obstacle(address: str) -> str | None:
    """Why nothing can listen on a checked address now, and what to do; None where nothing stands against it.

    It is tried and let go again, so that it takes no time and nobody is answered there.
    """
    if address.startswith(UNIX):
        return _socket_obstacle(address)
    host, port = host_and_port(address)
    try:
        places = _places(host, port)
    except OSError as error:
        return f"the name {host} cannot be looked up ({error.strerror}); give an address of this machine"
    reasons = []
    for family, place in places:
        try:
            with socket.socket(family) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                trial.bind(place)
        except OSError as error:
            reasons.append(_reason(error, host, port))
        else:
            return None  # gRPC asks for one of them
    return reasons[0]


def _places(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """What a host stands for; only a name is looked up. Raises OSError."""
    try:
        family = socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6
    except ValueError:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [(family, place) for family, _, _, _, place in found]
    return [(family, (host, port))]


def _reason(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} is in use by another program; give another, or 0 for one that is free"
        case errno.EACCES | errno.EPERM if 0 < port < FIRST_FREE_PORT:
            return f"port {port} needs a permission that this user has not; give one from {FIRST_FREE_PORT} on"
        case errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine; give one, or 0.0.0.0 for all that it has"
        case errno.EAFNOSUPPORT:
            return f"this machine has no addresses of the kind of {host}"
    return (error.strerror or str(error)).lower()


def _socket_obstacle(address: str) -> str | None:
    path = socket_path(address)
    length = len(os.fsencode(path))
    if length > LONGEST_SOCKET_PATH:
        return f"a path of {length} bytes, and a socket's has at most {LONGEST_SOCKET_PATH}; give a shorter one"
    folder = path.parent
    if not folder.exists():
        return f"there is no folder {folder}; make it, or give another path"
    if not folder.is_dir():
        return f"{folder} is no folder; give another path"
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        return f"{path}: {error.strerror}"
    if mode is not None and not stat.S_ISSOCK(mode):
        return f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'a file'}; give a path where nothing is"
    if mode is not None and _answers(str(path)):
        return f"another server listens on {path}; give another path"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} cannot be written to; give another path"
    return None


def _answers(path: str) -> bool:
    """Whether somebody listens on a socket; the file of one who does not any more is replaced."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(1.0)
        try:
            caller.connect(path)
        except TimeoutError:
            return True
        except OSError:
            return False
    return True
