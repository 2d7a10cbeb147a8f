"""Why there is no connection, in plain words, with what to try. gRPC's own words stand behind them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from grpc import StatusCode

from saeserve.transport.errors import SaeserveError


@dataclass(frozen=True, slots=True)
class Way:
    """How a client goes to its server, as far as errors need it."""

    target: str
    secure: bool
    """Over TLS."""
    shows_certificate: bool
    """A client's certificate."""
    proxy: str
    """`http_proxy=http://10.0.0.1:3128`; empty where the way is direct."""


# Where nothing but the proxy has been spoken to.
_OF_PROXY = ("CONNECTION_REFUSED", "TARGET_NOT_FOUND", "HOST_UNREACHABLE", "CONNECT_TIMEOUT")
_PLAIN = "does it want TLS (tls=True, or ca_cert), or is this another service's port?"

# What gRPC says, the reason and the words: by the first that matches. `{at}` is the target; a second text is for TLS.
_CAUSES: tuple[tuple[str, str, str, str | None], ...] = (
    (
        r"HTTP proxy returned response code (\d+)",
        "PROXY_REFUSED",
        "the proxy did not let the connection to {at} through (HTTP status {0})",
        None,
    ),
    (r"Expected 'H'", "NOT_A_PROXY", "what answers there is no HTTP proxy", None),
    (
        r"WRONG_VERSION_NUMBER",
        "SERVER_NOT_TLS",
        "{at} does not speak TLS: leave out tls and the certificates, or is this another service's port?",
        None,
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED: certificate (has expired|is not yet valid)",
        "CERTIFICATE_NOT_VALID",
        "the certificate of {at} {0}: it must be renewed there, or a clock is wrong",
        None,
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "CERTIFICATE_NOT_TRUSTED",
        "the certificate of {at} is signed by no authority that is trusted here: give its authority's as ca_cert",
        None,
    ),
    (
        r"Hostname Verification Check failed|is not in peer certificate",
        "CERTIFICATE_NAME",
        "the certificate of {at} is for another name: connect by that name, or give it as server_name",
        None,
    ),
    (
        r"[Tt]ls handshake failed|SSL_ERROR",
        "TLS_FAILED",
        "{at} and this client could not agree on TLS",
        None,
    ),
    (
        r"http1\.x server",
        "NOT_GRPC",
        "{at} speaks HTTP/1, not gRPC: " + _PLAIN,
        "{at} speaks HTTP/1, not gRPC: is this another service's port?",
    ),
    (
        r"Expected SETTINGS frame|Failed parsing HTTP/2",
        "NOT_GRPC",
        "{at} does not speak gRPC: " + _PLAIN,
        "{at} does not speak gRPC: is this another service's port?",
    ),
    (
        r"before receiving SETTINGS frame",
        "NOT_GRPC",
        "{at} takes connections but does not speak: " + _PLAIN,
        "{at} takes connections but does not speak gRPC: is this another service's port?",
    ),
    (
        r"Received http2 header with status: \d+|No status received",
        "NOT_GRPC",
        "{at} speaks HTTP/2 but not gRPC: is this another service's port, or a proxy's?",
        None,
    ),
    (
        r"Method not found|[Uu]nknown (service|method)",
        "OTHER_SERVICE",
        "the gRPC server at {at} does not know this call: it is another service, or older than this client",
        None,
    ),
    (
        r"lookup|errors? resolving|Domain name not found|DNS",
        "TARGET_NOT_FOUND",
        "no address is known of {at}: is the name right, and does the name server know it?",
        None,
    ),
    (
        r"^(?=.*\bunix).*No such file or directory",
        "SOCKET_MISSING",
        "there is no socket {at}: has the server started, and is it bound to this path?",
        None,
    ),
    (
        r"^(?=.*\bunix).*[Pp]ermission denied",
        "SOCKET_FORBIDDEN",
        "this user may not use the socket {at}: its file's permissions say who may",
        None,
    ),
    (
        r"^(?=.*\bunix).*Connection refused",
        "CONNECTION_REFUSED",
        "nothing listens at {at}, though the file is there: has the server ended?",
        None,
    ),
    (
        r"Connection refused",
        "CONNECTION_REFUSED",
        "nothing listens at {at}: has the server started, and is this its port?",
        None,
    ),
    (
        r"[Uu]nreachable|No route to host",
        "HOST_UNREACHABLE",
        "no way leads to {at}: is the address right, and this machine on its network?",
        None,
    ),
    (
        r"[Tt]imed? ?out|FD Shutdown|Timeout occurred",
        "CONNECT_TIMEOUT",
        "{at} does not answer: is the address right, and does a firewall let this port through?",
        None,
    ),
    (
        r"Socket closed|[Cc]onnection reset|Broken pipe|EOF|GOAWAY|Handshake read failed|Connection closed",
        "CONNECTION_CLOSED",
        "{at} closed the connection: has the server ended, " + _PLAIN,
        "{at} closed the connection: {certificate}or has the server ended?",
    ),
)
_RULES = tuple((re.compile(pattern, re.DOTALL), reason, plain, tls) for pattern, reason, plain, tls in _CAUSES)
_PREAMBLE = re.compile(r"^(connections to all backends failing|failed to connect to all addresses); last error: ")
# Codes that gRPC gives to what it could not read as an answer of a service.
_CODES = (
    StatusCode.UNAVAILABLE,
    StatusCode.UNIMPLEMENTED,
    StatusCode.UNKNOWN,
    StatusCode.INTERNAL,
    StatusCode.UNAUTHENTICATED,
    StatusCode.PERMISSION_DENIED,
)


def explained(error: SaeserveError, way: Way) -> SaeserveError:
    """The error with words of our own where no server of ours has said what is wrong: its reason is empty then."""
    if error.reason or error.code not in _CODES:
        return error
    said = _PREAMBLE.sub("", error.message)
    for pattern, reason, plain, tls in _RULES:
        found = pattern.search(said)
        if found is None:
            continue
        asks = "does it ask for a client's certificate (client_cert, client_key), "
        if way.shows_certificate:
            asks = "does it trust this client's certificate, "
        at = "the proxy" if way.proxy and reason in _OF_PROXY else way.target
        words = (tls if way.secure and tls is not None else plain).format(*found.groups(), at=at, certificate=asks)
        if way.proxy:
            words = f"{_by_proxy(way)}: {words}"
        error.reason = reason
        error.message = f"{words} (gRPC: {' '.join(said.split())})"
        return error
    if error.code is StatusCode.UNAVAILABLE:
        error.message = f"{way.target} does not answer (gRPC: {said or 'no details'})"
    return error


def no_connection(way: Way) -> str:
    """What is said of a call whose time ran out before there was a connection."""
    by = f", {_by_proxy(way)}" if way.proxy else ""
    return (
        f"there is no connection to {way.target}{by}: is the address right, is it another service's port, or does a "
        "firewall not let it through?"
    )


def _by_proxy(way: Way) -> str:
    return f"through the proxy of {way.proxy} in the environment (no_proxy={_host(way.target)} goes past it)"


def _host(target: str) -> str:
    return target.rpartition("/")[2].rpartition(":")[0].strip("[]") or target
