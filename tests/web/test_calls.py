"""Every call answers what gRPC answers."""

from __future__ import annotations

import httpx


def test_a_search(gateway, demo):
    found = httpx.post(f"{gateway.url}/api/v1/search", json={"input": {"text": "My favorite color is red."}}).json()
    assert [one["facts"]["name"] for one in found["results"]] == [
        str(hit.name) for hit in demo.search("My favorite color is red.").results
    ]
