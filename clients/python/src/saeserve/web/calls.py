"""POST /api/v1/…: the RPCs that are answered once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from starlette.requests import Request
from starlette.responses import Response

from saeserve.v1 import feature_service_pb2 as service
from saeserve.web import bodies, parsing
from saeserve.web.forwarding import asked
from saeserve.web.gateway import Gateway, while_there
from saeserve.web.items import config_and_items
from saeserve.web.sending import Answer

RPCS = service.DESCRIPTOR.services_by_name["FeatureService"].methods_by_name

Endpoint = Callable[[Request], Awaitable[Response]]


def path_of(rpc: str) -> str:
    """`TopActivations` is `/api/v1/top-activations`."""
    return "/api/v1/" + "".join(f"-{char.lower()}" if char.isupper() else char for char in rpc).lstrip("-")


def unary(gateway: Gateway, rpc: str) -> Endpoint:
    """The endpoint of an RPC with one request, which is the body."""
    kind: type[Message] = GetMessageClass(RPCS[rpc].input_type)

    def read(found: Any) -> Message:
        return parsing.message(found, kind())

    return _endpoint(gateway, rpc, read)


def contrast(gateway: Gateway) -> Endpoint:
    """Contrast, whose messages stand in one body: `config`, and the texts as `items`."""

    def read(found: Any) -> list[Message]:
        config, items = config_and_items(found)
        messages: list[Message] = [
            service.ContrastRequest(config=parsing.message(config, service.ContrastConfig(), "config"))
        ]
        for place, item in enumerate(items):
            text = parsing.message(item, service.ContrastItem(), f"items[{place}]")
            messages.append(service.ContrastRequest(item=text))
        return messages

    return _endpoint(gateway, "Contrast", read)


def _endpoint(gateway: Gateway, rpc: str, read: Callable[[Any], Message | list[Message]]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        head = asked(request.scope, gateway.settings)
        with gateway.place():
            data = await bodies.whole(request.scope, request.receive, gateway.settings)
            message = await parsing.aside(data, read)
            return Answer(await while_there(request.receive, gateway.ask(head, rpc, message)))

    return endpoint
