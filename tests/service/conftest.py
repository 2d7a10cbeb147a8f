"""Below the client: a channel without retries, and stubs, to the demo's server."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

import saeserve
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.service.wire import connect, stub_of


@pytest.fixture(scope="session")
def channel(demo: saeserve.Client) -> Iterator[grpc.Channel]:
    with connect(demo.target) as channel:
        yield channel


@pytest.fixture(scope="session")
def stub(channel: grpc.Channel) -> FeatureServiceStub:
    return stub_of(channel)


@pytest.fixture(scope="session")
def uncached_stub(uncached: saeserve.Client) -> Iterator[FeatureServiceStub]:
    with connect(uncached.target) as channel:
        yield stub_of(channel)
