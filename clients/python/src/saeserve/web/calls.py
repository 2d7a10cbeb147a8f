"""POST /api/v1/…: the RPCs that are answered once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from starlette.types import Receive, Scope, Send

from saeserve.v1 import feature_service_pb2 as service
from saeserve.web import bodies, parsing
from saeserve.web.forwarding import asked
from saeserve.web.gateway import Gateway, while_there
from saeserve.web.items import config_and_items
from saeserve.web.sending import Answer

RPCS = service.DESCRIPTOR.services_by_name["FeatureService"].methods_by_name


def path_of(rpc: str) -> str:
    """`TopActivations` is `/api/v1/top-activations`."""
    return "/api/v1/" + "".join(f"-{char.lower()}" if char.isupper() else char for char in rpc).lstrip("-")


class _Endpoint(ABC):
    """As ASGI has it: a call keeps its place until its answer has left, which may be large and read slowly."""

    def __init__(self, gateway: Gateway, rpc: str) -> None:
        self._gateway = gateway
        self._rpc = rpc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = asked(scope, self._gateway.settings)
        with self._gateway.place():
            data = await bodies.whole(scope, receive, self._gateway.settings)
            message = await parsing.aside(data, self._read)
            answer = await while_there(receive, self._gateway.ask(head, self._rpc, message))
            await Answer(answer)(scope, receive, send)

    @abstractmethod
    def _read(self, found: Any) -> Message | list[Message]:
        """What is asked, from JSON. Raises Refused."""


class Unary(_Endpoint):
    """The endpoint of an RPC with one request, which is the body."""

    def _read(self, found: Any) -> Message:
        kind: type[Message] = GetMessageClass(RPCS[self._rpc].input_type)
        return parsing.message(found, kind())


class Contrast(_Endpoint):
    """Contrast, whose messages stand in one body: `config`, and the texts as `items`."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, "Contrast")

    def _read(self, found: Any) -> list[Message]:
        config, items = config_and_items(found)
        messages: list[Message] = [
            service.ContrastRequest(config=parsing.message(config, service.ContrastConfig(), "config"))
        ]
        for place, item in enumerate(items):
            text = parsing.message(item, service.ContrastItem(), f"items[{place}]")
            messages.append(service.ContrastRequest(item=text))
        return messages
