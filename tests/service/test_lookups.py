"""TopActivations, GetFeature, ListSources, Tokenize and GetServerInfo."""

from __future__ import annotations

import json
from itertools import pairwise

import grpc
import numpy as np
import pytest

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.service.wire import DEMO, TIMEOUT, ids_input, text_input

RED = "My favorite color is red."
ORDER = ["0-demo", "0", "1-demo", "1", "2-demo", "2", "3-demo", "3"]
FEATURES = ["0-DEMO:1635", "0-DEMO:248", "2-DEMO:661", "3-DEMO:1099", "0:52", "3:64"]


def dead_latent(client: saeserve.Client) -> str:
    for index in range(2048):
        if client.get_feature(f"0-demo:{index}").dead:
            return f"0-demo:{index}"
    raise AssertionError("the demo has dead latents")


# TopActivations


@pytest.mark.parametrize("feature", FEATURES)
def test_pages_cover_every_record_once_whatever_their_size(demo: saeserve.Client, feature: str) -> None:
    whole = demo.top_activations(feature, page_size=100)
    assert whole.next_page_token == ""
    keys = [(record.text_index, record.text_position, record.max_position) for record in whole]
    assert len(keys) == len(set(keys))
    for size in (1, 3, 7):
        paged = list(demo.iter_top_activations(feature, page_size=size))
        assert [(record.text_index, record.text_position, record.max_position) for record in paged] == keys
        assert [record.max_activation for record in paged] == [record.max_activation for record in whole]
    assert len(demo.top_activations(feature).records) == min(10, len(keys))


@pytest.mark.parametrize("feature", FEATURES)
def test_records_fall_and_their_windows_are_as_described(demo: saeserve.Client, feature: str) -> None:
    answer = demo.top_activations(feature, page_size=100)
    values = [record.max_activation for record in answer]
    assert values == sorted(values, reverse=True)
    assert str(answer.feature.name) == feature
    for record in answer:
        assert len(record.tokens) == len(record.activations)
        assert record.max_activation == record.activations[record.max_position] == record.activations.max()
        assert int(record.activations.argmax()) == record.max_position
        assert record.max_position <= 16
        assert len(record.tokens) - record.max_position - 1 <= 16
        assert record.tokens[0].start == 0
        assert all(before.end == after.start for before, after in pairwise(record.tokens))
    assert answer.statistics.max_activation == pytest.approx(answer.records[0].max_activation)
    assert answer.feature.index_max_activation == pytest.approx(answer.records[0].max_activation)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_record_is_what_encode_gives_for_its_text(demo: saeserve.Client, feature: str) -> None:
    """Where the window begins its text, model and source saw the same tokens before it as here."""
    held = 0
    for record in demo.top_activations(feature, page_size=100):
        if record.text_position != 0:
            continue
        dense = demo.encode([[token.id for token in record.tokens]], features=feature).dense
        assert dense is not None
        np.testing.assert_allclose(dense[:, 0], record.activations, atol=1e-4 * max(1.0, record.max_activation))
        held += 1
    assert held or all(record.text_position for record in demo.top_activations(feature, page_size=100))


def test_a_record_stands_in_its_text(demo: saeserve.Client) -> None:
    texts = [json.loads(line)["text"] for line in (DEMO / "passages.jsonl").read_text().splitlines()]
    for record in demo.top_activations("0-DEMO:1635", page_size=100):
        ids = demo.tokenize(texts[record.text_index]).ids
        window = ids[record.text_position : record.text_position + len(record.tokens)]
        assert tuple(token.id for token in record.tokens) == tuple(window)
        assert record.text in texts[record.text_index]


def test_a_page_token_belongs_to_one_feature(demo: saeserve.Client) -> None:
    token = demo.top_activations("0-DEMO:1635", page_size=2).next_page_token
    assert token
    assert demo.top_activations("0-demo:1635", page_token=token).records
    for feature in ("0-DEMO:248", "0:35", "1-DEMO:1635"):
        with pytest.raises(saeserve.InvalidArgument) as caught:
            demo.top_activations(feature, page_token=token)
        assert caught.value.reason == "INVALID_PAGE_TOKEN"
    for wrong in (token[:-1], token[::-1], token + "A", token.swapcase(), "A" * 32, " ", token + "=", token + "\n"):
        with pytest.raises(saeserve.InvalidArgument) as caught:
            demo.top_activations("0-DEMO:1635", page_token=wrong)
        assert caught.value.reason == "INVALID_PAGE_TOKEN"


