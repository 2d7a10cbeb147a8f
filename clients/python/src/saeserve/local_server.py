"""A server of one's own: a child process on a free port of this machine, and a client of it."""

from __future__ import annotations

import asyncio
import os
import re
import tomllib
import weakref
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any

from saeserve.aio import AsyncClient
from saeserve.arguments.shown import shown
from saeserve.arguments.timeouts import Seconds
from saeserve.client import Client
from saeserve.server_process import LocalServerError as LocalServerError
from saeserve.server_process import ServerProcess
from saeserve.transport.tls import File


class LocalClient(Client):
    """A Client, and the server that was started for it, which ends with `close`.

    In another process, pickled, it is a plain Client of the same server.
    """

    def __init__(self, process: ServerProcess, target: str, options: dict[str, Any]) -> None:
        super().__init__(target, **options)
        self.connection = {"target": target, **options}
        """Arguments of another client of the same server."""
        # Also where it is not closed: when it is collected, and at the interpreter's exit.
        self._end = weakref.finalize(self, process.stop)

    def __reduce__(self) -> tuple[Any, ...]:
        again, (_, *settings) = super().__reduce__()
        return again, (Client, *settings)

    def close(self) -> None:
        """Close the connection and end the server. Safe to call twice."""
        super().close()
        self._end()


class LocalAsyncClient(AsyncClient):
    """An AsyncClient, and the server that was started for it, which ends with `close`."""

    def __init__(self, process: ServerProcess, target: str, options: dict[str, Any]) -> None:
        super().__init__(target, **options)
        self._end = weakref.finalize(self, process.stop)

    async def close(self) -> None:
        """Close the connection and end the server. Safe to call twice."""
        await super().close()
        # Shielded: the server must end also where this task is cancelled while it waits.
        await asyncio.shield(asyncio.to_thread(self._end))


def local(
    model: str | None = None,
    *,
    config: File | None = None,
    device: str | None = None,
    timeout: Seconds = 120.0,
    token: str | None = None,
    ca_cert: File | None = None,
    client_cert: File | None = None,
    client_key: File | None = None,
    server_name: str | None = None,
    client_name: str = "",
    **settings: object,
) -> LocalClient:
    """Start a server, give a Client that is ready. It ends with `close`, with the `with` block, or with this process.

        with saeserve.local() as client:
            print(client.search("red").results[0].name)

        client = saeserve.local(max_tokens=64)  # in a notebook
        client.close()

    model: `demo`, `synthetic:NAME`, a local Hugging Face folder or a hub name; None: what `config` says, else `demo`.
    config: the server's TOML file.
    device: `auto`, `cpu` or `cuda[:n]`.
    timeout: seconds until the server must answer; None: however long it takes.
    token: a bearer token that every call must carry, and this client's do; or the setting `auth_token_file`.
    ca_cert, client_cert, client_key, server_name: for the client of a server with the setting `tls_cert`, as a Client
        takes them. By default it trusts the server's own certificate.
    client_name: who calls.
    settings: any other setting of the server, by its name in the configuration: `max_tokens=64`, `neurons=False`.

    Whatever kills this process, the server ends within 3 s. What it says while it loads is logged by the logger
    `saeserve.local`, progress at level INFO. Variables of the environment that begin with `SAESERVE_` are not handed
    on to it: they are meant for other servers.

    Raises TypeError and ValueError for settings that cannot be any, LocalServerError if `saeserve-server` is not
    installed or ends before it is ready (an unknown setting, say), and DeadlineExceeded if it is not ready in time.
    The message has the end of what the server said.
    """
    client = {"client_cert": client_cert, "client_key": client_key, "server_name": server_name}
    client |= {"ca_cert": ca_cert, "client_name": client_name}
    process, options = _prepare(model, config, device, timeout, token, client, settings)
    try:
        made = LocalClient(process, process.start(), options)
        process.await_ready(made)
    except BaseException:
        process.stop()
        raise
    return made


