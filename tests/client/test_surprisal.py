"""Searches ranked by surprisal: what is sent, what is read, what is drawn."""

from __future__ import annotations

import json

import pytest

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire
from tests.client.fake import TEXT, search_answer


@pytest.fixture
def counted(fake):
    """The fake server answers in bits: its features stand on so many tokens of the index, the last beyond it."""

    def answer(request: service.SearchRequest) -> service.SearchResponse:
        made = search_answer(request)
        if made.results:
            made.results[0].tokens_at_least = 3.25
            made.results[0].facts.index_max_origin = wire.DENSITY_ORIGIN_IMPORT
            made.results[1].tokens_at_least, made.results[1].beyond_index = 1.0, True
        return made

    fake.answers["Search"] = answer
    return fake


def test_hits_say_on_how_many_tokens_they_are_as_active(client, counted):
    found = client.search(TEXT, ranking="surprisal", min_fires=3)
    assert counted.seen[0].request.ranking == service.RANKING_SURPRISAL
    assert counted.seen[0].request.min_fires == 3
    assert found[0].tokens_at_least == 3.25
    assert [hit.beyond_index for hit in found] == [False] * (len(found) - 1) + [True]
    assert found[0].feature.index_max_origin is saeserve.DensityOrigin.IMPORT


def test_other_rankings_say_nothing_of_it(client, fake):
    for hit in client.search(TEXT):
        assert hit.tokens_at_least is None
        assert not hit.beyond_index


def test_the_table_shows_bits_and_counts_and_says_what_they_are(run, counted):
    code, out, _ = run("search", TEXT, "--ranking", "surprisal", "--sort", "red")
    assert code == 0
    header, first = out.splitlines()[:2]
    assert header.split()[:5] == ["#", "feature", "bits", "n≥", "max"]
    assert first.split()[3] == "3.2"
    assert "beyond" in out
    flat = " ".join(out.split())
    assert "bits: log2(N / n)" in flat
    assert "beyond: more active" in flat
    assert "bits: sum over token" in flat
    assert "value" not in header
    raw = run("search", TEXT)[1]
    assert "bits" not in raw
    assert "n≥" not in raw


def test_by_token_there_are_bits_and_no_counts(run, counted):
    out = run("search", TEXT, "--ranking", "surprisal", "--by-token")[1]
    assert "bits: log2(N / n)" in out
    assert "beyond" not in out


def test_json_has_the_counts(run, counted):
    results = json.loads(run("search", TEXT, "--ranking", "surprisal", "--json")[1])["results"]
    assert results[0]["tokensAtLeast"] == 3.25
    assert results[-1]["beyondIndex"] is True
