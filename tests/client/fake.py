"""A service that answers from hand-made messages, fails when it is told to, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import feature_service_pb2_grpc as rpc
from saeserve.v1 import types_pb2 as wire

TEXT = "My favorite color is red."
PIECES = [b"My", b" favorite", b" color", b" is", b" red", b"."]


def tokens(pieces: Iterable[bytes] = PIECES) -> list[wire.Token]:
    made, start = [], 0
    for number, piece in enumerate(pieces):
        display = piece.decode(errors="backslashreplace").replace("\n", "\\n")
        made.append(wire.Token(id=100 + number, piece=piece, display=display, start=start, end=start + len(piece)))
        start += len(piece)
    return made


def facts(source: str, index: int, *, density: float | None = 0.01) -> wire.FeatureFacts:
    red = wire.UsualToken(token=wire.Token(id=104, piece=b" red", display=" red"), count=7, max_activation=4.5)
    latent = "-" in source
    return wire.FeatureFacts(
        feature=wire.FeatureId(source=source, index=index),
        name=f"{source.upper()}:{index}",
        layer=int(source.split("-")[0]),
        kind=wire.FEATURE_KIND_LATENT if latent else wire.FEATURE_KIND_NEURON,
        density=density,
        density_origin=wire.DENSITY_ORIGIN_INDEX if density is not None else wire.DENSITY_ORIGIN_UNSPECIFIED,
        index_max_activation=4.5,
        usual_tokens=[red],
    )


def hit(source: str, index: int, activations: list[float], match: wire.Match.ValueType) -> service.FeatureResult:
    largest = max(activations)
    return service.FeatureResult(
        facts=facts(source, index),
        value=largest,
        activations=activations,
        max_activation=largest,
        max_position=activations.index(largest),
        match=match,
    )


STATISTICS = wire.FeatureStatistics(
    tokens=1000,
    fires=10,
    density=0.01,
    mean_activation=1.5,
    max_activation=4.5,
    histogram=[wire.HistogramBin(lower=1, upper=2, count=8), wire.HistogramBin(lower=2, upper=4, count=2)],
    top_tokens=facts("0-demo", 1633).usual_tokens,
)
SOURCES = [
    wire.Source(
        id="0-demo",
        name="0-DEMO",
        set="demo",
        aliases=["demo0"],
        kind=wire.FEATURE_KIND_LATENT,
        hook_name="blocks.0.hook_mlp_out",
        architecture="jumprelu",
        d_in=128,
        n_features=2048,
        dead_features=0,
        density_origin=wire.DENSITY_ORIGIN_INDEX,
        warnings=["trained on little text"],
        bos_id=0,
    ),
    wire.Source(
        id="2", name="2", set="neurons", layer=2, kind=wire.FEATURE_KIND_NEURON, architecture="neurons", n_features=512
    ),
]


def sparse(source: str, rows: np.ndarray) -> service.SparseActivations:
    """A block from a dense array."""
    firing = [np.flatnonzero(row) for row in rows]
    indptr = np.cumsum([0, *(len(row) for row in firing)])
    values = [row[place] for row, place in zip(rows, firing, strict=True)]
    return service.SparseActivations(
        source=source,
        rows=rows.shape[0],
        columns=rows.shape[1],
        indptr=indptr.astype("<i8").tobytes(),
        indices=np.concatenate([*firing, []]).astype("<u4").tobytes(),
        data=np.concatenate([*values, []]).astype("<f4").tobytes(),
    )


def dense(rows: np.ndarray, source: str = "") -> service.DenseActivations:
    return service.DenseActivations(
        source=source, rows=rows.shape[0], columns=rows.shape[1], data=rows.astype("<f4").tobytes()
    )


def status(
    code: grpc.StatusCode,
    message: str = "",
    *,
    reason: str = "",
    metadata: dict[str, str] | None = None,
    violations: Iterable[tuple[str, str]] = (),
    retry_seconds: float | None = None,
    request_id: str = "",
) -> status_pb2.Status:
    """A rich status as the service sends it."""
    details: list[Any] = []
    if reason:
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain="saeserve.dev", metadata=metadata))
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id))
    if violations:
        found = [error_details_pb2.BadRequest.FieldViolation(field=name, description=text) for name, text in violations]
        details.append(error_details_pb2.BadRequest(field_violations=found))
    if retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(retry_seconds * 1000))
        details.append(retry)
    made = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        made.details.append(packed)
    return made


@dataclass
class Failure:
    """How one call fails."""

    status: status_pb2.Status
    trailing: tuple[tuple[str, str | bytes], ...] = ()

    def abort(self, context: grpc.ServicerContext) -> None:
        packed = ("grpc-status-details-bin", self.status.SerializeToString())
        context.set_trailing_metadata((packed, *self.trailing))
        code = next(code for code in grpc.StatusCode if code.value[0] == self.status.code)
        context.abort(code, self.status.message)


@dataclass
class Seen:
    """One call as the service got it."""

    method: str
    request: Any
    metadata: dict[str, str]
    seconds_left: float | None


Stream = Callable[[Iterator[service.EncodeStreamRequest], grpc.ServicerContext], Iterator[service.EncodeStreamResponse]]


@dataclass
class FakeService(rpc.FeatureServiceServicer):
    failures: list[Failure] = field(default_factory=list)
    """Taken one for each call, before any answer."""
    answers: dict[str, Any] = field(default_factory=dict)
    """By method: what it answers."""
    streams: list[Stream] = field(default_factory=list)
    """One for each EncodeStream; the last answers all others."""
    seen: list[Seen] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    """`hang` methods answer once this is set."""
    hang: set[str] = field(default_factory=set)

    def _answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        metadata = dict(context.invocation_metadata())
        self.seen.append(Seen(method, request, metadata, context.time_remaining()))
        if method in self.hang:
            self.release.wait(20)
        if self.failures:
            self.failures.pop(0).abort(context)
        answer = self.answers[method]
        made = answer(request) if callable(answer) else answer
        made.call_info.request_id = metadata["x-request-id"]
        return made

    def Search(self, request, context):
        return self._answer("Search", request, context)

    def Encode(self, request, context):
        return self._answer("Encode", request, context)

    def TopActivations(self, request, context):
        return self._answer("TopActivations", request, context)

    def ListSources(self, request, context):
        return self._answer("ListSources", request, context)

    def GetFeature(self, request, context):
        return self._answer("GetFeature", request, context)

    def Tokenize(self, request, context):
        return self._answer("Tokenize", request, context)

    def GetServerInfo(self, request, context):
        return self._answer("GetServerInfo", request, context)

    def EncodeStream(self, requests, context):
        metadata = dict(context.invocation_metadata())
        self.seen.append(Seen("EncodeStream", None, metadata, context.time_remaining()))
        stream = self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]
        return stream(requests, context)


def search_answer(request: service.SearchRequest) -> service.SearchResponse:
    """Two features on the usual text; by token if asked."""
    answer = service.SearchResponse(
        tokens=tokens(),
        sources_considered=["0-demo", "2"],
        features_considered=2560,
        call_info=wire.CallInfo(batch_size=1),
    )
    if request.by_token:
        answer.features.extend([facts("0-demo", 1633), facts("2", 553, density=None)])
        for position in range(len(PIECES)):
            row = answer.token_results.add(position=position)
            if position == 4:
                row.features.extend([1, 0])
                row.values.extend([4.25, 1.5])
                row.matches.extend([wire.MATCH_EXACT, wire.MATCH_NONE])
    else:
        answer.results.extend(
            [
                hit("0-demo", 1633, [0, 0, 1.5, 0, 4.25, 0], wire.MATCH_EXACT),
                hit("2", 553, [0.5, 0, 0, 0, 0, -0.17], wire.MATCH_NONE),
            ]
        )
    if request.sort_tokens:
        answer.sort_positions.append(4)
    return answer


def encode_answer(request: service.EncodeRequest) -> service.EncodeResponse:
    """Every text is the usual one; feature f fires on token t with (f + 1) where t is 4."""
    answer = service.EncodeResponse(text_offsets=[0])
    for _ in request.inputs:
        answer.texts.add(tokens=[] if request.omit_tokens else tokens())
        answer.text_offsets.append(answer.text_offsets[-1] + len(PIECES))
    rows = answer.text_offsets[-1]
    if request.features:
        values = np.zeros((rows, len(request.features)), np.float32)
        values[4 :: len(PIECES)] = np.arange(1, len(request.features) + 1) * 1.1
        values[0] = -0.5
        answer.dense.CopyFrom(dense(values))
    for source in request.sources:
        values = np.zeros((rows, 8), np.float32)
        values[4 :: len(PIECES), [2, 5]] = [0.1, 2.5]
        answer.sparse.append(sparse(source, values))
    return answer


def top_answer(request: service.TopActivationsRequest) -> service.TopActivationsResponse:
    """Five records in pages."""
    first = int(request.page_token or 0)
    size = request.page_size or 10
    records = [
        wire.ActivationRecord(
            tokens=tokens([b" the", b" red\n", b" door"]),
            activations=[0, 4.5 - place, 0],
            max_activation=4.5 - place,
            max_position=1,
            text_index=place,
        )
        for place in range(5)
    ]
    shown = records[first : first + size]
    return service.TopActivationsResponse(
        facts=facts(request.feature.source, request.feature.index),
        statistics=STATISTICS,
        records=shown,
        next_page_token=str(first + size) if first + size < len(records) else "",
    )


def echo(requests: Iterator[service.EncodeStreamRequest], _: object) -> Iterator[service.EncodeStreamResponse]:
    """Answer each item with one row for each feature's value: the length of its text."""
    for message in requests:
        if message.HasField("item"):
            yield one_value(message.item)


