"""What a gateway is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Settings:
    """How a gateway listens, and whom it answers. Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8080
    allow_hosts: tuple[str, ...] = ()
    """Names that a request's Host may have beside those of the loopback and `host`; `*` is any."""
    allow_origins: tuple[str, ...] = ()
    """Pages of other origins that may ask, `https://lab.example`; `*` is any."""
    trust_proxy: bool = False
    """Whether the last address in X-Forwarded-For is the caller's."""
    client_name: str = "web"
    """Before the address of callers who do not name themselves."""
    timeout: float = 30.0
    """For an answer where the request names no time."""
    max_timeout: float = 600.0
    """Most that a request may name."""
    max_body: int = 8 * 2**20
    """Of a request; of one that streams, of each line."""
    max_in_flight: int = 256
    """Requests that are answered at a time."""
    body_timeout: float = 30.0
    """For a body to arrive, and for a caller to take what was written for him."""
    header_timeout: float = 10.0
    """For the head of a request, from its first byte or the connection's beginning."""
    max_connections: int = 1024
    grace: float = 30.0
    """For what is being answered when the gateway is told to end."""
    tls_cert: str | None = None
    tls_key: str | None = None
    extra: dict[str, object] = field(default_factory=dict)
    """Settings of rooms that are built in by option, by their names."""
