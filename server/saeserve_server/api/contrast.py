"""Contrast: which features tell two sets of texts apart?

Texts are taken while there is room for what is read of them, and each is encoded behind unary calls, as an item of
EncodeStream is, and counted; none is kept. All the memory that a call may take is held from its beginning, so that it
never waits for more while others wait for its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial

import numpy as np

from saeserve.v1 import feature_service_pb2 as service
from saeserve_server.api.build import Timing, call_info, facts_builder
from saeserve_server.api.call import current_call
from saeserve_server.api.incoming import within
from saeserve_server.api.parse import parse_count, parse_filter, parse_input
from saeserve_server.api.rpc import current_rpc
from saeserve_server.api.texts import Shown
from saeserve_server.catalog import Kind
from saeserve_server.engine.work import expect
from saeserve_server.errors import InvalidArgument
from saeserve_server.ranking.contrast import LEAST_TEXTS, A, B, Found, Tally, fold, tally_bytes
from saeserve_server.ranking.work import EncodeDone, EncodeWork, SourceFilter
from saeserve_server.rows import Csr
from saeserve_server.scheduler.queue import Priority
from saeserve_server.serving.serving import Serving

Requests = AsyncIterator[service.ContrastRequest]

READ_BYTES = 16 * 1024 * 1024
"""Of activations that are read at a time, one text at least."""
SPARSE_ROW_BYTES = 4096
"""What a row of an SAE source is taken to need."""
ENTRY_SECONDS = 60e-9
SOURCE_SECONDS = 60e-6
"""Of a core, for an activation to be folded and counted, and for a source besides."""
TEST_SECONDS = 1.5e-6
PAIR_SECONDS = 0.5e-6
"""The same for a feature to be tested, and a table of Fisher's test to be weighed."""
FACTS_SECONDS = 20e-6
_SIDES = {service.CONTRAST_SIDE_A: A, service.CONTRAST_SIDE_B: B}


async def contrast(serving: Serving, requests: Requests) -> service.ContrastResponse:
    """The features that tell the texts of side A from those of side B. Raises InvalidArgument for too few texts, too
    many, or a bad one, which is named."""
    limits = serving.limits
    config = _configuration(await within(limits.stall_timeout, requests, serving.draining))
    serving.check_model(config.model)
    limit = parse_count(
        config.limit if config.HasField("limit") else None, limits.default_limit, limits.max_limit, "config.limit"
    )
    filters = serving.directory.select(parse_filter(config.filter, limits))
    call = current_call()
    sizes = [serving.catalog.sources[one.source].n_features for one in filters]
    holding = await serving.held.wait(tally_bytes(sum(sizes)) + READ_BYTES, call.lane, current_rpc().end)
    try:
        counting = _Counting(serving, filters, config.truncate)
        await counting.read(requests)
        tally = counting.tally
        for side, name in ((A, "A"), (B, "B")):
            if tally.texts[side] < LEAST_TEXTS:
                raise InvalidArgument(
                    f"side {name} has {tally.texts[side]} texts; at least {LEAST_TEXTS} of each are expected",
                    reason="TOO_FEW_TEXTS",
                )
        pairs = min(sum(tally.texts), sum(sizes)) * min(tally.texts)
        seconds = sum(sizes) * TEST_SECONDS + pairs * PAIR_SECONDS + 2 * limit * FACTS_SECONDS
        response = await serving.desk.do(
            partial(_answer, serving, filters, tally, limit), seconds=seconds, client=call.lane
        )
    finally:
        holding.release()
    response.call_info.CopyFrom(call_info(serving, counting.timing))
    return response


