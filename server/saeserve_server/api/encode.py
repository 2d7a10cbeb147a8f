"""Encode: how strongly do these features, or all features of these sources, fire on each token of these texts?"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from saeserve.v1 import feature_service_pb2 as service
from saeserve_server.api.build import (
    Timing,
    bos_token,
    call_info,
    dense_message,
    sparse_message,
)
from saeserve_server.api.cached import read_at_desk, reads_as_encode
from saeserve_server.api.call import Call, current_call
from saeserve_server.api.large import refuse_large_answer
from saeserve_server.api.parse import check_count, parse_features, parse_input
from saeserve_server.api.texts import Shown
from saeserve_server.api.vectors import parse_projections
from saeserve_server.cache.answer import Answer
from saeserve_server.catalog import Kind
from saeserve_server.engine.work import expect, leading_bos
from saeserve_server.errors import InvalidArgument
from saeserve_server.ranking.work import EncodeDone, EncodeWork, Projection, row_count
from saeserve_server.rows import Csr, as_csr, stacked
from saeserve_server.serving.serving import Serving
from saeserve_server.serving.texts import TOKEN_SECONDS

BYTE_SECONDS = 2e-9
"""Of a core, for a byte of activations to be packed."""
TEXTS_A_TURN = 4
"""Of an Encode, that are looked up before others have their turns: with a thousand features each, milliseconds."""
STREAM_INSTEAD = ", or call EncodeStream, which answers in chunks"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of every text: whole sources, or chosen features and projections, and how the answer is to look."""

    sources: tuple[int, ...]
    features: tuple[tuple[int, int], ...]
    projections: tuple[Projection, ...]
    bos: int | None
    """What the leading row shows; None for no such row."""
    truncate: bool
    omit_tokens: bool

    @property
    def columns(self) -> int:
        """Of what is answered dense."""
        return len(self.features) + len(self.projections)


async def parse_wanted(serving: Serving, given: service.EncodeRequest | service.EncodeStreamConfig) -> Wanted:
    """What a request asks of every text. Raises InvalidArgument and NotFound."""
    serving.check_model(given.model)
    if bool(given.sources) == bool(given.features or given.projections):
        raise InvalidArgument.field("sources", "either sources, or features or projections must be given, and not both")
    check_count(given.sources, "sources", serving.limits.max_names, "sources")
    names = parse_features(given.features, "features", serving.limits)
    sources = tuple(serving.directory.sources(list(given.sources), "sources"))
    features = tuple(serving.directory.features(names, "features"))
    asked = (*sources, *(rank for rank, _ in features))
    return Wanted(
        sources=sources,
        features=features,
        projections=await parse_projections(serving, given.projections),
        bos=leading_bos(serving.catalog, asked) if given.include_bos else None,
        truncate=given.truncate,
        omit_tokens=given.omit_tokens,
    )


def work_on(wanted: Wanted, text: Shown) -> EncodeWork:
    """What the engine is asked about a text that has been tokenised."""
    return EncodeWork(
        ids=text.ids,
        bos_row=wanted.bos is not None,
        sources=wanted.sources,
        features=wanted.features,
        projections=wanted.projections,
    )


def text_message(serving: Serving, wanted: Wanted, text: Shown, truncated: bool) -> service.EncodedText:
    """A text's tokens, as an answer has them."""
    shown = b"" if wanted.omit_tokens else bos_token(serving, wanted.bos) + text.tokens
    return service.EncodedText(
        tokens=service.SearchResponse.FromString(shown).tokens,
        bos_included=wanted.bos is not None,
        truncated=truncated,
    )


async def encode(serving: Serving, request: service.EncodeRequest) -> service.EncodeResponse:
    """Answers an Encode: its texts go to the engine side by side, and come back stacked."""
    wanted = await parse_wanted(serving, request)
    _refuse_whole_neurons(serving, wanted)
    if not 1 <= len(request.inputs) <= serving.limits.max_inputs:
        raise InvalidArgument.field(
            "inputs", f"{len(request.inputs)} texts; 1 to {serving.limits.max_inputs} are expected"
        )
    began = time.perf_counter()
    texts = [
        await parse_input(serving, given, wanted.truncate, f"inputs[{place}]")
        for place, given in enumerate(request.inputs)
    ]
    timing = Timing(tokenize=time.perf_counter() - began)
    works = [work_on(wanted, text) for text, _ in texts]
    rows = sum(map(row_count, works))
    _refuse_large_dense(serving, wanted, rows)
    answers = await _encode_all(serving, works, timing)
    size = sum(len(answer.payload) for answer in answers)
    refuse_large_answer(serving, size, STREAM_INSTEAD)
    seconds = size * BYTE_SECONDS + (0 if wanted.omit_tokens else rows * TOKEN_SECONDS)
    response = await serving.desk.do(
        _response, serving, wanted, texts, works, answers, seconds=seconds, client=current_call().lane
    )
    response.call_info.CopyFrom(call_info(serving, timing))
    return response


