"""Neuronpedia's calls before servers of another kind than the demo's: other BOS rules, small limits, tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire
from saeserve.web.neuronpedia.options import Options
from tests.client.fake import FakeService, dense, hit, new_service, serve, sparse, tokens
from tests.web.running import gateway_before

BOS = wire.Token(id=7, piece=b"<s>", display="<s>")
RED = {"prompt": "My favorite color is red.", "model": ""}
ALL = RED | {"sourceSet": "demo", "selectedSources": [], "ignoreBos": False}


class Fake:
    """A server of one SAE with 8 latents, for a model without BOS; `leads`: whether the SAE has one of its own."""

    def __init__(self, leads: bool) -> None:
        self.leads = leads
        self.service: FakeService = new_service()
        source = wire.Source(id="0-demo", set="demo", kind=wire.FEATURE_KIND_LATENT, n_features=8)
        if leads:
            source.bos_id = BOS.id
        limits = service.Limits(max_limit=3, max_features=2)
        info = service.GetServerInfoResponse(model=service.Model(name="bare"), limits=limits)
        self.service.answers |= {
            "GetServerInfo": info,
            "ListSources": service.ListSourcesResponse(sources=[source]),
            "Tokenize": service.TokenizeResponse(tokens=tokens()),
            "Search": self.search,
            "Encode": self.encode,
        }

    @property
    def tokens(self) -> list[wire.Token]:
        return [BOS] * self.leads + tokens()

    def search(self, request: service.SearchRequest) -> service.SearchResponse:
        values = [float(place) for place in range(len(self.tokens))]
        found = [hit("0-demo", 1, values, wire.MATCH_NONE)]
        return service.SearchResponse(tokens=self.tokens, bos_included=self.leads, results=found)

    def encode(self, request: service.EncodeRequest) -> service.EncodeResponse:
        rows = len(self.tokens)
        text = service.EncodedText(tokens=self.tokens, bos_included=self.leads)
        made = service.EncodeResponse(texts=[text], text_offsets=[0, rows])
        values = np.arange(1, rows + 1, dtype=np.float32)[:, None]
        if request.features:
            made.dense.CopyFrom(dense(np.repeat(values, len(request.features), 1)))
        else:
            made.sparse.append(sparse("0-demo", values))
        return made

    def asked(self, method: str) -> list[Any]:
        return [seen.request for seen in self.service.seen if seen.method == method]


@pytest.fixture(params=[True, False], ids=["own BOS", "no BOS"])
def fake(request: pytest.FixtureRequest) -> Fake:
    return Fake(request.param)


@pytest.fixture
def behind(fake: Fake) -> Iterator[httpx.Client]:
    server, address = serve(fake.service)
    with (
        gateway_before(address, options={"neuronpedia": Options()}) as running,
        httpx.Client(base_url=running.url, trust_env=False) as client,
    ):
        yield client
    server.stop(0).wait(10)


def test_all_has_the_rows_that_the_server_has(behind: httpx.Client, fake: Fake) -> None:
    pieces = [token.piece.decode() for token in fake.tokens]
    body = ALL | {"sortByTokenIndexes": [0, len(pieces) - 1]}
    answer = behind.post("/v1/activation/all", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["tokens"] == pieces
    assert [len(row["values"]) for row in found["activations"]] == [len(pieces)] * 3
    (asked,) = fake.asked("Search")
    first = {"bos": True} if fake.leads else {"position": 0}
    assert list(asked.sort_tokens) == [service.SortToken(**first), service.SortToken(position=5)]
    beyond = behind.post("/v1/activation/all", json=ALL | {"sortByTokenIndexes": [len(pieces)]})
    assert beyond.status_code == 400


def test_a_bos_that_is_ignored_is_zero_and_ranks_nothing(behind: httpx.Client, fake: Fake) -> None:
    body = ALL | {"sortByTokenIndexes": [0], "ignoreBos": True}
    found = behind.post("/v1/activation/all", json=body).json()
    assert found["tokens"] == [token.piece.decode() for token in fake.tokens]
    assert {row["values"][0] for row in found["activations"]} == ({0.0} if fake.leads else {0.0, 1.0})
    assert [row["index"] for row in found["activations"]] == ([0, 1, 2] if fake.leads else [1, 0, 2])


def test_more_than_the_server_gives_at_a_time_is_not_asked_for(behind: httpx.Client, fake: Fake) -> None:
    found = behind.post("/v1/activation/all", json=ALL | {"sortByTokenIndexes": [1], "numResults": 1000}).json()
    assert [request.limit for request in fake.asked("Search")] == [3]
    assert len(found["activations"]) == 3
    body = ALL | {"sortByTokenIndexes": [0], "ignoreBos": True, "numResults": 1000}
    behind.post("/v1/activation/all", json=body)
    assert all(len(request.features) <= 2 for request in fake.asked("Encode"))
    assert behind.get("/v1/capabilities").json()["max_num_results"] == 3


def test_only_a_bos_that_is_there_is_left_out(behind: httpx.Client, fake: Fake) -> None:
    pieces = [token.piece.decode() for token in tokens()]
    single = behind.post("/v1/activation/single", json=RED | {"source": "0-demo", "index": "1"}).json()
    assert single["tokens"] == pieces
    first = 2.0 if fake.leads else 1.0
    assert single["activation"]["values"] == [first + place for place in range(6)]
    body = {"prompts": [RED["prompt"]], "model": "", "source": "0-demo"}
    (active,) = behind.post("/v1/activation/source", json=body).json()["results"]
    places = [place for place, _ in active["activeFeatures"]["0"]]
    assert places == list(range(fake.leads, 6 + fake.leads))


def test_what_one_token_was_told_is_told_to_no_other(behind: httpx.Client, fake: Fake) -> None:
    def seen() -> list[str | None]:
        return [one.metadata.get("authorization") for one in fake.service.seen if one.method == "GetServerInfo"]

    for token in ("Bearer one", "Bearer two", "Bearer one", None, "Bearer two"):
        heads = {} if token is None else {"authorization": token}
        assert behind.get("/v1/capabilities", headers=heads).status_code == 200
    assert seen() == ["Bearer one", "Bearer two", None]
