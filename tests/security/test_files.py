"""Files that cannot be used are a ConfigError that names the setting and the file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from saeserve_server.api import security
from saeserve_server.config import Config, load_config
from saeserve_server.errors import ConfigError
from tests.security.certificates import openssl
from tests.security.conftest import Keys
from tests.service.servers import run_to_end


def config_of(**settings: object) -> Config:
    return load_config(None, {name: str(value) for name, value in settings.items()}, {})


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), (b" \n", "is empty"), (b"two words", "one word"), (b"caf\xc3\xa9", "one word")],
)
def test_a_token_file_that_holds_none(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"auth_token_file: .*token: .*{says}") as caught:
        security.token_of(config_of(auth_token_file=path))
    assert "words" not in str(caught.value)


def test_certificate_files_that_cannot_be_used(tmp_path: Path, keys: Keys) -> None:
    nothing, locked = tmp_path / "nothing", tmp_path / "locked"
    nothing.write_text("not PEM")
    openssl("ec", "-in", keys.server.key, "-aes128", "-passout", "pass:x", "-out", locked)
    cert, key = keys.server.cert, keys.server.key
    for settings, says in (
        ({"tls_cert": tmp_path / "none", "tls_key": key}, "tls_cert: .*none: No such file"),
        ({"tls_cert": nothing, "tls_key": key}, "tls_cert: .*nothing: no certificate"),
        ({"tls_cert": cert, "tls_key": tmp_path}, "tls_key: .*: Is a directory"),
        ({"tls_cert": cert, "tls_key": nothing}, "tls_key: .*nothing: no private key"),
        ({"tls_cert": cert, "tls_key": locked}, "tls_key: .*locked: no private key in PEM without a password"),
        ({"tls_cert": cert, "tls_key": keys.client.key}, "tls_key: .*client.key is not the key of tls_cert"),
        ({"tls_cert": cert, "tls_key": key, "tls_client_ca": nothing}, "tls_client_ca: .*nothing: no certificate"),
    ):
        with pytest.raises(ConfigError, match=says):
            security.credentials_of(config_of(**settings))
    assert security.credentials_of(config_of(tls_cert=cert, tls_key=key)) is not None
    assert security.credentials_of(config_of()) is None


def test_settings_that_need_each_other() -> None:
    for settings, says in (
        ({"tls_cert": "a"}, "tls_key: .*both or neither"),
        ({"tls_key": "a"}, "--tls-key: .*both or neither"),
        ({"tls_client_ca": "a"}, "--tls-client-ca: .*takes tls_cert and tls_key"),
    ):
        with pytest.raises(ConfigError, match=says):
            config_of(**settings)


def test_paths_in_a_file_refer_to_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('tls_cert = "c"\ntls_key = "/k"\ntls_client_ca = "ca/c"\nauth_token_file = "t"\n')
    config = load_config(path, {}, {})
    assert (config.tls_cert, config.tls_key) == (tmp_path / "c", Path("/k"))
    assert (config.tls_client_ca, config.auth_token_file) == (tmp_path / "ca/c", tmp_path / "t")


def test_the_server_does_not_start_without_them(tmp_path: Path) -> None:
    done = run_to_end("start", "--bind", "127.0.0.1:0", "--auth-token-file", str(tmp_path / "none"))
    assert done.returncode == 2
    assert f"auth_token_file: {tmp_path}/none: No such file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        ({"bind": "127.0.0.1:1"}, 0),
        ({"bind": "[::1]:1"}, 0),
        ({"bind": "localhost:1"}, 0),
        ({"bind": "unix:/tmp/x"}, 0),
        ({"bind": "0.0.0.0:1"}, 2),
        ({"bind": "[::]:1"}, 2),
        ({"bind": "example.org:1"}, 2),
        ({"bind": "0.0.0.0:1", "auth_token_file": "t"}, 1),
        ({"bind": "0.0.0.0:1", "tls_cert": "c", "tls_key": "k"}, 1),
        ({"bind": "0.0.0.0:1", "tls_cert": "c", "tls_key": "k", "tls_client_ca": "c"}, 0),
        ({"bind": "0.0.0.0:1", "tls_cert": "c", "tls_key": "k", "auth_token_file": "t"}, 0),
    ],
)
def test_an_open_address_is_warned_of(
    settings: dict[str, str], warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        security.warn_of_exposure(config_of(**settings))
    assert len(caplog.records) == warnings
