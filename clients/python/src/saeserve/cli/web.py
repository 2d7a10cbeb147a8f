"""`saeserve web`: the gateway, and with --local a server behind it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.util
import ipaddress
import logging
import os
import signal
import ssl
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from saeserve.cli import streams
from saeserve.cli.printing import sentence
from saeserve.cli.values import seconds, text
from saeserve.transport.target import this_machine

if TYPE_CHECKING:
    from saeserve.web.settings import Settings

NEEDED = ("starlette", "uvicorn", "httptools", "prometheus_client")
DEFAULT_BIND = "127.0.0.1:8080"
LOCAL_SECONDS = 600.0
"""For a server of --local to load its model, and at its first start to build the demo's index."""
OK, FAILED, INTERRUPTED = 0, 1, 130


def options(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.description = (
        "A page in the browser, and HTTP with JSON for everyone, before one server or several (--target).\n"
        "POST /api/v1/search and so on; /docs explains them, /openapi.json is for programs."
    )
    command.add_argument(
        "--bind",
        metavar="HOST:PORT",
        type=text,
        default=DEFAULT_BIND,
        help=f"where it listens; port 0: any that is free (default: {DEFAULT_BIND})",
    )
    own = command.add_argument_group("a server of its own")
    own.add_argument("--local", action="store_true", help="start a server here too, and end it at the end")
    own.add_argument("--model", metavar="MODEL", type=text, help="what it serves (default: demo)")
    own.add_argument("--config", metavar="FILE", type=text, help="its TOML file")
    who = command.add_argument_group("who may ask")
    who.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        type=text,
        default=[],
        help="a name that it is called by, beside addresses and localhost; repeat; *: any",
    )
    who.add_argument(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        type=text,
        default=[],
        help="pages of https://ORIGIN may ask too (CORS); repeat; *: any",
    )
    who.add_argument(
        "--share-token",
        action="store_true",
        help="whoever reaches this gateway asks with its token or certificate, from other machines too",
    )
    who.add_argument(
        "--trust-proxy",
        action="store_true",
        help="a proxy stands before it: the last address in X-Forwarded-For is the caller's, for taking turns",
    )
    who.add_argument("--tls-cert", metavar="FILE", type=text, help="PEM file with this gateway's certificate: https")
    who.add_argument("--tls-key", metavar="FILE", type=text, help="PEM file with its private key")
    theirs = command.add_argument_group("Neuronpedia's web app as a caller")
    theirs.add_argument(
        "--neuronpedia", action="store_true", help="answer the calls of its inference server, at /v1/... and /health"
    )
    theirs.add_argument(
        "--neuronpedia-secret-file", metavar="FILE", type=text, help="what callers must send in X-SECRET-KEY"
    )
    theirs.add_argument(
        "--neuronpedia-snake-case",
        action="store_true",
        help="answer in snake_case: for its Python client, and web apps from before August 2026",
    )
    theirs.add_argument(
        "--neuronpedia-token-limit", metavar="N", type=_number, help="tokens of a prompt with its BOS (200)"
    )
    most = command.add_argument_group("limits")
    for option, what in (
        ("--max-body-bytes", "of a request, or a line of a stream (4194304)"),
        ("--max-requests", "calls that are answered at a time (256)"),
        ("--max-streams", "of these, EncodeStreams (64)"),
        ("--max-connections", "connections that are open (1024)"),
    ):
        most.add_argument(option, metavar="N", type=_number, help=what)
    for option, what in (
        ("--max-timeout", "most that a request may ask for by X-Saeserve-Timeout (600)"),
        ("--patience", "for a request to arrive, and for a caller to take his answer (30)"),
        ("--grace", "for what is being answered at the end (30)"),
    ):
        most.add_argument(option, metavar="SECONDS", type=seconds, help=what)


