"""Who may call: TLS from PEM files, and one bearer token. Files that change are read again, unless what they then hold
cannot be used."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import ssl
import threading
from collections.abc import Iterable
from pathlib import Path

import grpc

from saeserve_server.config import Config
from saeserve_server.errors import ConfigError
from saeserve_server.watched import Watch, read_named

log = logging.getLogger(__name__)

AUTHORIZATION_KEY = "authorization"


class BearerToken:
    """The token that callers must send as `authorization: Bearer TOKEN`. It is never logged, and never in an error."""

    def __init__(self, path: Path) -> None:
        """Reads the file. Raises ConfigError."""
        self._path = path
        self._watch = Watch([path])  # before the file is read: what changes in between is seen
        self._token = self._read()

    def accepts(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether a call's metadata carry the token, once."""
        if self._watch.changed():
            self._read_again()
        given = [value for key, value in metadata if key == AUTHORIZATION_KEY]
        if len(given) != 1 or not isinstance(given[0], str):
            return False
        scheme, _, token = given[0].partition(" ")
        right = hmac.compare_digest(token.strip(" ").encode("utf-8", "surrogateescape"), self._token)
        return right and scheme.lower() == "bearer"

    def _read_again(self) -> None:
        try:
            self._token = self._read()
        except ConfigError as error:
            log.warning("the token before stays in force: %s", error)
        else:
            log.info("the bearer token was read anew")

    def _read(self) -> bytes:
        data = read_named("auth_token_file", self._path).strip()
        if not data:
            raise ConfigError(f"auth_token_file: {self._path}: the file is empty")
        if any(not 0x21 <= byte <= 0x7E for byte in data):
            raise ConfigError(f"auth_token_file: {self._path}: expected one word of printable ASCII characters")
        return data


class Certificates:
    """The server's certificate and key, and the authorities of its clients."""

    def __init__(self, chain: Path, key: Path, client_ca: Path | None) -> None:
        """Reads the files. Raises ConfigError."""
        self._chain, self._key, self._client_ca = chain, key, client_ca
        self._watch = Watch([path for path in (chain, key, client_ca) if path is not None])
        self._lock = threading.Lock()
        self._first = self._load()

    def credentials(self) -> grpc.ServerCredentials:
        """What a port is opened with. Each new connection gets the files as they then are."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._renewed,  # type: ignore[arg-type]  # None stands for no change
            require_client_authentication=self._client_ca is not None,
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The certificates if they have changed, else None. gRPC calls it in threads of its own."""
        with self._lock:
            if not self._watch.changed():
                return None
            try:
                renewed = self._load()
            except ConfigError as error:
                log.warning("the certificate before stays in use: %s", error)
                return None
        log.info("the certificate was read anew")
        return renewed

    def _load(self) -> grpc.ServerCertificateConfiguration:
        chain = read_named("tls_cert", self._chain)
        key = read_named("tls_key", self._key)
        _check_certificates("tls_cert", self._chain, chain)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._chain, self._key, _no_password)
        except (ssl.SSLError, ValueError, OSError) as error:
            if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
                raise ConfigError(f"tls_key: {self._key} is not the key of tls_cert, {self._chain}") from error
            raise ConfigError(f"tls_key: {self._key}: no private key in PEM without a password") from error
        authorities = None
        if self._client_ca is not None:
            authorities = read_named("tls_client_ca", self._client_ca)
            _check_certificates("tls_client_ca", self._client_ca, authorities)
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)


def _no_password() -> str:
    raise ValueError("the key has a password")


def _check_certificates(setting: str, path: Path, data: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii", "ignore"))
    except ssl.SSLError as error:
        raise ConfigError(f"{setting}: {path}: no certificate in PEM") from error


def token_of(config: Config) -> BearerToken | None:
    """The token that callers must carry, None where none is asked for. Raises ConfigError."""
    return None if config.auth_token_file is None else BearerToken(config.auth_token_file)


def credentials_of(config: Config) -> grpc.ServerCredentials | None:
    """What the port is opened with, None for plaintext. Raises ConfigError."""
    if config.tls_cert is None or config.tls_key is None:  # config.py lets neither stand alone
        return None
    return Certificates(config.tls_cert, config.tls_key, config.tls_client_ca).credentials()


def warn_of_exposure(config: Config) -> None:
    """Logs what an address that other machines can reach lacks."""
    if is_local(config.bind):
        return
    if config.tls_cert is None:
        log.warning("%s can be reached from elsewhere, and there is no TLS (tls_cert, tls_key)", config.bind)
    if config.auth_token_file is None and config.tls_client_ca is None:
        log.warning("%s can be reached from elsewhere, and anyone may call (auth_token_file)", config.bind)


def is_local(address: str) -> bool:
    """Whether only this machine can connect to `HOST:PORT` or `unix:PATH`."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