class local_async:  # noqa: N801 (used as a function)
    """`local` for asyncio: `async with saeserve.local_async() as client:`, or `client = await saeserve.local_async()`.

    Gives an AsyncClient, whose `close` is awaited. Starting and ending run in a thread.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        config: File | None = None,
        device: str | None = None,
        timeout: Seconds = 120.0,
        token: str | None = None,
        ca_cert: File | None = None,
        client_cert: File | None = None,
        client_key: File | None = None,
        server_name: str | None = None,
        client_name: str = "",
        **settings: object,
    ) -> None:
        client = {"client_cert": client_cert, "client_key": client_key, "server_name": server_name}
        client |= {"ca_cert": ca_cert, "client_name": client_name}
        self._process, self._options = _prepare(model, config, device, timeout, token, client, settings)
        self._client: LocalAsyncClient | None = None

    def __await__(self) -> Generator[Any, None, LocalAsyncClient]:
        return self._start().__await__()

    async def __aenter__(self) -> LocalAsyncClient:
        self._client = await self._start()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def _start(self) -> LocalAsyncClient:
        try:
            target = await asyncio.to_thread(self._await_ready)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self._process.stop))
            raise
        return LocalAsyncClient(self._process, target, self._options)

    def _await_ready(self) -> str:
        with Client(self._process.start(), **self._options) as client:
            self._process.await_ready(client)
            return client.target


def _prepare(
    model: str | None,
    config: File | None,
    device: str | None,
    timeout: Seconds,
    token: str | None,
    client: dict[str, Any],
    settings: dict[str, object],
) -> tuple[ServerProcess, dict[str, Any]]:
    """A server's process, not started yet, and what a client of it is made with. Raises TypeError and ValueError."""
    chosen: dict[str, object] = {"bind": "127.0.0.1:0", "metrics_bind": "none", "log_format": "json"}
    if model is None and config is None:
        model = "demo"
    # Nobody else calls this server: there is nothing to drain.
    chosen |= {"model": model, "config": config, "device": device, "drain_delay": 0} | settings
    arguments = [_flag(name, value) for name, value in chosen.items() if value is not None]
    in_force = of_file(config) | {name: value for name, value in settings.items() if value is not None}
    if token is not None and in_force.get("auth_token_file") is not None:
        raise ValueError("token and auth_token_file are two ways to say one thing: give one of them")
    options = {name: value for name, value in client.items() if value}
    options |= {"token": token, "token_file": in_force.get("auth_token_file")}
    if in_force.get("tls_cert") is not None:
        options.setdefault("ca_cert", in_force["tls_cert"])
        if in_force.get("tls_client_ca") is not None and client["client_cert"] is None:
            raise ValueError("tls_client_ca: the server asks for a client's certificate: give client_cert, client_key")
    return ServerProcess(arguments, timeout, token), options


def _flag(name: str, value: object) -> str:
    """A setting as a flag of the server, which judges name and value. Raises TypeError for what can be neither."""
    if name in ("port_file", "end_with_caller"):
        raise TypeError(f"{name}: local() uses it itself; the address is the client's target")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise TypeError(f"{name!r} is no name of a setting")
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif not isinstance(value, str | int | float) and not hasattr(value, "dtype"):
        raise TypeError(
            f"{name} is {shown(value)}: expected a text, a number or a bool; tables stand in the config file"
        )
    return f"--{name.replace('_', '-')}={value}"


def of_file(config: File | None) -> dict[str, Any]:
    """What the server's file says of TLS and token, which its client must know too. The server judges the file."""
    if config is None:
        return {}
    try:
        values = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    folder = Path(config).absolute().parent
    names = ("tls_cert", "tls_client_ca", "auth_token_file")
    return {name: folder / Path(values[name]).expanduser() for name in names if isinstance(values.get(name), str)}
