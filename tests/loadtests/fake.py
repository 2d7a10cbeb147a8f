"""A service that answers as a test wants it to, without a model."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc.aio
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from loadtests.processes import SERVICE
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import feature_service_pb2_grpc, types_pb2

Behaviour = Callable[[int], Awaitable[None]]
"""What happens before search number n is answered; what it raises refuses the search."""


class Refusal(Exception):
    """RESOURCE_EXHAUSTED as the service says it."""


class Fake(feature_service_pb2_grpc.FeatureServiceServicer):
    def __init__(self, behaviour: Behaviour, token: str | None) -> None:
        self.behaviour = behaviour
        self.token = token
        self.texts: list[str] = []
        self.callers: set[str] = set()
        """What they named themselves."""
        self.results: list[pb.FeatureResult] = []
        """Of each search."""

    async def let_in(self, context) -> None:
        sent = dict(context.invocation_metadata())
        if self.token and sent.get("authorization") != f"Bearer {self.token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a token is required")
        self.callers.add(sent.get("x-saeserve-client", ""))

    async def Search(self, request, context):
        await self.let_in(context)
        self.texts.append(request.input.text)
        try:
            await self.behaviour(len(self.texts))
        except Refusal:
            await refuse(context)
        return pb.SearchResponse(call_info=types_pb2.CallInfo(cache=types_pb2.CACHE_TIER_NONE), results=self.results)

    async def Tokenize(self, request, context):
        await self.let_in(context)
        return pb.TokenizeResponse()

    async def GetServerInfo(self, request, context):
        await self.let_in(context)
        return pb.GetServerInfoResponse(model=pb.Model(n_layers=2))

    async def ListSources(self, request, context):
        await self.let_in(context)
        kind = types_pb2.FEATURE_KIND_LATENT
        return pb.ListSourcesResponse(sources=[types_pb2.Source(id="0-fake", kind=kind, n_features=64)])

    async def Encode(self, request, context):
        await self.let_in(context)
        return pb.EncodeResponse()


async def refuse(context) -> None:
    info = error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="saeserve.dev")
    delay = error_details_pb2.RetryInfo()
    delay.retry_delay.FromMilliseconds(50)
    details = []
    for message in (info, delay):
        packed = any_pb2.Any()
        packed.Pack(message)
        details.append(packed)
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="busy", details=details)
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", trailing_metadata=trailing)


@contextlib.asynccontextmanager
async def serving(
    behaviour: Behaviour, token: str | None = None, tls: grpc.ServerCredentials | None = None
) -> AsyncIterator[tuple[str, Fake]]:
    """Its address, and the fake."""
    server, fake = grpc.aio.server(), Fake(behaviour, token)
    feature_service_pb2_grpc.add_FeatureServiceServicer_to_server(fake, server)
    alive = health.aio.HealthServicer()
    await alive.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)
    port = server.add_secure_port("127.0.0.1:0", tls) if tls else server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", fake
    finally:
        await server.stop(None)


async def at_once(number: int) -> None:
    """Answers without delay."""


def after(seconds: float) -> Behaviour:
    """Answers after so long, however many ask."""

    async def wait(number: int) -> None:
        await asyncio.sleep(seconds)

    return wait


def one_at_a_time(seconds: float) -> Behaviour:
    """Answers one after the other, so long each."""
    lock = asyncio.Lock()

    async def wait(number: int) -> None:
        async with lock:
            await asyncio.sleep(seconds)

    return wait
