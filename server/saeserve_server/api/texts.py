"""Texts of requests, cut into tokens and ready to be answered: remembered by the text itself, never by its ids.

Two texts may have the same ids and other tokens: offsets count in the text, and tokenizers change characters.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve_server.api import wire
from saeserve_server.api.call import current_call
from saeserve_server.cache.bounded import Bounded
from saeserve_server.errors import InvalidArgument
from saeserve_server.serving.limits import KEPT_TEXT_BYTES
from saeserve_server.serving.serving import Serving
from saeserve_server.serving.texts import TOKEN_SECONDS
from saeserve_server.text.tokenizer import Token, TokenizedText

ENTRY_BYTES = 600
"""Of a text, besides its characters, ids and tokens: objects and their places in the table."""
ID_BYTES = 40
"""Of an id in a tuple: the pointer and the number."""
CHARACTER_BYTES = 4
"""Of a character of a text, at most."""
KEPT_TOKENS = 16_384
"""Tokens whose beginnings are remembered: id, piece, display."""

_TOKENS = wire.key(service.SearchResponse, "tokens")
_START, _END = wire.key(types.Token, "start"), wire.key(types.Token, "end")


@dataclass(frozen=True, slots=True)
class Shown:
    """A text as the engine reads it and as answers show it."""

    ids: tuple[int, ...]
    """Without a leading BOS; the first of `count`, if no more were asked for."""
    count: int
    tokens: bytes
    """`tokens` of a SearchResponse or a TokenizeResponse, serialised."""

    def read(self) -> list[Token]:
        """The tokens, out of their bytes."""
        return [
            Token(token.id, token.piece, token.display, token.start, token.end)
            for token in service.SearchResponse.FromString(self.tokens).tokens
        ]


_Known = Bounded[tuple[str, int | None], Shown]


async def show_text(
    serving: Serving, given: types.Input, field: str = "input", most: int | None = None, *, remember: bool = True
) -> Shown:
    """An input's tokens, no more than the first `most`. Raises InvalidArgument; Overloaded."""
    which, lane = given.WhichOneof("input"), current_call().lane
    if which == "text":
        known = _known(serving)
        shown = known.get((given.text, most)) if remember else None
        if shown is None:
            shown = await _at_desk(serving, await serving.texts.tokenize(given.text, lane, most, f"{field}.text"))
            if remember:
                known.put((given.text, most), shown)
        return shown
    if which == "token_ids":
        ids = given.token_ids.ids
        return await _at_desk(serving, await serving.texts.detokenize(ids, lane, most, f"{field}.token_ids.ids"))
    raise InvalidArgument.field(field, "missing; text or token_ids is expected")


async def _at_desk(serving: Serving, text: TokenizedText) -> Shown:
    return await serving.desk.do(shown_of, text, seconds=len(text.ids) * TOKEN_SECONDS, client=current_call().lane)


def shown_of(text: TokenizedText) -> Shown:
    """A text that has been cut."""
    return Shown(text.ids, text.count, b"".join(map(token_field, text.tokens)))


def token_field(token: Token) -> bytes:
    """A token as one of `tokens`, serialised."""
    start, end = token.start, token.end
    body = _beginning(token.id, token.piece, token.display)
    if start:
        body += _START + wire.varint(start)
    if end:
        body += _END + wire.varint(end)
    return _TOKENS + wire.sized(body)


@functools.lru_cache(maxsize=KEPT_TOKENS)
def _beginning(token_id: int, piece: bytes, display: str) -> bytes:
    """The fields of a token that do not say where it stands."""
    return types.Token(id=token_id, piece=piece, display=display).SerializeToString()


@functools.lru_cache(maxsize=1)
def _known(serving: Serving) -> _Known:
    """The texts that are remembered of what is being served."""
    return Bounded(KEPT_TEXT_BYTES, "text", _size, serving.metrics)


def _size(key: tuple[str, int | None], shown: Shown) -> int:
    return ENTRY_BYTES + CHARACTER_BYTES * len(key[0]) + ID_BYTES * len(shown.ids) + len(shown.tokens)
