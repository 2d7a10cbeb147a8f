"""Two servers that all these tests share: one with TLS and a token, one with mutual TLS and small limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

import saeserve
from tests.conftest import START_TIMEOUT
from tests.security.certificates import Authority, Pair
from tests.service.servers import Server, until

TOKEN = "open-sesame-0123456789"
MAX_CALLS = 4
MAX_CONNECTIONS = 40


@dataclass(frozen=True)
class Keys:
    """Everything that is signed."""

    ca: Path
    server: Pair
    client: Pair
    elsewhere: Pair
    """Of the same authority, for another host."""
    other_ca: Path
    other_server: Pair
    """Of the other authority, for this host."""


@dataclass
class Guarded:
    """A server and the files it was given."""

    server: Server
    keys: Keys
    token_file: Path
    cert: Path
    key: Path

    @property
    def target(self) -> str:
        return self.server.target

    def client(self, **options: Any) -> saeserve.Client:
        """A client that is let in, unless told otherwise."""
        chosen = {"ca_cert": self.keys.ca, "token_file": self.token_file, "timeout": 20} | options
        return saeserve.Client(self.target, **{name: value for name, value in chosen.items() if value is not None})

    def channel(self) -> grpc.Channel:
        """A channel over TLS, without retries, that shares its connection with no other."""
        credentials = grpc.ssl_channel_credentials(self.keys.ca.read_bytes())
        options = {"grpc.enable_retries": 0, "grpc.use_local_subchannel_pool": 1, "grpc.enable_http_proxy": 0}
        return grpc.secure_channel(self.target, credentials, options=list(options.items()))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    here = ("DNS:localhost", "IP:127.0.0.1")
    ours, others = Authority(folder / "ours", "ca"), Authority(folder / "others", "ca")
    return Keys(
        ca=ours.cert,
        server=ours.sign("server", *here),
        client=ours.sign("client", "DNS:somebody"),
        elsewhere=ours.sign("elsewhere", "DNS:elsewhere.example"),
        other_ca=others.cert,
        other_server=others.sign("server", *here),
    )


@pytest.fixture(scope="session")
def guarded(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """TLS and a token; JSON log without texts. Its files are its own, to be changed and put back."""
    folder = tmp_path_factory.mktemp("guarded")
    token_file, cert, key = folder / "token", folder / "cert.pem", folder / "key.pem"
    token_file.write_text(f"{TOKEN}\n")
    cert.write_bytes(keys.server.cert.read_bytes())
    key.write_bytes(keys.server.key.read_bytes())
    own = Server(folder, tls_cert=cert, tls_key=key, auth_token_file=token_file, drain_delay=0)
    try:
        own.await_listening()
        made = Guarded(own, keys, token_file, cert, key)
        with made.client() as client:
            client.wait_ready(START_TIMEOUT)
        yield made
    finally:
        own.end()


@pytest.fixture(scope="session")
def mutual(keys: Keys, guarded: Guarded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Mutual TLS, few calls and connections, texts logged; log lines for people. After `guarded`: two starts at a time
    would take longer."""
    own = Server(
        tmp_path_factory.mktemp("mutual"),
        tls_cert=keys.server.cert,
        tls_key=keys.server.key,
        tls_client_ca=keys.ca,
        max_calls=MAX_CALLS,
        max_connections=MAX_CONNECTIONS,
        log_format="text",
        log_texts="true",
        metrics_bind="none",
        drain_delay=0,
    )
    try:
        own.await_listening()
        with known(own, keys) as client:
            client.wait_ready(START_TIMEOUT)
        yield own
    finally:
        own.end()


def known(own: Server, keys: Keys, **options: Any) -> saeserve.Client:
    """A client that shows its certificate."""
    chosen = {"ca_cert": keys.ca, "client_cert": keys.client.cert, "client_key": keys.client.key, "timeout": 20}
    return saeserve.Client(own.target, **chosen | options)


def lines_of(own: Server, request_id: str) -> list[str]:
    """The lines of the log that have this request id, once there is one."""

    def found() -> list[str]:
        return [line for line in own._log.read_text().splitlines() if request_id in line]

    until(lambda: bool(found()), f"{request_id} is in the log", 10)
    return found()
