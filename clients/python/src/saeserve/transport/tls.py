"""TLS of a channel, from PEM files that are checked before gRPC sees them: it would only say that it cannot connect."""

from __future__ import annotations

import ssl
from os import PathLike
from pathlib import Path

import grpc

File = str | PathLike[str]


def channel_credentials(
    ca_cert: File | None = None, client_cert: File | None = None, client_key: File | None = None
) -> grpc.ChannelCredentials:
    """Credentials that trust `ca_cert` (None: the authorities that ship with gRPC) and show a client's certificate.

    Raises ValueError, with the file's name, for what cannot be read or used.
    """
    if (client_cert is None) != (client_key is None):
        raise ValueError("client_cert and client_key belong together")
    roots = chain = key = None
    if ca_cert is not None:
        roots = _certificates("ca_cert", ca_cert)
    if client_cert is not None and client_key is not None:
        chain, key = _certificates("client_cert", client_cert), read("client_key", client_key)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(client_cert, client_key, _no_password)
        except (ssl.SSLError, ValueError, OSError) as error:
            raise ValueError(
                f"client_key: {client_key}: not a private key in PEM, without a password, of {client_cert}"
            ) from error
    return grpc.ssl_channel_credentials(roots, key, chain)


def read(name: str, path: File) -> bytes:
    """A file that an argument names. Raises ValueError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{name}: {path}: {error.strerror}") from error


def _certificates(name: str, path: File) -> bytes:
    data = read(name, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii", "ignore"))
    except ssl.SSLError as error:
        raise ValueError(f"{name}: {path}: no certificate in PEM") from error
    return data


def _no_password() -> str:
    raise ValueError("the key has a password")
