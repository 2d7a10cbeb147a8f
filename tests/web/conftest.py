"""One gateway before the demo's server, for all tests that leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

import saeserve
from tests.web.running import Running, gateway_before


@pytest.fixture(scope="session")
def gateway(demo: saeserve.Client) -> Iterator[Running]:
    """`gateway.url` is its address."""
    with gateway_before(demo.target) as running:
        yield running


@pytest.fixture(scope="session")
def http(gateway: Running) -> Iterator[httpx.Client]:
    """Asks it, by paths."""
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client:
        yield client
