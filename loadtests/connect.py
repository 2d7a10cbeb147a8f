"""How a load driver reaches a server: TLS, token and client names as the client takes them, but separate connections,
no proxy, and no retries, so that a refusal counts as what it is."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio

import saeserve
from saeserve.transport.connection import Connection
from saeserve.v1 import feature_service_pb2_grpc

MESSAGE_BYTES = 64 * 1024 * 1024
OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one address share a connection
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
]
PATIENCE = 60.0
"""Seconds to connect."""

Headers: TypeAlias = Callable[[int], list[tuple[str, str | bytes]]]
"""The metadata of a call by caller number n."""


class CannotConnectError(Exception):
    """A server that cannot be asked, in one line for the person who runs the driver."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server answers and what it asks of its callers. Plain data, so that other processes can be told."""

    target: str
    """HOST:PORT."""
    tls: bool = False
    ca_cert: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    server_name: str | None = None
    """In the certificate, where it is not the target's."""
    token_file: Path | None = None
    allow_insecure_token: bool = False
    client_names: tuple[str, ...] = ()
    """`x-saeserve-client` of the callers, who get them in turn: the server's turns are among names."""

    @classmethod
    def read(cls, target: str, asked: argparse.Namespace) -> Server:
        """From options that `add_options` added."""
        return cls(target, **{one.name: getattr(asked, one.name) for one in fields(cls) if one.name != "target"})

    def options(self) -> list[str]:
        """The command line that `add_options` reads back."""
        words = []
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "target" and value:
                name = "--" + one.name.replace("_", "-")
                words += [name] if value is True else [name, ",".join(value) if type(value) is tuple else str(value)]
        return words

    def connection(self, client_name: str = "") -> Connection:
        """Address, credentials and options of a channel. Raises ValueError that names the argument."""
        return Connection(
            self.target,
            credentials=None,
            tls=self.tls or None,
            ca_cert=self.ca_cert,
            client_cert=self.client_cert,
            client_key=self.client_key,
            server_name=self.server_name,
            token=None,
            token_file=self.token_file,
            allow_insecure_token=self.allow_insecure_token,
            client_name=client_name,
            metadata=(),
            max_message_bytes=MESSAGE_BYTES,
            options=OPTIONS,
        )

    def headers(self) -> Headers:
        """Token and name for each call of caller number n."""
        each = [self.connection(name) for name in self.client_names or ("",)]
        return lambda number: each[number % len(each)].headers(None, None)

    def check(self, timeout: float = 10.0) -> None:
        """Ask it once, before any load. Raises CannotConnectError, which says what to try."""
        try:
            self.headers()
            with saeserve.Client(
                self.target,
                timeout=timeout,
                tls=self.tls or None,
                ca_cert=self.ca_cert,
                client_cert=self.client_cert,
                client_key=self.client_key,
                server_name=self.server_name,
                token_file=self.token_file,
                allow_insecure_token=self.allow_insecure_token,
                options=OPTIONS,
            ) as client:
                client.server_info()
        except saeserve.SaeserveError as error:
            raise CannotConnectError(f"{self.target}: {_line(error.message)}") from error
        except ValueError as error:
            raise CannotConnectError(_line(str(error))) from error


def add_options(parser: argparse.ArgumentParser, variable: Callable[[str], dict[str, Any]] = lambda _: {}) -> None:
    """The options of `Server` but its target; `variable` adds more for each name, Locust's environment variables."""

    def option(name: str, **how: Any) -> None:
        parser.add_argument(name, **variable(name[2:].replace("-", "_")), **how)

    option("--tls", action="store_true", help="use TLS; so do the four options below")
    option("--ca-cert", type=Path, metavar="FILE", help="PEM file of the authorities to trust")
    option("--client-cert", type=Path, metavar="FILE", help="PEM file to be known by")
    option("--client-key", type=Path, metavar="FILE", help="PEM file of its private key")
    option("--server-name", metavar="NAME", help="name in the certificate, where it is not the target's")
    option("--token-file", type=Path, metavar="FILE", help="file with the bearer token")
    option("--allow-insecure-token", action="store_true", help="send it without TLS to other machines too")
    option("--client-names", type=_names, default=(), metavar="NAME,...", help="callers name themselves so, in turn")


@contextmanager
def one_line() -> Iterator[None]:
    """What cannot be reached ends the program with one plain line instead of a traceback."""
    try:
        yield
    except CannotConnectError as error:
        sys.exit(str(error))


def channel(server: Server) -> grpc.Channel:
    """A blocking channel."""
    way = server.connection()
    if way.credentials is None:
        return grpc.insecure_channel(way.address, options=way.options)
    return grpc.secure_channel(way.address, way.credentials, options=way.options)


def aio_channel(server: Server) -> grpc.aio.Channel:
    """An asyncio channel, not yet connected."""
    way = server.connection()
    if way.credentials is None:
        return grpc.aio.insecure_channel(way.address, options=way.options)
    return grpc.aio.secure_channel(way.address, way.credentials, options=way.options)


@asynccontextmanager
async def stubs(server: Server, channels: int) -> AsyncIterator[list[Any]]:
    """Generated stubs, each on an asyncio channel of its own that is connected. Raises CannotConnectError."""
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(aio_channel(server)) for _ in range(channels)]
        try:
            await asyncio.wait_for(asyncio.gather(*(one.channel_ready() for one in opened)), PATIENCE)
        except TimeoutError:
            raise CannotConnectError(f"{server.target}: no connection within {PATIENCE:g} s") from None
        yield [feature_service_pb2_grpc.FeatureServiceStub(one) for one in opened]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def _line(text: str) -> str:
    """Control characters and line breaks escaped: the text may be a server's."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