def test_a_page_may_be_of_another_size_than_the_one_before(demo: saeserve.Client) -> None:
    whole = demo.top_activations("0-DEMO:1635", page_size=100).records
    first = demo.top_activations("0-DEMO:1635", page_size=3)
    rest = demo.top_activations("0-DEMO:1635", page_size=100, page_token=first.next_page_token)
    joined = [*first.records, *rest.records]
    assert [one.max_activation for one in joined] == [one.max_activation for one in whole]


def test_a_feature_that_never_fired_has_no_records_and_is_no_error(demo: saeserve.Client) -> None:
    feature = dead_latent(demo)
    answer = demo.top_activations(feature)
    assert answer.records == ()
    assert answer.next_page_token == ""
    statistics = answer.statistics
    assert (statistics.fires, statistics.density, statistics.max_activation, statistics.mean_activation) == (0, 0, 0, 0)
    assert statistics.histogram == ()
    assert answer.feature.usual_tokens == ()


def test_statistics_fit_together(demo: saeserve.Client) -> None:
    for feature in FEATURES:
        statistics = demo.top_activations(feature).statistics
        index = demo.server_info().index
        assert index is not None
        assert statistics.tokens == index.tokens
        assert statistics.density == pytest.approx(statistics.fires / statistics.tokens)
        assert 0 < statistics.fires_in_texts <= statistics.blocks <= statistics.fires
        assert statistics.texts == index.texts
        assert sum(cell.count for cell in statistics.histogram) == statistics.fires
        assert all(1 < cell.upper / cell.lower <= 1.125 for cell in statistics.histogram)
        assert all(before.upper <= after.lower for before, after in pairwise(statistics.histogram))
        assert statistics.histogram[0].count > 0
        assert statistics.histogram[-1].lower <= statistics.max_activation < statistics.histogram[-1].upper
        assert 0 < statistics.mean_activation <= statistics.max_activation
        assert 0 < len(statistics.top_tokens) <= 20
        keys = [(-one.count, -one.max_activation) for one in statistics.top_tokens]
        assert keys == sorted(keys)
        assert statistics.top_tokens[0].token.end == 0


# ListSources, GetFeature


def test_sources_come_by_layer_latents_first(demo: saeserve.Client) -> None:
    sources = demo.list_sources()
    assert [source.id for source in sources] == ORDER
    for source in sources:
        latents = source.kind is saeserve.Kind.LATENT
        assert source.name == source.id.upper()
        assert source.set == ("demo" if latents else "neurons")
        assert source.layer == int(source.id[0])
        assert source.hook_name == f"blocks.{source.layer}." + ("hook_mlp_out" if latents else "mlp.hook_post")
        assert source.architecture == ("jumprelu" if latents else "neurons")
        assert source.n_features == (2048 if latents else 512)
        assert (source.memory_bytes > 0) == latents
        assert source.revision
        assert source.density_origin is saeserve.DensityOrigin.INDEX
    assert len({source.revision for source in sources}) == len(ORDER)


def test_the_dead_are_counted_as_get_feature_says(demo: saeserve.Client) -> None:
    source = demo.list_sources()["0-DEMO"]
    dead = sum(bool(demo.get_feature(f"0-demo:{index}").dead) for index in range(source.n_features))
    assert dead == source.dead_features


def test_a_feature_is_found_by_id_and_alias_in_any_case(demo: saeserve.Client) -> None:
    latent = demo.get_feature("0-Demo:248")
    assert str(latent.feature.name) == "0-DEMO:248"
    assert latent.source == demo.list_sources()["0-demo"]
    assert latent.decoder_norm is not None
    assert latent.decoder_norm > 0
    assert latent.dead is False
    neuron = demo.get_feature("2-NEURONS:7")
    assert str(neuron.feature.name) == "2:7"
    assert neuron.decoder_norm is None
    assert neuron.feature == demo.get_feature("2:7").feature


# Tokenize


