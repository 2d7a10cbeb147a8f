"""What a gateway is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Settings:
    """How a gateway listens, and whom it answers. Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0: one that is free."""
    allow_hosts: tuple[str, ...] = ()
    """Names that a request's Host may have beside addresses, those of the loopback, and `host`; `*` is any."""
    allow_origins: tuple[str, ...] = ()
    """Other pages that may ask, `https://lab.example`; `*` is any. Kept as browsers write them."""
    trust_proxy: bool = False
    """Whether the last address in X-Forwarded-For is the caller's."""
    client_name: str = "web"
    """Before the address of callers who do not name themselves."""
    timeout: float = 30.0
    """For an answer where the request names no time."""
    max_timeout: float = 600.0
    """Most that a request may name."""
    max_body: int = 4 * 2**20
    """Of a request; of one that streams, of each line."""
    max_requests: int = 256
    """Calls that are answered at a time."""
    max_streams: int = 64
    """Of these, EncodeStreams."""
    max_connections: int = 1024
    patience: float = 30.0
    """For a head, or the next part of a body, to arrive, and for a caller to take what was written for him."""
    grace: float = 30.0
    """For what is being answered when the gateway is told to end."""
    tls_cert: str | None = None
    tls_key: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """Of rooms that an option builds in, by their names."""

    def __post_init__(self) -> None:
        """Raises ValueError for an origin that no browser would send."""
        object.__setattr__(self, "allow_origins", tuple(map(_origin, self.allow_origins)))

    def answering_within(self, timeout: float) -> Settings:
        """The same with another `timeout`."""
        return replace(self, timeout=timeout)


_OF_SCHEME = {"http": ":80", "https": ":443"}


def _origin(given: str) -> str:
    """As a browser writes it: lower-case, without a slash at its end or the port that its scheme has anyway."""
    if given == "*":
        return given
    scheme, mark, host = given.lower().removesuffix("/").partition("://")
    if not (scheme and mark and host and given.isascii() and given.isprintable()) or set("/?#@ ,") & set(host):
        raise ValueError(
            f"--allow-origin {given}: SCHEME://HOST is expected, in ASCII, for example https://lab.example"
        )
    return f"{scheme}://{host.removesuffix(_OF_SCHEME.get(scheme, ' '))}"