def _response(
    serving: Serving,
    wanted: Wanted,
    texts: list[tuple[Shown, bool]],
    works: list[EncodeWork],
    answers: list[Answer],
) -> service.EncodeResponse:
    """The answer, its texts stacked; without call_info, which only the event loop knows."""
    encoded = [_unpack(work, answer.payload) for work, answer in zip(works, answers, strict=True)]
    sparse = [as_csr(stacked([one.blocks[place] for one in encoded])) for place in range(len(wanted.sources))]
    response = service.EncodeResponse(
        texts=[text_message(serving, wanted, text, truncated) for text, truncated in texts],
        text_offsets=[0, *itertools.accumulate(one.rows for one in encoded)],
        sparse=[
            sparse_message(serving.catalog.sources[rank].id, rows)
            for rank, rows in zip(wanted.sources, sparse, strict=True)
        ],
    )
    if wanted.columns:
        dense = [one.dense for one in encoded if one.dense is not None]
        response.dense.CopyFrom(dense_message("", np.concatenate(dense)))
    return response


async def _encode_all(serving: Serving, works: list[EncodeWork], timing: Timing) -> list[Answer]:
    """The activations on each text, which is cached by itself."""
    call = current_call()
    keys: list[bytes] = []
    missing: dict[bytes, EncodeWork] = {}
    for work in works:
        if len(keys) % TEXTS_A_TURN == TEXTS_A_TURN - 1:
            await serving.desk.turn(call.lane)
        keys.append(serving.keys.encode(work))
        if not serving.is_kept(keys[-1], work):
            missing[keys[-1]] = work
    serving.scheduler.check(missing.values(), STREAM_INSTEAD, call.lane, call.deadline)
    answers = await _together(
        [
            serving.answers.get(
                key,
                partial(_compute, serving, work, call),
                partial(read_at_desk, serving, partial(reads_as_encode, serving.catalog, work)),
            )
            for key, work in zip(keys, works, strict=True)
        ]
    )
    for answer in answers:
        timing.add(answer.spent, answer.tier)
    return answers


async def _compute(serving: Serving, work: EncodeWork, call: Call) -> Answer:
    computed = await serving.compute(work, client=call.lane, deadline=None)
    done = expect(EncodeDone, computed.done)
    refuse_large_answer(serving, done.nbytes, STREAM_INSTEAD)
    payload = await serving.desk.do(_pack, done, seconds=done.nbytes * BYTE_SECONDS, client=call.lane)
    return Answer(payload, computed.tier, computed.spent)


def _pack(done: EncodeDone) -> bytes:
    """An answer of the engine as it is cached. Blocks are sparse: whole neuron sources are only streamed."""
    response = service.EncodeResponse(
        sparse=[sparse_message("", block) for block in done.blocks if isinstance(block, Csr)]
    )
    if done.dense is not None:
        response.dense.CopyFrom(dense_message("", done.dense))
    return response.SerializeToString()


def _unpack(work: EncodeWork, payload: bytes) -> EncodeDone:
    response = service.EncodeResponse.FromString(payload)
    rows = row_count(work)
    blocks = tuple(
        Csr(
            indptr=np.frombuffer(block.indptr, dtype="<i8"),
            indices=np.frombuffer(block.indices, dtype="<u4"),
            data=np.frombuffer(block.data, dtype="<f4"),
            columns=block.columns,
        )
        for block in response.sparse
    )
    dense = np.frombuffer(response.dense.data, dtype="<f4").reshape(rows, -1) if work.columns else None
    return EncodeDone(rows, blocks, dense)


def _refuse_whole_neurons(serving: Serving, wanted: Wanted) -> None:
    for place, rank in enumerate(wanted.sources):
        source = serving.catalog.sources[rank]
        if source.kind is Kind.NEURON:
            raise InvalidArgument.field(
                f"sources[{place}]",
                f"{source.name} are neurons, which are answered whole by EncodeStream only; here, name features",
                reason="DENSE_SOURCE",
            )


def _refuse_large_dense(serving: Serving, wanted: Wanted, rows: int) -> None:
    refuse_large_answer(serving, rows * wanted.columns * 4, STREAM_INSTEAD)


async def _together(waits: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, or the first error, the others cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