@pytest.mark.parametrize(
    "text",
    [
        RED,
        "red",
        " red",
        "\N{ROBOT FACE}\N{FAMILY} \U0001f469\u200d\U0001f680 e\u0301",
        "日本語とカタカナ",
        "  two  spaces\n\n\ttab ",
        "a\0b\x7f",
        "<|endoftext|",
        "x" * 3000,
    ],
)
def test_pieces_joined_are_the_text_and_ids_give_the_same_tokens(demo: saeserve.Client, text: str) -> None:
    result = demo.tokenize(text)
    data = text.encode()
    assert b"".join(token.piece for token in result) == data
    assert all(data[token.start : token.end] == token.piece for token in result)
    assert all(token.display.isprintable() for token in result)
    assert demo.tokenize(ids=result.ids).tokens == result.tokens
    assert demo.tokenize(ids=(0, *result.ids)).ids == result.ids
    assert result.bos_id == 0
    assert result.over_limit == (len(result) > 255)


def test_a_leading_bos_among_ids_stands_for_the_one_that_is_prepended(demo: saeserve.Client) -> None:
    ids = demo.tokenize(RED).ids
    assert demo.tokenize(ids=(0, *ids)).tokens == demo.tokenize(ids=ids).tokens


def test_a_text_over_the_token_limit_is_tokenised_whole(demo: saeserve.Client) -> None:
    result = demo.tokenize("red " * 1000)
    assert result.over_limit
    assert len(result) >= 1000


def test_a_bos_alone_has_no_tokens(demo: saeserve.Client) -> None:
    assert demo.tokenize("<|endoftext|>").tokens == ()
    assert demo.tokenize(ids=[0]).tokens == ()
    assert [token.id for token in demo.tokenize("a<|endoftext|>b") if token.id == 0] == [0]


# GetServerInfo


def test_the_server_says_what_it_serves(demo: saeserve.Client) -> None:
    info = demo.server_info()
    sources = demo.list_sources()
    assert info.model.name == "demo"
    assert (info.model.n_layers, info.model.d_model, info.model.context_tokens) == (4, 128, 256)
    assert (info.model.vocabulary, info.model.bos_id) == (8192, 0)
    assert info.source_count == len(sources)
    assert info.feature_count == sum(source.n_features for source in sources)
    assert info.index is not None
    assert set(info.index.sources) == set(ORDER)
    assert info.index.texts == len((DEMO / "passages.jsonl").read_text().splitlines())


def allowed(call: object) -> bool:
    try:
        call()  # type: ignore[operator]
    except saeserve.InvalidArgument:
        return False
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            raise
        return False
    return True


def test_every_limit_is_enforced_just_where_it_says(demo: saeserve.Client, stub: FeatureServiceStub) -> None:
    limits = demo.server_info().limits
    ids = [5] * (limits.max_tokens + 1)
    features = [types.FeatureId(source="0-demo", index=n) for n in range(limits.max_features + 1)]

    def search(**changes: object) -> object:
        request = service.SearchRequest(**({"input": text_input(RED)} | changes))  # type: ignore[arg-type]
        return stub.Search(request, timeout=TIMEOUT)

    def named(count: int) -> object:
        return stub.Encode(service.EncodeRequest(inputs=[text_input(RED)], features=features[:count]), timeout=TIMEOUT)

    def sort(count: int) -> object:
        tokens = [service.SortToken(position=n % 7) for n in range(count)]
        return search(sort_tokens=tokens)

    at_most = {
        "max_text_bytes": lambda count: demo.tokenize("x" * count),
        "max_tokens": lambda count: search(input=ids_input(ids[:count])),
        "max_inputs": lambda count: demo.encode(["a"] * count, features="0:1"),
        "max_limit": lambda count: demo.search(RED, limit=count),
        "max_features": named,
        "max_sort_tokens": sort,
        "max_page_size": lambda count: demo.top_activations("0-demo:248", page_size=count),
    }
    for name, call in at_most.items():
        limit = getattr(limits, name)
        assert allowed(lambda call=call, limit=limit: call(limit)), name
        assert not allowed(lambda call=call, limit=limit: call(limit + 1)), name
    assert len(demo.search("the sea the sky the red", kinds="all", sort=0).results) == limits.default_limit
    assert limits.batch_tokens > 0


def test_lookups_cost_no_batch(demo: saeserve.Client) -> None:
    for answer in (
        demo.top_activations("0-demo:248"),
        demo.get_feature("0-demo:248"),
        demo.list_sources(),
        demo.tokenize(RED),
        demo.server_info(),
    ):
        info = answer.call_info
        assert (info.batch_size, info.queue_micros, info.forward_micros, info.encode_micros) == (0, 0, 0, 0)
        assert info.server_version
        assert info.model_revision
        assert info.index_revision
