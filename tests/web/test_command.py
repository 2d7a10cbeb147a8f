"""The command `saeserve web`: how it starts, what it says where it cannot, how it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from saeserve.cli import web
from saeserve.cli.main import main
from saeserve.transport.connection import Connection
from saeserve.web import serving
from saeserve.web.settings import Settings
from tests.client.fake import new_service, serve
from tests.security.certificates import Authority

SEARCH = {"input": {"text": "My favorite color is red."}}
DEFAULTS: dict = {
    **dict.fromkeys(("tls", "ca_cert", "client_cert", "client_key", "server_name", "credentials", "token")),
    "token_file": None,
    "allow_insecure_token": False,
    "client_name": "",
    "metadata": (),
    "options": (),
    "max_message_bytes": 2**20,
}


@contextlib.contextmanager
def started(*arguments: str, seconds: float = 60):
    """The command as a process: it, and the address it prints."""
    command = [sys.executable, "-m", "saeserve", "web", "--bind", "127.0.0.1:0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"(https?://\S+/) asks", line):
                yield process, found[1]
                break
        else:
            pytest.fail("it did not start")
    finally:
        process.kill()
        process.wait(10)
        process.stderr.close()


@pytest.fixture
def fake():
    return new_service()


@pytest.fixture
def target(fake):
    server, address = serve(fake)
    yield address
    fake.release.set()
    server.stop(0).wait(10)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_what_is_being_answered_gets_out(target, fake, how, code):
    fake.hang.add("Search")
    with (
        started("--target", target) as (process, url),
        socket.create_connection(("127.0.0.1", int(url.rstrip("/").rpartition(":")[2]))) as caller,
    ):
        body = b'{"input": {"text": "a"}}'
        caller.sendall(
            b"POST /api/v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        until(lambda: fake.seen)
        process.send_signal(how)
        until(lambda: refused(url))
        fake.release.set()
        caller.settimeout(10)
        said = b""
        while part := caller.recv(65536):
            said += part
        assert said.startswith(b"HTTP/1.1 200")
        assert b"0-DEMO:1633" in said
        assert process.wait(10) == code


def until(found, seconds=10):
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def refused(url) -> bool:
    try:
        httpx.get(f"{url}healthz", trust_env=False, timeout=2)
    except httpx.TransportError:
        return True
    return False


@pytest.mark.slow
def test_nothing_is_logged_of_what_is_asked(target, fake, tmp_path):
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "saeserve", "web", "--bind", "127.0.0.1:0", "--target", target]
        process = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            until(lambda: " asks " in (tmp_path / "log").read_text())
            url = re.search(r"(http://\S+/) asks", (tmp_path / "log").read_text())[1]
            for content in (
                b'{"input": {"text": "VERYSECRET"}}',
                b'{"VERYSECRET": 1}',
                b'{"limit": "VERYSECRET"}',
                b"{",
            ):
                httpx.post(f"{url}api/v1/search", content=content, trust_env=False)
            httpx.get(f"{url}VERYSECRET", headers={"host": "VERYSECRET"}, trust_env=False)
            fake.answers["Search"] = None  # a server that fails
            httpx.post(f"{url}api/v1/search", json={"input": {"text": "VERYSECRET"}}, trust_env=False)
        finally:
            process.terminate()
            assert process.wait(10) == 0
    assert (tmp_path / "log").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--bind", "8080"], 2, "HOST:PORT is expected"),
        (["--bind", "::1:8080"], 2, "HOST:PORT is expected"),
        (["--bind", "127.0.0.1:99999"], 2, "HOST:PORT is expected"),
        (["--tls-cert", "a.pem"], 2, "belong together"),
        (["--tls-cert", "/nope", "--tls-key", "/nope"], 2, "No such file"),
        (["--max-requests", "0"], 2, "whole number from 1"),
        (["--local", "--target", "127.0.0.1:1"], 2, "give one of them"),
        (["--target", "http://127.0.0.1:1"], 2, "is a URL"),
        (["--json"], 2, "unrecognized arguments: --json"),
        (["--model", "demo"], 2, "which --local starts"),
        (["--local", "--wait", "5"], 2, "is waited for anyway"),
        (["--allow-origin", "lab.example"], 2, "SCHEME://HOST is expected"),
        (["--local", "--token-file", "a"], 2, "as auth_token_file"),
        (["--bind", "192.0.2.77:0"], 1, "cannot listen there"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(capsys, arguments, code, words):
    given = arguments if "--bind" in arguments else ["--bind", "127.0.0.1:0", *arguments]
    assert main(["web", *given]) == code
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_it_prints_no_answer(capsys):
    assert main(["--json", "web", "--bind", "127.0.0.1:0"]) == 2
    assert "saeserve web prints none" in capsys.readouterr().err
    assert main(["web", "--help"]) == 0
    assert "--json" not in capsys.readouterr().out


def test_a_port_that_is_taken(capsys):
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["web", "--bind", bind]) == 1
    assert capsys.readouterr().err == (
        f"saeserve: error: --bind {bind}: another program listens there already; choose another port\n"
    )


def test_a_port_is_taken_before_a_server_is_started(capsys):
    with contextlib.closing(serving.listen(Settings(port=0))) as first:
        bind = f"127.0.0.1:{first.getsockname()[1]}"
        assert main(["web", "--bind", bind, "--local"]) == 1
    assert "another program listens there already" in capsys.readouterr().err


OWN = {"token": ["--token-file", "TOKEN"], "certificate": ["--client-cert", "CERT", "--client-key", "KEY"]}


@pytest.mark.parametrize("held", OWN)
@pytest.mark.parametrize(
    "where",
    [["--bind", "0.0.0.0:0"], ["--bind", "127.0.0.1:0", "--trust-proxy"], ["--allow-host", "sae.example"]],
)
def test_strangers_do_not_ask_with_what_is_its_own(capsys, monkeypatch, tmp_path, held, where):
    token = tmp_path / "TOKEN"
    token.write_text("secret")
    given = [str(token) if one == "TOKEN" else one for one in OWN[held]]
    bind = [] if "--bind" in where else ["--bind", "127.0.0.1:0"]
    assert main(["web", *bind, *where, *given]) == 2
    said = capsys.readouterr().err
    assert f"has a {held} of its own" in said
    assert where[-1] in said
    assert "--share-token" in said
    assert "secret" not in said
    served = []
    monkeypatch.setattr(serving, "serve", lambda *arguments: served.append(arguments) or 0)
    assert main(["web", *bind, *where, *given, "--share-token"]) == 0
    assert main(["web", "--bind", "127.0.0.1:0", "--allow-host", "localhost", *given]) == 0
    assert len(served) == 2


def test_a_server_of_its_own_is_asked_as_its_configuration_says(capsys, monkeypatch, tmp_path):
    class Stand:
        def __init__(self, arguments, timeout, token=None):
            pass

        def start(self):
            return "127.0.0.1:1"

        def await_ready(self, client):
            pass

        def stop(self):
            pass

    served = []
    monkeypatch.setattr("saeserve.local_server.ServerProcess", Stand)
    monkeypatch.setattr(serving, "serve", lambda sock, connection, *_: served.append(connection) or 0)
    for name, value in {"TLS": "1", "TOKEN": "another", "CA_CERT": "/nowhere", "CLIENT_CERT": "/nowhere"}.items():
        monkeypatch.setenv(f"SAESERVE_{name}", value)
    made = Authority(tmp_path, "authority")
    pair = made.sign("here", "IP:127.0.0.1")
    (tmp_path / "token").write_text("secret")
    config = tmp_path / "config.toml"
    config.write_text(f'auth_token_file = "token"\ntls_cert = "{pair.cert.name}"\ntls_key = "{pair.key.name}"\n')
    local = ["web", "--bind", "127.0.0.1:0", "--local"]
    assert main([*local, "--config", str(config)]) == 0
    assert main(local) == 0
    protected, plain = (Connection(**DEFAULTS | connection) for connection in served)
    assert (protected.target, plain.target) == ("127.0.0.1:1", "127.0.0.1:1")
    assert ("authorization", "Bearer secret") in protected.headers(None, None)
    assert protected.credentials is not None
    assert plain.credentials is None
    assert not any(name == "authorization" for name, _ in plain.headers(None, None))
    capsys.readouterr()
    assert main([*local, "--config", str(config), "--trust-proxy"]) == 2
    assert "has a token of its own" in capsys.readouterr().err


def test_without_its_packages_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("saeserve.cli.web.NEEDED", ("starlette", "no_such_package"))
    assert main(["web"]) == 2
    assert 'needs no_such_package: pip install "saeserve[web]"' in capsys.readouterr().err


def test_the_client_does_not_import_it():
    code = (
        "import saeserve, saeserve.cli.main, sys; print([m for m in sys.modules if 'starlette' in m or 'uvicorn' in m])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_it_starts_a_server_of_its_own_and_ends_it():
    with started("--local") as (process, url):
        answer = httpx.post(f"{url}api/v1/search", json=SEARCH, trust_env=False, timeout=30)
        assert answer.json()["results"][0]["facts"]["name"].startswith("0-DEMO:")
        assert httpx.get(url, trust_env=False).status_code == 200
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        server = int(children.read_text().split()[0]) if children.exists() else None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        if server is not None:
            with pytest.raises(ProcessLookupError):
                os.kill(server, 0)


@pytest.mark.slow
def test_over_tls(target, tmp_path):
    made = Authority(tmp_path, "web")
    pair = made.sign("here", "DNS:localhost", "IP:127.0.0.1")
    with started("--target", target, "--tls-cert", str(pair.cert), "--tls-key", str(pair.key)) as (_, url):
        assert url.startswith("https://")
        assert (
            httpx.get(f"{url}healthz", verify=ssl.create_default_context(cafile=str(made.cert)), trust_env=False).text
            == "ok\n"
        )


def test_loggers_are_the_callers_again_once_the_command_has_ended() -> None:
    logger = logging.getLogger("saeserve.web")
    before = (logger.level, logger.propagate, list(logger.handlers))
    with web._logged():
        assert logger.propagate is False
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
