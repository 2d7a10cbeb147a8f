"""A stream of the fake service whose activations follow from each text alone: two runs must agree to the bit."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator

import grpc
import numpy as np

from saeserve.v1 import feature_service_pb2 as service
from tests.client import fake


def rows(text: str, features: int) -> np.ndarray:
    """[words, features]; of each word three of them, by its checksum."""
    words = pieces(text)
    values = np.zeros((len(words), features), np.float32)
    for row, word in enumerate(words):
        seed = zlib.crc32(word)
        for place in range(3):
            values[row, (seed >> (7 * place)) % features] = (seed >> place & 1023) / 64 + 0.25
    return values


def pieces(text: str) -> list[bytes]:
    return re.findall(rb" ?[^ ]+| +", text.encode())


def answer(config: service.EncodeStreamConfig, item: service.EncodeStreamItem) -> list[service.EncodeStreamResponse]:
    """Chunks of one text; the text "bad" is refused."""
    if item.input.text == "bad":
        refused = fake.status(grpc.StatusCode.INVALID_ARGUMENT, "a bad text", reason="TEXT_BAD")
        return [service.EncodeStreamResponse(sequence=item.sequence, error=refused)]
    text = item.input.text
    blocks: list[dict[str, object]] = []
    if config.features:
        chosen = [rows(text, 2048 if "-" in one.source else 512)[:, one.index] for one in config.features]
        blocks.append({"dense": fake.dense(np.stack(chosen, axis=1))})
    for source in config.sources:
        one = fake.sparse(source, rows(text, 2048)) if "-" in source else fake.dense(rows(text, 512), source)
        blocks.append({"sparse" if "-" in source else "dense": one})
    encoded = service.EncodedText(tokens=fake.tokens(pieces(text)))
    chunks = [service.EncodeChunk(**block) for block in blocks]
    chunks[0].text.CopyFrom(encoded)
    chunks[-1].last = True
    return [service.EncodeStreamResponse(sequence=item.sequence, chunk=chunk) for chunk in chunks]


def stream(meanwhile: Callable[[int], None] = lambda _: None) -> fake.Stream:
    """`meanwhile` is called before each text is answered, with how many were."""

    def answers(
        requests: Iterator[service.EncodeStreamRequest], _: grpc.ServicerContext
    ) -> Iterator[service.EncodeStreamResponse]:
        config = next(requests).config
        for count, message in enumerate(requests):
            meanwhile(count)
            yield from answer(config, message.item)

    return answers