def one_value(item: service.EncodeStreamItem) -> service.EncodeStreamResponse:
    values = np.array([[len(item.input.text)]], np.float32)
    chunk = service.EncodeChunk(text=service.EncodedText(tokens=tokens([b"x"])), dense=dense(values), last=True)
    return service.EncodeStreamResponse(sequence=item.sequence, chunk=chunk)


def new_service() -> FakeService:
    return FakeService(
        answers={
            "Search": search_answer,
            "Encode": encode_answer,
            "TopActivations": top_answer,
            "ListSources": lambda _: service.ListSourcesResponse(sources=SOURCES),
            "GetFeature": lambda request: service.GetFeatureResponse(
                facts=facts(request.feature.source, request.feature.index),
                source=SOURCES[0],
                statistics=STATISTICS,
                dead=False,
                decoder_norm=1.25,
            ),
            "Tokenize": lambda _: service.TokenizeResponse(tokens=tokens(), bos_id=0),
            "GetServerInfo": lambda _: service.GetServerInfoResponse(
                version="0.1.0",
                model=service.Model(name="demo", n_layers=4, d_model=128, context_tokens=256, bos_id=0),
                device="cpu",
                source_count=2,
                feature_count=2560,
                limits=service.Limits(max_limit=1000, default_limit=25),
            ),
        },
        streams=[echo],
    )


def serve(fake: FakeService, address: str = "127.0.0.1:0") -> tuple[grpc.Server, str]:
    server = grpc.server(ThreadPoolExecutor(16))
    rpc.add_FeatureServiceServicer_to_server(fake, server)
    port = server.add_insecure_port(address)
    server.start()
    return server, f"127.0.0.1:{port}"
