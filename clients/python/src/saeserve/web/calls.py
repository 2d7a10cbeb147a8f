"""POST /api/v1/…: the RPCs that are answered once."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from starlette.requests import Request
from starlette.responses import Response

from saeserve.answers.as_json import as_json
from saeserve.v1 import feature_service_pb2 as service
from saeserve.web import bodies, parsing
from saeserve.web.forwarding import asked
from saeserve.web.gateway import Gateway, while_there
from saeserve.web.problems import malformed

RPCS = service.DESCRIPTOR.services_by_name["FeatureService"].methods_by_name

Endpoint = Callable[[Request], Awaitable[Response]]


def path_of(rpc: str) -> str:
    """`TopActivations` is `/api/v1/top-activations`."""
    return "/api/v1/" + "".join(f"-{char.lower()}" if char.isupper() else char for char in rpc).lstrip("-")


def unary(gateway: Gateway, rpc: str) -> Endpoint:
    """The endpoint of an RPC with one request, which is the body."""
    kind: type[Message] = GetMessageClass(RPCS[rpc].input_type)

    async def endpoint(request: Request) -> Response:
        head = asked(request.scope, gateway.settings)
        found = parsing.parsed(await bodies.whole(request.scope, request.receive, gateway.settings))
        message = parsing.message(found, kind())
        return answer(await while_there(request.receive, gateway.ask(head, rpc, message)))

    return endpoint


def contrast(gateway: Gateway) -> Endpoint:
    """Contrast, whose messages stand in one body: `config`, and the texts as `items`."""

    async def endpoint(request: Request) -> Response:
        head = asked(request.scope, gateway.settings)
        found = parsing.parsed(await bodies.whole(request.scope, request.receive, gateway.settings))
        config, items = config_and_items(found)
        messages = [service.ContrastRequest(config=parsing.message(config, service.ContrastConfig(), "config"))]
        for place, item in enumerate(items):
            read = parsing.message(item, service.ContrastItem(), f"items[{place}]")
            messages.append(service.ContrastRequest(item=read))
        return answer(await while_there(request.receive, gateway.ask(head, "Contrast", messages)))

    return endpoint


def config_and_items(found: Any) -> tuple[Any, list[Any]]:
    """The two parts of a body that stands for a stream. Raises Refused."""
    if not isinstance(found, dict) or not found.keys() <= {"config", "items"}:
        raise malformed('the body is no object of "config" and "items"')
    items = found.get("items") or []
    if not isinstance(items, list):
        raise malformed("items is no array", "items")
    return found.get("config") or {}, items


def answer(message: Message) -> Response:
    """A message as the body of an answer."""
    return Response(json.dumps(as_json(message), ensure_ascii=False), media_type="application/json")