def run(arguments: argparse.Namespace, connection: dict[str, Any]) -> int:
    """Serve until told to end; returns the exit code.

    Raises ValueError for what cannot be served, and SaeserveError where a server does not get ready in time.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'saeserve web needs {", ".join(missing)}: pip install "saeserve[web]"')
    from saeserve.web import serving

    _check_options(arguments)
    settings = _settings(arguments)
    if arguments.local:
        _check_local(arguments)
    connection["client_name"] = ""  # each caller has a name of his own
    _check_held(arguments, _held(arguments, connection), settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_logged())
        try:
            sock = serving.listen(settings)
        except OSError as error:
            return _fail(_not_bound(arguments.bind, error))
        stack.callback(sock.close)
        if arguments.local:
            try:
                connection = stack.enter_context(_server(arguments)) | {"client_name": ""}
            except _local_error() as error:
                return _fail(str(error))
        elif arguments.wait is not None:
            _wait(connection, arguments.wait)
        target = connection["target"]
        asked = target if isinstance(target, str) else ",".join(target)

        def ready(address: str) -> None:
            streams.complain(f"saeserve web: {address} asks {asked}; Ctrl-C ends it")

        told = serving.serve(sock, connection, settings, ready)
    return INTERRUPTED if told == signal.SIGINT else OK


def _check_options(arguments: argparse.Namespace) -> None:
    """Raises ValueError for options that would say nothing."""
    if arguments.json:  # given before the command's name
        raise ValueError("--json says how an answer is printed, and saeserve web prints none")
    for option in () if arguments.local else ("model", "config"):
        if getattr(arguments, option):
            raise ValueError(f"--{option} says what a server of its own serves, which --local starts")
    if arguments.local and arguments.wait is not None:
        raise ValueError("--wait waits for a server that is started elsewhere; the one of --local is waited for anyway")


def _settings(arguments: argparse.Namespace) -> Settings:
    from saeserve.web.settings import Settings

    host, port = _host_and_port(arguments.bind)
    chosen: dict[str, Any] = {
        "host": host,
        "port": port,
        "allow_hosts": tuple(arguments.allow_host),
        "allow_origins": tuple(arguments.allow_origin),
        "trust_proxy": arguments.trust_proxy,
        "client_name": arguments.client_name,
        "max_body": arguments.max_body_bytes,
        "max_requests": arguments.max_requests,
        "max_streams": arguments.max_streams,
        "max_connections": arguments.max_connections,
        "max_timeout": arguments.max_timeout,
        "patience": arguments.patience,
        "grace": arguments.grace,
        "tls_cert": arguments.tls_cert,
        "tls_key": arguments.tls_key,
        "options": _neuronpedia(arguments),
    }
    settings = Settings(**{name: value for name, value in chosen.items() if value is not None})
    most = settings.max_timeout
    return _with_tls(settings.answering_within(min(arguments.timeout or most, most)))


def _neuronpedia(arguments: argparse.Namespace) -> dict[str, Any]:
    """How its calls are answered; nothing where they are not. Raises ValueError."""
    from saeserve.web.neuronpedia.options import TOKEN_LIMIT, Options, secret_of

    file, limit = arguments.neuronpedia_secret_file, arguments.neuronpedia_token_limit
    if not arguments.neuronpedia:
        if file or limit or arguments.neuronpedia_snake_case:
            raise ValueError(
                "--neuronpedia-... says how Neuronpedia's calls are answered, which --neuronpedia asks for"
            )
        return {}
    secret = None if file is None else secret_of(file)
    return {"neuronpedia": Options(secret, arguments.neuronpedia_snake_case, limit or TOKEN_LIMIT)}


def _with_tls(settings: Settings) -> Settings:
    """The same, if its certificate can be used. Raises ValueError."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ValueError("--tls-cert and --tls-key belong together")
    if settings.tls_cert is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_cert, settings.tls_key)
        except OSError as error:
            why = error.strerror or "no certificate in PEM with its private key"
            raise ValueError(f"--tls-cert {settings.tls_cert}, --tls-key {settings.tls_key}: {why}") from error
    return settings


def _held(arguments: argparse.Namespace, connection: dict[str, Any]) -> str:
    """What this gateway itself is known by to its server; empty where callers bring all that it asks for."""
    if arguments.local:
        from saeserve.local_server import of_file

        connection = _of_local(arguments) | {"token_file": of_file(arguments.config).get("auth_token_file")}
    if connection.get("token") is not None or connection.get("token_file") is not None:
        return "token"
    return "certificate" if connection.get("client_cert") is not None else ""


