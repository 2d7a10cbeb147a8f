"""What both clients open a channel with, and what they send with every call: from the arguments of either."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from saeserve.arguments.numbers import number
from saeserve.transport import channel, green, headers
from saeserve.transport.bearer import Bearer, written
from saeserve.transport.errors import RpcFailure, SaeserveError, from_rpc
from saeserve.transport.explain import Way, explained
from saeserve.transport.headers import Metadata
from saeserve.transport.proxy import proxy_for
from saeserve.transport.target import parse_target
from saeserve.transport.tls import File, channel_credentials

CLIENT_KEY = "x-saeserve-client"
LONGEST_CLIENT = 64
_MOST_BYTES = 2**31 - 1


class Connection:
    """The address, the credentials and the options of a channel, and the headers of its calls."""

    def __init__(
        self,
        target: str | Iterable[str],
        *,
        credentials: grpc.ChannelCredentials | None,
        tls: bool | None,
        ca_cert: File | None,
        client_cert: File | None,
        client_key: File | None,
        server_name: str | None,
        token: str | None,
        token_file: File | None,
        allow_insecure_token: bool,
        client_name: str,
        metadata: Metadata,
        max_message_bytes: int,
        options: Iterable[tuple[str, str | int]],
    ) -> None:
        where = parse_target(target)
        self.settings: dict[str, Any] = {
            "target": where.given,
            "tls": tls,
            "ca_cert": ca_cert,
            "client_cert": client_cert,
            "client_key": client_key,
            "server_name": server_name,
            "credentials": credentials,
            "token": token,
            "token_file": token_file,
            "allow_insecure_token": allow_insecure_token,
            "client_name": client_name,
            "metadata": headers.pairs(metadata),
            "max_message_bytes": number(max_message_bytes, "max_message_bytes", 1, _MOST_BYTES),
            "options": [(name, value) for name, value in options],
        }
        """The arguments, to connect anew with in another process."""
        green.prepare()
        asked = any(value is not None for value in (ca_cert, client_cert, client_key, server_name))
        if credentials is not None and (tls is not None or ca_cert or client_cert or client_key):
            raise ValueError("credentials stand for tls, ca_cert, client_cert and client_key: give one or the others")
        if credentials is None and tls is False and asked:
            raise ValueError("tls=False, but ca_cert, client_cert, client_key and server_name are for TLS")
        if credentials is None and (tls or asked):
            credentials = channel_credentials(ca_cert, client_cert, client_key)
        secure = credentials is not None
        if secure and server_name is None:
            server_name = where.server_name
            if server_name is None and where.several and "," in where.given:
                raise ValueError("several addresses over TLS need server_name: the name in their certificates")
        self.target = where.given
        """As the caller wrote it."""
        self.address = where.address
        """As gRPC takes it."""
        self.credentials = credentials
        """None for a plain connection."""
        # Through a proxy gRPC would ask for a list of addresses as for one name.
        listed = where.several and not where.host
        direct = where.local or listed
        self.options = channel.options(
            where.several,
            direct,
            server_name if secure else None,
            self.settings["max_message_bytes"],
            self.settings["options"],
        )
        own = dict(self.settings["options"])
        self.repeats = own.get("grpc.enable_retries", 1) != 0 and "grpc.service_config" not in own
        """Whether a call that failed is sent again here: not where the caller's options switch it off or do it."""
        proxy = "" if direct or not where.host else proxy_for(where.host)
        self.way = Way(where.given, secure, client_cert is not None, proxy)
        """What errors say of it."""
        self._metadata = [*self.settings["metadata"], *_named(client_name)]
        self._bearer = Bearer(token, token_file)
        self._private = secure or where.local or allow_insecure_token
        if self._bearer.header is not None:
            self._refuse_plain()

    def _refuse_plain(self) -> None:
        """Raises ValueError where a token could be read on the way."""
        if not self._private:
            raise ValueError(
                f"the token would go to {self.target} in plain text: use TLS, or allow_insecure_token if the way there "
                "is secure by other means"
            )

    def headers(
        self, metadata: Metadata | None, request_id: str | None, token: str | None = None
    ) -> list[tuple[str, str | bytes]]:
        """A call's metadata: the client's, the call's own, the token (`token` in place of the client's), a request id.

        Raises ValueError for a token that cannot be one, or would go in plain text.
        """
        sent = headers.headers(self._metadata, metadata, request_id)
        if token is not None:
            self._refuse_plain()
        header = self._bearer.header if token is None else written("token", token)
        if header is not None and all(key != "authorization" for key, _ in sent):
            sent.append(("authorization", header))
        return sent

    def error(self, failure: RpcFailure | grpc.RpcError, sent: list[tuple[str, str | bytes]]) -> SaeserveError:
        """The typed error of a call that failed, in plain words where there was no connection."""
        error = explained(from_rpc(failure, headers.sent_request_id(sent)), self.way)
        error.__cause__ = failure if isinstance(failure, BaseException) else None
        return error

    def portable(self) -> dict[str, Any]:
        """The settings for another process. Raises TypeError for credentials, which gRPC cannot hand over."""
        if self.settings["credentials"] is not None:
            raise TypeError(
                "a client with ready-made credentials cannot go to another process: give it ca_cert, client_cert and "
                "client_key, or make it there"
            )
        return self.settings


def _named(client_name: str) -> list[tuple[str, str]]:
    if not client_name:
        return []
    if len(client_name) > LONGEST_CLIENT or not client_name.isascii() or not client_name.isprintable():
        raise ValueError(f"client_name {client_name!r} is not of at most {LONGEST_CLIENT} printable ASCII characters")
    return [(CLIENT_KEY, client_name)]
