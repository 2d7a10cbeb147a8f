"""How many of the top features of each layer and kind fire on a token that they usually fire on."""

from __future__ import annotations

import importlib.util
import json

import pytest

import saeserve
from saeserve import MatchTable
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire
from tests.client.fake import SOURCES, hit, tokens

MATCHES = {
    (0, wire.FEATURE_KIND_LATENT): [wire.MATCH_EXACT, wire.MATCH_FOLDED, wire.MATCH_NONE],
    (2, wire.FEATURE_KIND_NEURON): [wire.MATCH_NONE, wire.MATCH_EXACT],
    (2, wire.FEATURE_KIND_LATENT): [wire.MATCH_UNKNOWN],
}


def part(request: service.SearchRequest) -> tuple[int, int]:
    include = request.filter.include
    return include.layers[0].first, include.kinds[0]


def answer(request: service.SearchRequest) -> service.SearchResponse:
    matches = MATCHES[part(request)]
    return service.SearchResponse(
        tokens=tokens(),
        results=[hit("0-demo", place, [1, 0, 0, 0, 0, 0], match) for place, match in enumerate(matches)],
    )


@pytest.fixture
def fake(fake):
    latents = wire.Source(id="2-demo", name="2-DEMO", set="demo", layer=2, kind=wire.FEATURE_KIND_LATENT)
    fake.answers["Search"] = answer
    fake.answers["ListSources"] = lambda _: service.ListSourcesResponse(sources=[*SOURCES, latents])
    return fake


def asked(fake):
    return [part(seen.request) for seen in fake.seen if seen.method == "Search"]


def test_a_row_counts_the_matches_of_a_layer_and_kind(client, fake):
    found = client.match_table("red")
    assert isinstance(found, MatchTable)
    assert asked(fake) == [(0, 1), (2, 1), (2, 2)]
    row = found.row(0, "latent")
    assert (row.features, row.exact, row.folded, row.unknown, row.matched, row.share) == (3, 1, 1, 0, 2, 2 / 3)
    assert found.row(2, saeserve.Kind.LATENT).share is None
    assert (found.layers, [kind.value for kind in found.kinds]) == ((0, 2), ["latent", "neuron"])
    with pytest.raises(KeyError):
        found.row(0, "neuron")
    assert str(found).splitlines() == ["layer  latents  neurons", "    0      2/3        -", "    2      ?/1      1/2"]


def test_several_texts_by_name(client, fake):
    found = client.match_table({"one": "red", "two": "blue"}, limit=7, kinds="neuron")
    assert [seen.request.input.text for seen in fake.seen if seen.method == "Search"] == ["red", "blue"]
    assert (found.texts, len(found)) == (("one", "two"), 2)
    assert all(seen.request.limit == 7 for seen in fake.seen if seen.method == "Search")
    assert str(found).splitlines()[0] == "one"


def test_only_layers_kinds_and_sets_that_are_asked_for_are_searched(client, fake):
    client.match_table("red", layers="1-2", kinds="latent", sets="demo", ranking="relative", max_density=0.1)
    assert asked(fake) == [(2, 1)]
    request = fake.seen[-1].request
    assert list(request.filter.include.sets) == ["demo"]
    assert (request.filter.max_density, request.ranking) == (0.1, service.RANKING_RELATIVE_TO_MAX)


def test_where_nothing_can_take_part_the_server_says_why(client, fake):
    fake.answers["Search"] = lambda request: service.SearchResponse(tokens=tokens())
    assert len(client.match_table("red", sets="demmo")) == 0
    assert list(fake.seen[-1].request.filter.include.sets) == ["demmo"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"texts": []},
        {"texts": {}},
        {"texts": "red", "limit": 0},
        {"texts": "red", "ranking": "best"},
        {"texts": "red", "kinds": []},
        {"texts": "red", "layers": "x"},
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(client, fake, arguments):
    with pytest.raises(ValueError, match=r"."):
        client.match_table(**arguments)
    assert not fake.seen


def test_the_command_prints_a_table_for_each_text(run):
    code, out, err = run("match", "red", "--example", "code", "--example", "news")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [lines[0], lines[5], lines[10]] == [["red"], ["code"], ["news"]]
    assert lines[1:4] == [["layer", "latents", "neurons"], ["0", "2/3", "-"], ["2", "?/1", "1/2"]]


def test_the_command_as_json(run):
    printed = json.loads(run("match", "red", "--json", "--limit", "9", "--layers", "0")[1])
    counts = {"features": 3, "matched": 2, "exact": 1, "folded": 1, "unknown": 0}
    row = {"text": 0, "layer": 0, "kind": "latent"} | counts
    assert printed == {"texts": ["red"], "ranking": "raw", "limit": 9, "rows": [row]}


def test_the_command_draws_a_plot(run, tmp_path):
    code, _, err = run("match", "red $x_1$", "--example", "code", "--plot", str(tmp_path / "out.png"))
    assert (code, err) == (0, "")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert run("match", "red", "--plot", str(tmp_path / "out.nothing"))[0] == 2
    assert run("match", "red", "--plot", str(tmp_path / "missing" / "out.png"))[0] == 1


def test_without_matplotlib_it_is_told_what_to_install(run, fake, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    code, _, err = run("match", "red", "--plot", str(tmp_path / "out.png"))
    assert code == 2
    assert 'pip install "saeserve[plot]"' in err
    assert not fake.seen


def test_a_text_is_needed(run, fake):
    assert run("match")[0] == 2
    assert not fake.seen


def test_examples_are_short_texts_of_many_kinds():
    assert {"literary", "news", "code"} <= set(saeserve.EXAMPLES)
    assert all(text and len(text) < 500 for text in saeserve.EXAMPLES.values())