def _check_held(arguments: argparse.Namespace, held: str, settings: Settings) -> None:
    """Raises ValueError where strangers would ask with what is this gateway's."""
    if not held or arguments.share_token:
        return
    where = ""
    if not _loopback(settings.host):
        where = f"at {arguments.bind} other machines reach it"
    elif settings.trust_proxy:
        where = "with --trust-proxy others reach it through the proxy"
    elif names := [name for name in settings.allow_hosts if this_machine(name) is None]:
        where = f"with --allow-host {names[0]} others reach it by that name"
    if where:
        own = "; without the token callers send their own" if held == "token" else ""
        raise ValueError(
            f"this gateway has a {held} of its own, and {where}: with --share-token whoever does may ask with it{own}"
        )


_OF_LOCAL = ("ca_cert", "client_cert", "client_key", "server_name")
"""Options of the connection that a server of --local may need too, if its configuration has TLS."""


def _of_local(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those that were given. Variables are meant for other servers."""
    given = {name: getattr(arguments, name) for name in _OF_LOCAL}
    return {name: value for name, value in given.items() if value != os.environ.get(f"SAESERVE_{name.upper()}")}


def _check_local(arguments: argparse.Namespace) -> None:
    """Raises ValueError for what a server of our own cannot be, or be asked with."""
    if arguments.target:
        raise ValueError("--local starts a server of its own, and --target names another: give one of them")
    if arguments.model and arguments.config:
        raise ValueError("--model and --config both say what is served: give one of them")
    if arguments.token_file != (os.environ.get("SAESERVE_TOKEN_FILE") or None):
        raise ValueError(
            "--token-file is for a server that runs already: a server of --local has its token in the configuration, "
            "as auth_token_file"
        )


@contextlib.contextmanager
def _server(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A server of our own: how it is reached, once it is ready."""
    from saeserve.local_server import local

    what = arguments.config or arguments.model or "demo"
    streams.complain(f"saeserve web: starting a server for {what}; it may take a minute, the first time more")
    with local(arguments.model, config=arguments.config, timeout=LOCAL_SECONDS, **_of_local(arguments)) as client:
        yield client.connection


def _local_error() -> type[Exception]:
    from saeserve.local_server import LocalServerError

    return LocalServerError


def _wait(connection: dict[str, Any], patience: float) -> None:
    from saeserve.client import Client

    with Client(**connection) as client:
        client.wait_ready(patience)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """What a server of our own says while it loads, and faults of the gateway, on standard error. Until the command has
    ended: whoever calls it from a program has loggers of his own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("saeserve %(name)s: %(message)s"))
    ours = [logging.getLogger(name) for name in ("saeserve.local", "saeserve.web")]
    # It would have a line for whoever sends what is no HTTP, or leaves in the middle.
    quiet = logging.getLogger("uvicorn.error")
    before = [(one, one.level, one.propagate, one.handlers) for one in (*ours, quiet)]
    for one in ours:
        one.setLevel(logging.INFO)
        one.propagate = False
        one.handlers = [handler]
    quiet.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level, propagate, handlers in before:
            one.setLevel(level)
            one.propagate, one.handlers = propagate, handlers


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return sentence(super().formatMessage(record))


def _host_and_port(given: str) -> tuple[str, int]:
    host, colon, port = given.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not (colon and bare and port.isascii() and port.isdecimal() and int(port) < 65536) or (
        ":" in bare and not host.startswith("[")
    ):
        raise ValueError(f"--bind {given}: HOST:PORT is expected, for example {DEFAULT_BIND} or [::1]:8080")
    return bare, int(port)


def _not_bound(bind: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--bind {bind}: another program listens there already; choose another port"
    if error.errno == errno.EACCES:
        return f"--bind {bind}: this user may not listen there; ports below 1024 are the system's"
    return f"--bind {bind}: cannot listen there: {error.strerror or error}"


def _loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            return False
    return this_machine(host) is not None


def _number(given: str) -> int:
    if not (given.isascii() and given.isdecimal() and 0 < int(given) < 2**40):
        raise argparse.ArgumentTypeError(f"{given!r} is no whole number from 1 on")
    return int(given)


def _fail(message: str) -> int:
    streams.complain(f"saeserve: error: {message}")
    return FAILED
