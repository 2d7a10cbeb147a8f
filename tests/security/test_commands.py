"""The command line and the health check against a server with TLS and a token."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from saeserve.cli.main import main
from tests.security.conftest import TOKEN, Guarded


@pytest.fixture
def run(guarded: Guarded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAESERVE_TARGET", guarded.target)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        printed = capsys.readouterr()
        assert TOKEN not in printed.out + printed.err
        return code, printed.out, printed.err

    return call


def test_token_file_and_authority_by_options(guarded: Guarded, run) -> None:
    ca, token_file = str(guarded.keys.ca), str(guarded.token_file)
    assert run("tokenize", "red", "--ca-cert", ca, "--token-file", token_file)[0] == 0
    assert run("--ca-cert", ca, "--token-file", token_file, "--client-name", "me", "tokenize", "red")[0] == 0
    code, _, err = run("tokenize", "red", "--ca-cert", ca)
    assert (code, err.count("\n")) == (1, 1)
    assert "UNAUTHENTICATED" in err


def test_token_and_authority_by_variables(guarded: Guarded, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESERVE_CA_CERT", str(guarded.keys.ca))
    monkeypatch.setenv("SAESERVE_TOKEN", TOKEN)
    assert run("info")[0] == 0
    assert run("--help")[0] == 0
    monkeypatch.setenv("SAESERVE_TOKEN", "wrong")
    assert run("info")[0] == 1
    assert run("info", "--token-file", str(guarded.token_file))[0] == 0  # an option goes before a variable


def test_a_wrong_authority_is_one_line_and_4(guarded: Guarded) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "saeserve", "info", "--ca-cert", guarded.keys.other_ca, "--timeout", "3"],
        env={**os.environ, "SAESERVE_TARGET": guarded.target},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("\n") == 1
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


def healthcheck(guarded: Guarded, *options: str, **variables: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "saeserve_server.commands.healthcheck", *options],
        env={**os.environ, "SAESERVE_BIND": guarded.target, **variables},
        capture_output=True,
        timeout=60,
        check=False,
    ).returncode


def test_the_health_check_takes_tls_and_no_token(guarded: Guarded) -> None:
    ca = str(guarded.keys.ca)
    assert healthcheck(guarded, "--ca-cert", ca) == 0
    assert healthcheck(guarded, SAESERVE_CA_CERT=ca, SAESERVE_SERVER_NAME="localhost") == 0
    assert healthcheck(guarded) == 1
    assert healthcheck(guarded, "--ca-cert", "/nowhere") == 2
