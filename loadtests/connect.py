"""Channels for load: separate connections, no proxy, and no retries, so that a refusal counts as what it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from saeserve.v1 import feature_service_pb2_grpc

OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one address share a connection
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
]

PATIENCE = 60.0
"""Seconds to connect."""


def channel(target: str) -> grpc.Channel:
    """A blocking channel."""
    return grpc.insecure_channel(target, options=OPTIONS)


@asynccontextmanager
async def stubs(target: str, channels: int) -> AsyncIterator[list[Any]]:
    """Generated stubs, each on an asyncio channel of its own that is connected."""
    async with contextlib.AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(grpc.aio.insecure_channel(target, options=OPTIONS)) for _ in range(channels)
        ]
        await asyncio.wait_for(asyncio.gather(*(one.channel_ready() for one in opened)), PATIENCE)
        yield [feature_service_pb2_grpc.FeatureServiceStub(one) for one in opened]
