"""Every limit that a request can meet, and the memory that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from saeserve_server.catalog import Catalog
from saeserve_server.config import Config
from saeserve_server.engine.capacity import (
    DEFAULT_MOST_TOKENS,
    USUAL_TOKENS,
    Capacity,
    longest_text,
    search_of_everything,
)
from saeserve_server.scheduler.cost import Cost, CostModel

MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""Of any method."""
MAX_RECEIVED_BYTES = 2 * MAX_REQUEST_BYTES
"""Larger messages are refused by the transport itself, in its words."""
MAX_FIELDS = 20_000
"""Fields of a message, those of the messages in it included: more than all that the other limits allow."""
SMALL_REQUEST_BYTES = 256 * 1024
"""Of methods that take a name and a few numbers."""
NAMES_BYTES = 512 * 1024
"""For the names of sources and features, and the sort tokens."""
VECTOR_BYTES = 4 * 32768
"""For a vector: wider hook points than of so many numbers are rare."""
ID_BYTES = 4
"""Of a token id in a message."""
TEXT_SLACK = 16
"""A text up to so many times too large is refused as that, not as a large message."""
BATCH_TOKENS_CPU = 512
QUEUE_GFLOP_CPU = 1_000.0
"""About ten seconds of what two cores do in float32: what waits longer only runs into deadlines."""
QUEUE_SECONDS = 10.0
"""The same on a GPU, whose rate is measured."""
QUEUE_ITEMS = 1024
MOST_QUEUE_ITEMS = 16384
"""At any rate: each is a future, a place in a batch, and what it asks."""
MAX_CONTRAST_TEXTS = 2000
"""Of both sides together: Fisher's test weighs as many tables as the square of it, which takes a second of a core."""
MAX_PROJECTIONS = 16
"""Of an Encode: each is a vector as wide as its hook point, which goes to the worker with every text."""
MAX_WATCHES = 256
"""Health watches at a time."""
KEPT_TEXT_BYTES = 16 * 1024 * 1024
"""Of texts whose tokens are remembered."""
FRONT_END_BYTES = 384 * 1024 * 1024
"""What the front end takes with nothing to do: interpreter, libraries, tokenizer, names and facts of features."""
CALL_BYTES = 32 * 1024
"""A call in the transport and in Python, besides its message and answer."""
CONNECTION_BYTES = 160 * 1024
"""A connection: what was measured is 40 to 90 KiB with TLS, and what the kernel buffers is not counted."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit that a request can meet; GetServerInfo publishes them."""

    max_text_bytes: int
    max_tokens: int
    max_inputs: int
    max_answer_bytes: int
    batch_tokens: int
    queue_items: int
    queue_gflop: float
    queue_bytes: int
    max_calls: int
    max_streams: int
    max_connections: int
    max_concurrent_streams: int
    front_seconds: float
    answer_bytes: int
    stall_timeout: float
    cache_bytes: int
    methods: Mapping[str, int]
    """Bytes of each method's request."""
    max_batch: int | None = None
    max_limit: int = 1000
    default_limit: int = 25
    max_features: int = 1000
    max_names: int = 1000
    max_sort_tokens: int = 256
    max_sort_text_bytes: int = 1024
    max_page_size: int = 100
    default_page_size: int = 10
    max_request_bytes: int = MAX_REQUEST_BYTES
    max_fields: int = MAX_FIELDS
    max_stream_items: int = 32
    max_chunk_bytes: int = 1024 * 1024
    max_watches: int = MAX_WATCHES
    max_contrast_texts: int = MAX_CONTRAST_TEXTS
    max_projections: int = MAX_PROJECTIONS

    @property
    def budget(self) -> Cost:
        """What may wait for the worker and run in it at a time."""
        return Cost(self.queue_items, int(self.queue_gflop * 1e9), self.queue_bytes)

    @property
    def most_memory_bytes(self) -> int:
        """What the front end takes at most: its budgets, twice those of answers (ours, and the transport's copy), and
        for each connection and call what the transport may hold of its messages."""
        calls = min(self.max_calls, self.max_connections * self.max_concurrent_streams)
        return (
            FRONT_END_BYTES
            + self.cache_bytes
            + self.queue_bytes
            + 2 * self.answer_bytes
            + calls * (CALL_BYTES + MAX_RECEIVED_BYTES)
            + self.max_connections * CONNECTION_BYTES
        )


def make_limits(config: Config, catalog: Catalog, capacity: Capacity | None = None) -> Limits:
    """The limits that follow from configuration and model, and on a GPU from what was measured there."""
    batch_tokens, items, gflop = config.batch_tokens or BATCH_TOKENS_CPU, QUEUE_ITEMS, QUEUE_GFLOP_CPU
    if capacity is not None:
        batch_tokens = capacity.batch_tokens
        texts = QUEUE_SECONDS * capacity.tokens_per_second / USUAL_TOKENS
        items = min(max(QUEUE_ITEMS, round(texts)), MOST_QUEUE_ITEMS)
        usual = CostModel(catalog).of(search_of_everything(catalog, (0,) * USUAL_TOKENS))
        gflop = texts * usual.work / 1e9
    return Limits(
        max_text_bytes=config.max_text_bytes,
        max_tokens=longest_text(config, catalog),
        max_inputs=config.max_inputs,
        max_answer_bytes=config.max_answer_bytes,
        batch_tokens=batch_tokens,
        queue_items=config.queue_items or items,
        queue_gflop=config.queue_gflop or gflop,
        queue_bytes=config.queue_bytes,
        max_calls=config.max_calls,
        max_streams=config.max_streams,
        max_connections=config.max_connections,
        max_concurrent_streams=config.max_concurrent_streams,
        front_seconds=config.front_seconds,
        answer_bytes=config.answer_bytes,
        stall_timeout=config.stall_timeout,
        cache_bytes=config.cache_bytes + config.inner_cache_bytes + KEPT_TEXT_BYTES,
        methods=request_limits(config),
        max_batch=config.max_batch,
    )


def request_limits(config: Config) -> Mapping[str, int]:
    """The largest message of each method of FeatureService, in bytes.

    It is what its fields may hold, with room for texts that are refused as too large.
    """
    largest = max(config.max_text_bytes, ID_BYTES * (config.max_tokens or DEFAULT_MOST_TOKENS))
    text = TEXT_SLACK * largest + SMALL_REQUEST_BYTES
    methods = {
        "Search": text + NAMES_BYTES,
        "Encode": config.max_inputs * text + NAMES_BYTES + MAX_PROJECTIONS * VECTOR_BYTES,
        "EncodeStream": text + NAMES_BYTES + MAX_PROJECTIONS * VECTOR_BYTES,
        "Tokenize": text,
        "TopActivations": SMALL_REQUEST_BYTES,
        "GetFeature": SMALL_REQUEST_BYTES,
        "ListSources": SMALL_REQUEST_BYTES,
        "GetServerInfo": SMALL_REQUEST_BYTES,
        "GetVectors": SMALL_REQUEST_BYTES,
        "SimilarFeatures": NAMES_BYTES + VECTOR_BYTES,
        "Contrast": text + NAMES_BYTES,
        "SearchExplanations": NAMES_BYTES,
    }
    return MappingProxyType({method: min(size, MAX_REQUEST_BYTES) for method, size in methods.items()})