class _Counting:
    """The texts of one call: read, encoded, counted."""

    def __init__(self, serving: Serving, filters: tuple[SourceFilter, ...], truncate: bool) -> None:
        self._serving = serving
        self._filters = filters
        self._truncate = truncate
        self._client = current_call().lane
        self._row_bytes = sum(map(self._bytes_of_row, filters))
        self._reading = 0
        self._freed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._texts = 0
        self.tally = Tally([serving.catalog.sources[one.source].n_features for one in filters])
        self.timing = Timing()

    async def read(self, requests: Requests) -> None:
        """Counts all texts that come. Raises what was wrong with the first that failed."""
        limits = self._serving.limits
        try:
            while (request := await within(limits.stall_timeout, requests, self._serving.draining)) is not None:
                if request.WhichOneof("message") != "item":
                    raise InvalidArgument.field("message", "item is expected after the first message")
                await self._take(request.item)
            while self._tasks and self._error is None:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._raise()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, item: service.ContrastItem) -> None:
        """Begins with a text, once there is room for what is read of it."""
        place, most = self._texts, self._serving.limits.max_contrast_texts
        if place >= most:
            raise InvalidArgument(
                f"more than {most} texts (max_contrast_texts); a sample of them tells the sides apart as well",
                reason="TOO_MANY_TEXTS",
            )
        if item.side not in _SIDES:
            raise InvalidArgument.field(
                f"item[{place}].side", f"{item.side}; CONTRAST_SIDE_A or CONTRAST_SIDE_B is expected"
            )
        self._texts += 1
        began = time.perf_counter()
        text, _ = await parse_input(self._serving, item.input, self._truncate, f"item[{place}].input", remember=False)
        self.timing.tokenize = time.perf_counter() - began
        size = len(text.ids) * self._row_bytes
        while self._error is None and self._tasks and self._is_full(size):
            self._freed.clear()
            await self._freed.wait()
        self._raise()
        self._reading += size
        task = asyncio.create_task(self._count(_SIDES[item.side], text))
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, size))

    def _is_full(self, size: int) -> bool:
        return self._reading + size > READ_BYTES or len(self._tasks) >= self._serving.limits.max_stream_items

    def _done(self, size: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._reading -= size
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) is not None and self._error is None:
            self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    async def _count(self, side: int, text: Shown) -> None:
        serving = self._serving
        sources = tuple(one.source for one in self._filters)
        blocks: tuple[Csr | np.ndarray, ...] = ()
        if sources:
            outcome = await serving.scheduler.submit(
                EncodeWork(text.ids, False, sources), Priority.STREAM, client=self._client
            )
            blocks = expect(EncodeDone, outcome.done).blocks
            self.timing = Timing(tokenize=self.timing.tokenize)
            self.timing.add(outcome.spent)
        entries = sum(len(block.data) if isinstance(block, Csr) else block.size for block in blocks)
        seconds = len(blocks) * SOURCE_SECONDS + entries * ENTRY_SECONDS
        folded = await serving.desk.do(self._fold, text, blocks, seconds=seconds, client=self._client)
        self.tally.add(side, folded)

    def _fold(self, text: Shown, blocks: tuple[Csr | np.ndarray, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each source which features fire in the text, and their maxima. A BOS within it is no text token."""
        bos = self._serving.catalog.model.bos_id
        kept = np.array([row for row, token in enumerate(text.ids) if token != bos], dtype=np.int64)
        masks = [self._serving.filters.mask(one) for one in self._filters]
        return [fold(rows, kept, mask) for rows, mask in zip(blocks, masks, strict=True)]

    def _bytes_of_row(self, chosen: SourceFilter) -> int:
        source = self._serving.catalog.sources[chosen.source]
        return SPARSE_ROW_BYTES if source.kind is Kind.LATENT else 4 * source.n_features


def _configuration(first: service.ContrastRequest | None) -> service.ContrastConfig:
    if first is None or first.WhichOneof("message") != "config":
        raise InvalidArgument.field("message", "config is expected as the first message")
    return first.config


def _answer(serving: Serving, filters: tuple[SourceFilter, ...], tally: Tally, limit: int) -> service.ContrastResponse:
    found = tally.found(limit)
    return service.ContrastResponse(
        results=[_result(serving, filters, found, place) for place in range(len(found.p))],
        texts_a=tally.texts[A],
        texts_b=tally.texts[B],
        features_tested=found.tested,
        features_considered=sum(map(serving.filters.count, filters)),
        sources_considered=[serving.catalog.sources[one.source].id for one in filters],
    )


def _result(serving: Serving, filters: tuple[SourceFilter, ...], found: Found, place: int) -> service.ContrastResult:
    rank = filters[int(found.source[place])].source
    difference = float(found.difference[place])
    return service.ContrastResult(
        facts=facts_builder(serving).message(rank, int(found.index[place])),
        side=service.CONTRAST_SIDE_A if difference > 0 else service.CONTRAST_SIDE_B,
        texts_a=int(found.texts_a[place]),
        texts_b=int(found.texts_b[place]),
        difference=difference,
        log_odds=float(found.log_odds[place]),
        p_value=float(found.p[place]),
        q_value=float(found.q[place]),
        auc=float(found.auc[place]),
        auc_error=float(found.auc_error[place]),
        max_a=float(found.max_a[place]),
        max_b=float(found.max_b[place]),
    )
