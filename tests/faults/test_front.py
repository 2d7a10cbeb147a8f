"""What the front end refuses before it works on it, and that large requests are done in small pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from tests.faults.harness import Faulty
from tests.faults.test_attacks import bounded, limits
from tests.service.wire import TIMEOUT, config, connect, ids_input, refused, send_bytes, stub_of, text_input

pytestmark = pytest.mark.slow

RED = text_input("My favorite color is red.")
LONG = text_input("red fox " * 400)
FEATURE = types.FeatureId(source="0-demo", index=7)


@pytest.fixture
def channel(attacked: Faulty) -> Iterator[grpc.Channel]:
    with connect(attacked.target) as channel:
        yield channel


def features(count: int) -> list[types.FeatureId]:
    """So many, of several sources."""
    return [types.FeatureId(source=f"{place % 4}-demo", index=place // 4) for place in range(count)]


def test_large_requests_that_are_right_are_done_in_small_pieces(attacked: Faulty, channel: grpc.Channel) -> None:
    """Encode of 64 texts and a thousand features, which differ and are in no cache; 256 sort tokens in a long text."""
    stub, most = stub_of(channel), limits(attacked)
    with bounded(attacked):
        for number in range(3):
            inputs = [text_input(f"{number} {place} red") for place in range(most.max_inputs)]
            asked = service.EncodeRequest(inputs=inputs, features=features(most.max_features), omit_tokens=True)
            answer = stub.Encode(asked, timeout=TIMEOUT)
            assert answer.dense.columns == most.max_features
            assert len(answer.texts) == most.max_inputs
            sort = [service.SortToken(text=" fox" if place % 2 else " red") for place in range(most.max_sort_tokens)]
            found = stub.Search(
                service.SearchRequest(input=LONG, sort_tokens=sort, truncate=True, limit=50 + number), timeout=TIMEOUT
            )
            assert len(found.sort_positions) > 100
            assert found.results


def test_an_answer_that_cannot_fit_is_refused_before_it_is_computed(attacked: Faulty, channel: grpc.Channel) -> None:
    stub, most = stub_of(channel), limits(attacked)
    kinds = [types.FEATURE_KIND_LATENT, types.FEATURE_KIND_NEURON]
    asked = service.SearchRequest(input=LONG, by_token=True, limit=most.max_limit, truncate=True)
    asked.filter.include.kinds.extend(kinds)
    chosen = service.EncodeRequest(
        inputs=[LONG] * most.max_inputs, features=features(most.max_features), truncate=True, omit_tokens=True
    )
    passes, misses = attacked.value("forward_passes_total"), attacked.value("queue_duration_seconds_count")
    for call in (lambda: stub.Search(asked, timeout=TIMEOUT), lambda: stub.Encode(chosen, timeout=TIMEOUT)):
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (StatusCode.INVALID_ARGUMENT, "ANSWER_TOO_LARGE")
        assert str(most.max_answer_bytes) in refusal.message
    assert attacked.value("forward_passes_total") == passes
    assert attacked.value("queue_duration_seconds_count") == misses


def selecting(part: str, **selector: Any) -> service.SearchRequest:
    """A search that includes or excludes that."""
    return service.SearchRequest(input=RED, filter=service.Filter(**{part: service.FeatureSelector(**selector)}))


PROJECTION = service.Projection(hook_name="blocks.0.hook_mlp_out", vector=[1.0] * 128)
LONG_PROJECTION = service.Projection(hook_name="blocks.0.hook_mlp_out", vector=[1.0] * 129)
REPEATED: dict[str, tuple[str, str, str, Any]] = {
    # method, field, limit, and a request with so many entries
    f"{part}.{name}": ("Search", f"filter.{part}.{name}", limit, (part, name, entry))
    for part in ("include", "exclude")
    for name, limit, entry in (
        ("kinds", "max_names", types.FEATURE_KIND_LATENT),
        ("sets", "max_names", "a"),
        ("sources", "max_names", "0-demo"),
        ("layers", "max_names", service.LayerRange(first=0, last=1)),
        ("features", "max_features", FEATURE),
    )
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_selector_with_too_many_entries_is_refused(name: str, attacked: Faulty, channel: grpc.Channel) -> None:
    method, field, limit, (part, repeated, entry) = REPEATED[name]
    most = getattr(limits(attacked), limit)
    hold_field(channel, method, selecting(part, **{repeated: [entry] * (most + 1)}), field, most)


def test_every_other_repeated_field_has_its_limit(attacked: Faulty, channel: grpc.Channel) -> None:
    most = limits(attacked)
    sort = service.SortToken(position=0)
    many: list[tuple[str, Any, str, int]] = [
        ("Search", {"sort_tokens": [sort] * (most.max_sort_tokens + 1)}, "sort_tokens", most.max_sort_tokens),
        ("Encode", {"inputs": [RED] * (most.max_inputs + 1), "sources": ["0-demo"]}, "inputs", most.max_inputs),
        ("Encode", {"inputs": [RED], "sources": ["0-demo"] * (most.max_names + 1)}, "sources", most.max_names),
        ("Encode", {"inputs": [RED], "features": [FEATURE] * (most.max_features + 1)}, "features", most.max_features),
    ]
    many += [
        ("Encode", {"inputs": [RED], "projections": [PROJECTION] * (most.max_projections + 1)}, "projections",
         most.max_projections),
        ("Encode", {"inputs": [RED], "projections": [LONG_PROJECTION]}, "projections[0].vector", 128),
        ("SimilarFeatures", {"by": service.SIMILARITY_DECODER, "vector": [1.0] * 129}, "vector", 128),
    ]  # fmt: skip
    for method, fields, field, limit in many:
        kind = getattr(service, f"{method}Request")
        given = {"input": RED} | fields if method == "Search" else fields
        hold_field(channel, method, kind(**given), field, limit)
    ids = ids_input([1] * (most.max_text_bytes + 1))
    for method in ("Search", "Tokenize"):
        kind = getattr(service, f"{method}Request")
        hold_field(channel, method, kind(input=ids), "input.token_ids.ids", most.max_text_bytes)
    for fields, field, limit in (
        ({"sources": ["0-demo"] * (most.max_names + 1)}, "sources", most.max_names),
        ({"features": [FEATURE] * (most.max_features + 1)}, "features", most.max_features),
        ({"projections": [PROJECTION] * (most.max_projections + 1)}, "projections", most.max_projections),
    ):
        stream = stub_of(channel).EncodeStream(iter([config(**fields)]), timeout=TIMEOUT)
        hold_refusal(refused(lambda stream=stream: next(stream)), field, limit)


def test_no_repeated_field_of_a_request_is_without_a_limit() -> None:
    """A new one is to be added above."""
    known = {"kinds", "sets", "sources", "layers", "features", "sort_tokens", "inputs", "ids", "projections", "vector"}
    assert repeated_in(service.DESCRIPTOR.services_by_name["FeatureService"]) == known


def repeated_in(described: Any) -> set[str]:
    """Names of the repeated fields of all requests, and of the messages in them."""
    found, waiting, seen = set(), [method.input_type for method in described.methods], set()
    while waiting:
        kind = waiting.pop()
        for field in kind.fields:
            if field.is_repeated:
                found.add(field.name)
            if field.message_type is not None and field.message_type not in seen:
                seen.add(field.message_type)
                waiting.append(field.message_type)
    return found


def test_each_method_has_its_limit_of_bytes(attacked: Faulty, channel: grpc.Channel) -> None:
    published = {one.method: one.max_request_bytes for one in limits(attacked).methods}
    assert set(published) == {method.name for method in service.DESCRIPTOR.services_by_name["FeatureService"].methods}
    for method, most in published.items():
        if method == "EncodeStream":
            call = channel.stream_stream(f"/saeserve.v1.FeatureService/{method}")
            refusal = refused(lambda call=call, most=most: next(call(iter([padding(most + 1)]), timeout=TIMEOUT)))
        else:
            refusal = refused(lambda method=method, most=most: send_bytes(channel, method, padding(most + 1)))
        assert refusal.reason == "REQUEST_TOO_LARGE", method
        assert str(most) in refusal.message
        if method != "EncodeStream":
            hold_taken(channel, method, padding(most))


def padding(size: int) -> bytes:
    """A message of that many bytes: one field that nobody knows."""
    head = b"\xfa\x7f"
    inner = size - len(head) - 4
    return (
        head + bytes([inner & 127 | 128, inner >> 7 & 127 | 128, inner >> 14 & 127 | 128, inner >> 21]) + bytes(inner)
    )


def hold_taken(channel: grpc.Channel, method: str, data: bytes) -> None:
    """Holds that a message is not refused for its size."""
    said = ""
    try:
        send_bytes(channel, method, data)
    except grpc.RpcError as error:
        said = str(error.details())  # type: ignore[attr-defined]
    assert "at most" not in said, method


def hold_field(channel: grpc.Channel, method: str, request: Any, field: str, most: int) -> None:
    """Holds that a request is refused for one field."""
    hold_refusal(refused(lambda: getattr(stub_of(channel), method)(request, timeout=TIMEOUT)), field, most)


def hold_refusal(refusal: Any, field: str, most: int) -> None:
    """Holds that a refusal names the field, and what it may hold."""
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    ((named, description),) = refusal.fields.items()
    assert named == field
    assert str(most) in description
    assert str(most + 1) in description
