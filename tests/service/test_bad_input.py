"""Bad input gets a clear error with the right status, whatever it is, and the server goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.service.wire import (
    SERVICE,
    TIMEOUT,
    Refusal,
    config,
    ids_input,
    item,
    read_refusal,
    read_status,
    refused,
    send_bytes,
    text_input,
)

RED = text_input("My favorite color is red.")
MOST = 2**32 - 1
INVALID, MISSING = StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND
LATENT = types.FeatureId(source="0-demo", index=248)


@dataclass(frozen=True)
class Bad:
    """A request, and what it is refused with."""

    name: str
    method: str
    request: Any
    code: StatusCode
    reason: str
    field: str = ""
    """Path of the field in BadRequest; empty where none applies."""
    says: tuple[str, ...] = ()
    """What the message holds."""


def search(**changes: Any) -> service.SearchRequest:
    return service.SearchRequest(**({"input": RED} | changes))


def including(**selector: Any) -> service.SearchRequest:
    return search(filter=service.Filter(include=service.FeatureSelector(**selector)))


def excluding(**selector: Any) -> service.SearchRequest:
    return search(filter=service.Filter(exclude=service.FeatureSelector(**selector)))


def density(**bounds: float) -> service.SearchRequest:
    return search(filter=service.Filter(**bounds))


def sorting(*tokens: dict[str, Any]) -> service.SearchRequest:
    return search(sort_tokens=[service.SortToken(**token) for token in tokens])


def encode(**changes: Any) -> service.EncodeRequest:
    return service.EncodeRequest(**({"inputs": [RED], "sources": ["0-demo"]} | changes))


def chosen(*features: tuple[str, int], texts: Sequence[types.Input] = (RED,), **changes: Any) -> service.EncodeRequest:
    return service.EncodeRequest(inputs=texts, features=feature_ids(*features), **changes)


def feature_ids(*features: tuple[str, int]) -> list[types.FeatureId]:
    return [types.FeatureId(source=source, index=index) for source, index in features]


def top(**changes: Any) -> service.TopActivationsRequest:
    return service.TopActivationsRequest(**({"feature": LATENT} | changes))


def inputs(name: str, given: types.Input, reason: str, field: str, *says: str) -> list[Bad]:
    """The same bad input in every method that takes one."""
    return [
        Bad(f"{name}, search", "Search", search(input=given), INVALID, reason, f"input{field}", says),
        Bad(f"{name}, encode", "Encode", encode(inputs=[RED, given]), INVALID, reason, f"inputs[1]{field}", says),
        Bad(
            f"{name}, tokenize",
            "Tokenize",
            service.TokenizeRequest(input=given),
            INVALID,
            reason,
            f"input{field}",
            says,
        ),
    ]


def features(name: str, feature: types.FeatureId, reason: str, *says: str) -> list[Bad]:
    """A feature that does not exist, wherever one can be named."""
    include = service.SearchRequest(input=RED)
    include.filter.include.features.append(feature)
    exclude = service.SearchRequest(input=RED)
    exclude.filter.exclude.features.append(feature)
    return [
        Bad(f"{name}, included", "Search", include, MISSING, reason, says=says),
        Bad(f"{name}, excluded", "Search", exclude, MISSING, reason, says=says),
        Bad(
            f"{name}, encode",
            "Encode",
            service.EncodeRequest(inputs=[RED], features=[feature]),
            MISSING,
            reason,
            "",
            says,
        ),
        Bad(f"{name}, top", "TopActivations", top(feature=feature), MISSING, reason, says=says),
        Bad(f"{name}, get", "GetFeature", service.GetFeatureRequest(feature=feature), MISSING, reason, says=says),
    ]


LONG = "red " * 300
BAD = [
    # Texts
    *inputs("empty text", text_input(""), "TEXT_EMPTY", ".text", "empty"),
    *inputs("text of 1 MB", text_input("red " * 2**18), "TEXT_TOO_LARGE", ".text", "1048576", "65536"),
    *inputs("one byte too many", text_input("x" * 65537), "TEXT_TOO_LARGE", ".text", "65537", "65536"),
    *inputs("no input", types.Input(), "INVALID_REQUEST", "", "text or token_ids"),
    *inputs("id out of vocabulary", ids_input([1, 8192]), "INVALID_REQUEST", ".token_ids.ids[1]", "8192", "8191"),
    *inputs("largest id", ids_input([MOST]), "INVALID_REQUEST", ".token_ids.ids[0]", "8191"),
    *inputs("very many ids", ids_input([1] * 65537), "TEXT_TOO_LARGE", ".token_ids.ids", "65537"),
    Bad("no input at all", "Search", service.SearchRequest(), INVALID, "INVALID_REQUEST", "input"),
    Bad("no ids", "Search", search(input=ids_input([])), INVALID, "TEXT_EMPTY", "input", ("at least one",)),
    Bad("BOS alone", "Search", search(input=ids_input([0])), INVALID, "TEXT_EMPTY", "input", ("beside the BOS",)),
    Bad(
        "a text of BOS alone",
        "Encode",
        encode(inputs=[text_input("<|endoftext|>")]),
        INVALID,
        "TEXT_EMPTY",
        "inputs[0]",
    ),
    Bad(
        "too many tokens",
        "Search",
        search(input=text_input(LONG)),
        INVALID,
        "TOO_MANY_TOKENS",
        "input",
        ("255", "truncate"),
    ),
    Bad(
        "too many ids",
        "Encode",
        encode(inputs=[ids_input([5] * 256)]),
        INVALID,
        "TOO_MANY_TOKENS",
        "inputs[0]",
        ("256", "255"),
    ),
    # Names
    Bad("model", "Search", search(model="gpt2"), MISSING, "MODEL_NOT_FOUND", says=("gpt2", "demo")),
    Bad("model, encode", "Encode", encode(model="gpt2"), MISSING, "MODEL_NOT_FOUND"),
    Bad("model, top", "TopActivations", top(model="gpt2"), MISSING, "MODEL_NOT_FOUND"),
    Bad("model, list", "ListSources", service.ListSourcesRequest(model="x" * 10**5), MISSING, "MODEL_NOT_FOUND"),
    Bad("model, get", "GetFeature", service.GetFeatureRequest(model="é", feature=LATENT), MISSING, "MODEL_NOT_FOUND"),
    Bad("model, tokenize", "Tokenize", service.TokenizeRequest(model="gpt2", input=RED), MISSING, "MODEL_NOT_FOUND"),
    Bad("source", "Search", including(sources=["0-demos"]), MISSING, "SOURCE_NOT_FOUND", says=("0-demos", "0-demo")),
    Bad(
        "source, excluded", "Search", excluding(sources=["9-demo"]), MISSING, "SOURCE_NOT_FOUND", says=("did you mean",)
    ),
    Bad(
        "source, encode",
        "Encode",
        encode(sources=["0-demo", "zzz"]),
        MISSING,
        "SOURCE_NOT_FOUND",
        says=("zzz", "0-demo"),
    ),
    Bad("source of 100 KB", "Search", including(sources=["x" * 100_000]), MISSING, "SOURCE_NOT_FOUND"),
    Bad(
        "source of 100 KB, not ASCII",
        "Encode",
        encode(sources=["\N{PILE OF POO}" * 25_000]),
        MISSING,
        "SOURCE_NOT_FOUND",
    ),
    Bad(
        "source of 100 KB of control characters",
        "Encode",
        encode(sources=["\x07" * 100_000]),
        MISSING,
        "SOURCE_NOT_FOUND",
    ),
    Bad(
        "source, not ASCII",
        "Search",
        including(sources=["0-dém\N{ROBOT FACE}"]),
        MISSING,
        "SOURCE_NOT_FOUND",
        says=("0-dém",),
    ),
    Bad("empty source", "Search", including(sources=[""]), MISSING, "SOURCE_NOT_FOUND"),
    Bad("set", "Search", including(sets=["demon"]), MISSING, "SET_NOT_FOUND", says=("demon", "did you mean demo")),
    Bad("set, excluded", "Search", excluding(sets=["mlp-oai"]), MISSING, "SET_NOT_FOUND"),
    Bad("set of 100 KB", "Search", excluding(sets=["é" * 50_000]), MISSING, "SET_NOT_FOUND"),
    Bad(
        "layer",
        "Search",
        including(layers=[service.LayerRange(first=2, last=4)]),
        MISSING,
        "LAYER_NOT_FOUND",
        says=("4", "0 to 3"),
    ),
    Bad(
        "layer, excluded",
        "Search",
        excluding(layers=[service.LayerRange(first=0, last=MOST)]),
        MISSING,
        "LAYER_NOT_FOUND",
    ),
    *features("index", types.FeatureId(source="0-demo", index=2048), "FEATURE_NOT_FOUND", "0-DEMO:2048", "0 to 2047"),
    *features(
        "largest index", types.FeatureId(source="3", index=MOST), "FEATURE_NOT_FOUND", "3:4294967295", "0 to 511"
    ),
    *features("feature's source", types.FeatureId(source="4-demo", index=0), "SOURCE_NOT_FOUND", "4-demo", "3-demo"),
    *features("feature's huge source", types.FeatureId(source="ü" * 50_000, index=0), "SOURCE_NOT_FOUND"),
    Bad(
        "feature without a source",
        "GetFeature",
        service.GetFeatureRequest(),
        INVALID,
        "INVALID_REQUEST",
        "feature.source",
    ),
    Bad(
        "feature without a source, top",
        "TopActivations",
        service.TopActivationsRequest(),
        INVALID,
        "INVALID_REQUEST",
        "feature.source",
    ),
    Bad(
        "feature without a source, encode",
        "Encode",
        chosen(("0-demo", 1), ("", 1)),
        INVALID,
        "INVALID_REQUEST",
        "features[1].source",
    ),
    Bad(
        "feature without a source, excluded",
        "Search",
        excluding(features=[types.FeatureId(index=1)]),
        INVALID,
        "INVALID_REQUEST",
        "filter.exclude.features[0].source",
    ),
    # Numbers
    *(
        Bad(
            f"limit {limit}",
            "Search",
            search(limit=limit),
            INVALID,
            "INVALID_REQUEST",
            "limit",
            (str(limit), "1 to 1000"),
        )
        for limit in (0, -1, 1001, 2**31 - 1, -(2**31))
    ),
    *(
        Bad(
            f"page size {size}",
            "TopActivations",
            top(page_size=size),
            INVALID,
            "INVALID_REQUEST",
            "page_size",
            ("1 to 100",),
        )
        for size in (0, -1, 101, 2**31 - 1, -(2**31))
    ),
    *(
        Bad(
            f"{name} {value}",
            "Search",
            density(**{name: value}),
            INVALID,
            "INVALID_REQUEST",
            f"filter.{name}",
            ("0 to 1",),
        )
        for name in ("min_density", "max_density")
        for value in (math.nan, math.inf, -math.inf, -0.1, 1.1, 1e308)
    ),
    Bad(
        "densities crossed",
        "Search",
        density(min_density=0.5, max_density=0.1),
        INVALID,
        "INVALID_REQUEST",
        "filter.min_density",
        ("0.5", "0.1"),
    ),
    Bad(
        "layers reversed",
        "Search",
        including(layers=[service.LayerRange(first=3, last=1)]),
        INVALID,
        "INVALID_REQUEST",
        "filter.include.layers",
    ),
    Bad(
        "layers reversed, excluded",
        "Search",
        excluding(layers=[service.LayerRange(first=1)]),
        INVALID,
        "INVALID_REQUEST",
        "filter.exclude.layers",
    ),
    Bad("min_fires with raw", "Search", search(min_fires=3), INVALID, "INVALID_REQUEST", "min_fires"),
    # Enums
    Bad("kind unset", "Search", including(kinds=[0]), INVALID, "INVALID_REQUEST", "filter.include.kinds[0]"),
    Bad(
        "kind unknown",
        "Search",
        excluding(kinds=[1, 77]),
        INVALID,
        "INVALID_REQUEST",
        "filter.exclude.kinds[1]",
        ("77",),
    ),
    Bad("kind negative", "Search", including(kinds=[-1]), INVALID, "INVALID_REQUEST", "filter.include.kinds[0]"),
    Bad("ranking unknown", "Search", search(ranking=9), INVALID, "INVALID_REQUEST", "ranking", ("9",)),
    Bad("ranking negative", "Search", search(ranking=-5), INVALID, "INVALID_REQUEST", "ranking"),
    # Sort tokens
    Bad(
        "position past the end",
        "Search",
        sorting({"position": 7}),
        INVALID,
        "INVALID_REQUEST",
        "sort_tokens[0].position",
        ("0 to 6",),
    ),
    Bad(
        "largest position",
        "Search",
        sorting({"text": "red"}, {"position": MOST}),
        INVALID,
        "INVALID_REQUEST",
        "sort_tokens[1].position",
    ),
    Bad(
        "no match",
        "Search",
        sorting({"text": "blue"}),
        INVALID,
        "SORT_TOKEN_NOT_FOUND",
        "sort_tokens[0].text",
        ("'blue'", "' red'", "' color'", "'My'"),
    ),
    Bad(
        "no match for nothing", "Search", sorting({"text": ""}), INVALID, "SORT_TOKEN_NOT_FOUND", "sort_tokens[0].text"
    ),
    Bad(
        "no match, huge",
        "Search",
        sorting({"text": "ж" * 50_000}),
        INVALID,
        "TEXT_TOO_LARGE",
        "sort_tokens[0].text",
    ),
    Bad(
        "sort token unset",
        "Search",
        sorting({"position": 0}, {}),
        INVALID,
        "INVALID_REQUEST",
        "sort_tokens[1]",
        ("position, text or bos",),
    ),
    Bad(
        "too many sort tokens",
        "Search",
        sorting(*[{"position": 0}] * 257),
        INVALID,
        "INVALID_REQUEST",
        "sort_tokens",
        ("257", "256"),
    ),
    # Too many, twice, both, neither
    Bad(
        "too many features",
        "Encode",
        chosen(*[("0-demo", n) for n in range(1001)]),
        INVALID,
        "INVALID_REQUEST",
        "features",
        ("1001", "1000"),
    ),
    Bad(
        "too many included",
        "Search",
        including(features=feature_ids(*[("0-demo", n) for n in range(1001)])),
        INVALID,
        "INVALID_REQUEST",
        "filter.include.features",
    ),
    Bad("too many sets", "Search", including(sets=["demo"] * 1001), INVALID, "INVALID_REQUEST", "filter.include.sets"),
    Bad(
        "too many layers",
        "Search",
        including(layers=[service.LayerRange()] * 1001),
        INVALID,
        "INVALID_REQUEST",
        "filter.include.layers",
    ),
    Bad("too many sources", "Encode", encode(sources=["0-demo"] * 1001), INVALID, "INVALID_REQUEST", "sources"),
    Bad(
        "source twice",
        "Encode",
        encode(sources=["0-demo", "1-demo", "0-DEMO"]),
        INVALID,
        "DUPLICATE",
        "sources",
        ("0-DEMO", "twice"),
    ),
    Bad(
        "source twice by alias",
        "Search",
        including(sources=["0", "0-neurons"]),
        INVALID,
        "DUPLICATE",
        "filter.include.sources",
    ),
    Bad(
        "source excluded twice", "Search", excluding(sources=["0", "0"]), INVALID, "DUPLICATE", "filter.exclude.sources"
    ),
    Bad("feature twice", "Encode", chosen(("0-demo", 5), ("0-DEMO", 5)), INVALID, "DUPLICATE", "features", ("twice",)),
    Bad(
        "feature twice by alias",
        "Search",
        including(features=feature_ids(("2", 5), ("2-neurons", 5))),
        INVALID,
        "DUPLICATE",
        "filter.include.features",
    ),
    Bad(
        "sources and features",
        "Encode",
        chosen(("0-demo", 5), sources=["0-demo"]),
        INVALID,
        "INVALID_REQUEST",
        "sources",
        ("not both",),
    ),
    Bad("neither", "Encode", service.EncodeRequest(inputs=[RED]), INVALID, "INVALID_REQUEST", "sources"),
    Bad("no texts", "Encode", encode(inputs=[]), INVALID, "INVALID_REQUEST", "inputs", ("0 texts", "1 to 64")),
    Bad(
        "too many texts",
        "Encode",
        encode(inputs=[RED] * 65),
        INVALID,
        "INVALID_REQUEST",
        "inputs",
        ("65 texts", "1 to 64"),
    ),
    Bad(
        "whole neurons",
        "Encode",
        encode(sources=["0-demo", "1"]),
        INVALID,
        "DENSE_SOURCE",
        "sources[1]",
        ("EncodeStream",),
    ),
    Bad(
        "too large an answer",
        "Encode",
        chosen(*[("0-demo", n) for n in range(1000)], texts=[text_input("red " * 250)] * 64),
        INVALID,
        "ANSWER_TOO_LARGE",
        says=("EncodeStream", "4128768"),
    ),
    # Page tokens
    Bad(
        "page token of nobody", "TopActivations", top(page_token="garbage"), INVALID, "INVALID_PAGE_TOKEN", "page_token"
    ),
    Bad("huge page token", "TopActivations", top(page_token="é" * 10**5), INVALID, "INVALID_PAGE_TOKEN", "page_token"),
]


@pytest.mark.parametrize("bad", [pytest.param(bad, id=bad.name.replace(" ", "-")) for bad in BAD])
def test_a_bad_request_is_refused_with_its_reason_and_field(
    stub: FeatureServiceStub, demo: saeserve.Client, bad: Bad
) -> None:
    refusal = refused(lambda: getattr(stub, bad.method)(bad.request, timeout=TIMEOUT))
    assert (refusal.code, refusal.reason) == (bad.code, bad.reason), refusal
    assert list(refusal.fields) == ([bad.field] if bad.field else [])
    for part in bad.says:
        assert part in refusal.message
    assert refusal.retry_after is None  # no retry can mend it
    assert refusal.metadata_bytes < 6000
    assert demo.tokenize("red").ids


def test_the_server_answers_after_all_of_that(demo: saeserve.Client) -> None:
    assert len(demo.search("My favorite color is red.").results) == 25


@pytest.mark.parametrize("text", [" ", "\n", "\t \n ", "\u2003", "\0", "\ufeff", "e\u0301", "\U0010ffff", "\x7f\x80"])
def test_white_space_and_odd_characters_are_texts_like_others(demo: saeserve.Client, text: str) -> None:
    result = demo.search(text)
    assert b"".join(token.piece for token in result.tokens) == text.encode()


def test_the_largest_text_that_may_be_sent_is_taken(demo: saeserve.Client) -> None:
    assert demo.search("x" * 65536, truncate=True).truncated
    with pytest.raises(saeserve.InvalidArgument) as caught:
        demo.search("x" * 65536)
    assert caught.value.reason == "TOO_MANY_TOKENS"


def test_a_message_over_the_message_limit_is_refused_as_one_that_can_never_fit(
    stub: FeatureServiceStub, demo: saeserve.Client
) -> None:
    """RESOURCE_EXHAUSTED would be sent again by every client with a retry policy."""
    request = service.SearchRequest(input=text_input("x" * (5 * 2**20)))
    refusal = refused(lambda: stub.Search(request, timeout=TIMEOUT))
    assert (refusal.code, refusal.reason) == (INVALID, "REQUEST_TOO_LARGE")
    assert demo.tokenize("red").ids


# Malformed bytes

UNARY = ["Search", "Encode", "TopActivations", "ListSources", "GetFeature", "Tokenize", "GetServerInfo"]
MALFORMED = {
    "not protobuf": b"\xff\xff\xff\xff",
    "cut": search(model="demo").SerializeToString()[:-1],
    "not UTF-8": b"\x0a\x02\xc3\x28",
    "huge length": b"\x0a\xff\xff\xff\xff\x0f",
    "group never closed": b"\x0b",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("method", UNARY)
def test_bytes_that_are_no_message_are_malformed(
    channel: grpc.Channel, demo: saeserve.Client, method: str, data: bytes
) -> None:
    if method == "GetServerInfo" and data in (MALFORMED["not UTF-8"], MALFORMED["cut"]):
        data = b"\xff"  # it has no fields: what others cannot read are unknown fields to it
    refusal = refused(lambda: send_bytes(channel, method, data))
    assert (refusal.code, refusal.reason) == (INVALID, "MALFORMED_REQUEST")
    assert demo.tokenize("red").ids


def test_unknown_fields_are_no_error(channel: grpc.Channel) -> None:
    data = search().SerializeToString() + b"\xfa\x7f\x03new"  # field 2047, of a later client
    assert len(service.SearchResponse.FromString(send_bytes(channel, "Search", data)).results) == 25


def stream_bytes(channel: grpc.Channel, *messages: bytes) -> Any:
    call = channel.stream_stream(
        f"/{SERVICE}/EncodeStream", response_deserializer=service.EncodeStreamResponse.FromString
    )
    return call(iter(messages), timeout=TIMEOUT)


def test_a_malformed_first_message_ends_a_stream(channel: grpc.Channel) -> None:
    refusal = refused(lambda: list(stream_bytes(channel, b"\xff\xff")))
    assert (refusal.code, refusal.reason) == (INVALID, "MALFORMED_REQUEST")


def test_a_malformed_later_message_ends_a_stream_after_what_came_before(channel: grpc.Channel) -> None:
    first = [config(sources=["0-demo"]).SerializeToString(), item(0, "red").SerializeToString()]
    call = stream_bytes(channel, *first, b"\xff\xff", item(1, "blue").SerializeToString())
    answered: list[int] = []
    with pytest.raises(grpc.RpcError) as caught:
        answered.extend(answer.sequence for answer in call)
    refusal = read_refusal(caught.value)
    assert (refusal.code, refusal.reason) == (INVALID, "MALFORMED_REQUEST")
    assert answered == [0]


def test_malformed_health_checks_and_reflection_are_refused_too(channel: grpc.Channel) -> None:
    refusal = refused(lambda: send_bytes(channel, "/grpc.health.v1.Health/Check", b"\xff\xff"))
    assert (refusal.code, refusal.reason) == (INVALID, "MALFORMED_REQUEST")
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
    assert refused(lambda: list(watch(b"\xff\xff", timeout=TIMEOUT))).reason == "MALFORMED_REQUEST"
    reflection = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    assert refused(lambda: list(reflection(iter([b"\xff\xff"]), timeout=TIMEOUT))).reason == "MALFORMED_REQUEST"


def test_the_health_of_an_unknown_service_is_not_found(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=TIMEOUT)
    assert caught.value.code() is MISSING


@pytest.mark.parametrize("method", [f"/{SERVICE}/Divine", "/saeserve.v2.FeatureService/Search", "/nonsense"])
def test_an_unknown_method_is_unimplemented(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send_bytes(channel, method, b"\xff")
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


# Bad streams and bad items


@pytest.mark.parametrize(
    ("first", "code", "reason", "field"),
    [
        (config(), INVALID, "INVALID_REQUEST", "sources"),
        (config(sources=["0-demo"], features=[LATENT]), INVALID, "INVALID_REQUEST", "sources"),
        (config(sources=["0-demo", "0-DEMO"]), INVALID, "DUPLICATE", "sources"),
        (config(features=[LATENT, LATENT]), INVALID, "DUPLICATE", "features"),
        (config(features=feature_ids(("0", MOST))), MISSING, "FEATURE_NOT_FOUND", ""),
        (config(sources=["nobody"]), MISSING, "SOURCE_NOT_FOUND", ""),
        (config(sources=["0-demo"], model="gpt2"), MISSING, "MODEL_NOT_FOUND", ""),
        (item(0, "red"), INVALID, "INVALID_REQUEST", "message"),
        (service.EncodeStreamRequest(), INVALID, "INVALID_REQUEST", "message"),
    ],
)
def test_a_bad_configuration_ends_a_stream(
    stub: FeatureServiceStub, first: service.EncodeStreamRequest, code: StatusCode, reason: str, field: str
) -> None:
    refusal = refused(lambda: list(stub.EncodeStream(iter([first, item(0, "red")]), timeout=TIMEOUT)))
    assert (refusal.code, refusal.reason) == (code, reason)
    assert list(refusal.fields) == ([field] if field else [])


def test_a_stream_without_any_message_is_refused(stub: FeatureServiceStub) -> None:
    assert refused(lambda: list(stub.EncodeStream(iter([]), timeout=TIMEOUT))).fields == {
        "message": "config is expected as the first message"
    }


@pytest.mark.parametrize("second", [config(sources=["0-demo"]), service.EncodeStreamRequest()], ids=["config", "unset"])
def test_what_is_no_item_after_the_configuration_ends_a_stream(
    stub: FeatureServiceStub, second: service.EncodeStreamRequest
) -> None:
    refusal = refused(lambda: list(stub.EncodeStream(iter([config(sources=["0-demo"]), second]), timeout=TIMEOUT)))
    assert list(refusal.fields) == ["message"]


def test_a_bad_item_fails_alone_with_what_encode_would_have_said(stub: FeatureServiceStub) -> None:
    items = [
        item(0, "red"),
        item(1, ""),
        item(2, "red " * 2**18),
        item(3, LONG),
        service.EncodeStreamRequest(item=service.EncodeStreamItem(sequence=4, input=ids_input([9999]))),
        service.EncodeStreamRequest(item=service.EncodeStreamItem(sequence=5)),
        item(6, "blue"),
    ]
    answers = list(stub.EncodeStream(iter([config(sources=["0-demo"]), *items]), timeout=TIMEOUT))
    assert sorted(answer.sequence for answer in answers) == list(range(7))
    failed = {answer.sequence: read_status(answer.error) for answer in answers if answer.HasField("error")}
    assert {sequence: (one.code, one.reason, list(one.fields)) for sequence, one in failed.items()} == {
        1: (INVALID, "TEXT_EMPTY", ["item.input.text"]),
        2: (INVALID, "TEXT_TOO_LARGE", ["item.input.text"]),
        3: (INVALID, "TOO_MANY_TOKENS", ["item.input"]),
        4: (INVALID, "INVALID_REQUEST", ["item.input.token_ids.ids[0]"]),
        5: (INVALID, "INVALID_REQUEST", ["item.input"]),
    }
    for answer in answers:
        assert answer.HasField("error") or answer.chunk.last


# Request ids


def asked_with_id(stub: FeatureServiceStub, request_id: str) -> Refusal:
    metadata = [("x-request-id", request_id)]
    return refused(lambda: stub.Search(service.SearchRequest(), timeout=TIMEOUT, metadata=metadata))


@pytest.mark.parametrize("request_id", ["abc", "a" * 128, "with space and ~!@"])
def test_a_request_id_comes_back_in_the_error(stub: FeatureServiceStub, request_id: str) -> None:
    assert asked_with_id(stub, request_id).request_id == request_id


@pytest.mark.parametrize("request_id", ["", "a" * 129, "a" * 5000])
def test_a_request_id_that_is_unfit_is_replaced(stub: FeatureServiceStub, request_id: str) -> None:
    assert 0 < len(asked_with_id(stub, request_id).request_id) <= 128
    assert asked_with_id(stub, request_id).request_id != request_id


def test_huge_metadata_is_refused_without_harm(stub: FeatureServiceStub, demo: saeserve.Client) -> None:
    """gRPC itself refuses it, before any handler: all that can be said is that no fault shows and nothing ends."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetServerInfo(service.GetServerInfoRequest(), timeout=TIMEOUT, metadata=[("x-request-id", "a" * 100_000)])
    assert caught.value.code() not in (StatusCode.UNKNOWN, StatusCode.INTERNAL, StatusCode.DEADLINE_EXCEEDED)
    assert demo.server_info().limits


def on(client: saeserve.Client, call: Callable[[saeserve.Client], object]) -> saeserve.SaeserveError:
    with pytest.raises(saeserve.SaeserveError) as caught:
        call(client)
    return caught.value


def test_the_client_gives_every_detail(demo: saeserve.Client) -> None:
    error = on(demo, lambda client: client.search("red", limit=0, request_id="my-id"))
    assert isinstance(error, saeserve.InvalidArgument)
    assert (error.reason, error.request_id, error.violations[0].field) == ("INVALID_REQUEST", "my-id", "limit")
