"""Texts of requests into tokens: checked, cut at the desk, within the limits."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve_server.errors import InvalidArgument
from saeserve_server.scheduler.desk import Desk
from saeserve_server.serving.limits import Limits
from saeserve_server.text.tokenizer import TokenizedText, Tokenizer

BYTE_SECONDS = 0.4e-6
ID_SECONDS = 0.3e-6
TOKEN_SECONDS = 1.0e-6
"""Of a core, for a byte to be cut, an id to be looked up, a token to be made: about what was measured."""


class Texts:
    """The tokenizer, and what may be asked of it."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, limits: Limits, desk: Desk) -> None:
        """`vocabulary` is the number of ids that the model has embeddings for."""
        self.tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._limits = limits
        self._desk = desk

    async def tokenize(
        self, text: str, client: str, most: int | None = None, field: str = "input.text"
    ) -> TokenizedText:
        """Tokens of a text, the first `most` of them, and how many there are in all. Raises InvalidArgument for one
        that is empty, too large, or holds a token that the model has no embedding for; Overloaded."""
        size = len(text.encode())
        if size > self._limits.max_text_bytes:
            raise InvalidArgument.field(
                field, f"{size} bytes; at most {self._limits.max_text_bytes} are taken", reason="TEXT_TOO_LARGE"
            )
        if not text:
            raise InvalidArgument.field(field, "empty; a text is expected", reason="TEXT_EMPTY")
        tokens = size if most is None else min(size, most)
        seconds = size * BYTE_SECONDS + tokens * TOKEN_SECONDS
        tokenized = await self._desk.do(self.tokenizer.tokenize, text, most, seconds=seconds, client=client)
        if max(tokenized.ids, default=0) >= self._vocabulary:
            token = next(token for token in tokenized.tokens if token.id >= self._vocabulary)
            raise InvalidArgument.field(
                field,
                f"the token {token.display!r} at byte {token.start} has id {token.id}; "
                f"the model has embeddings for ids 0 to {self._vocabulary - 1}",
                reason="TOKEN_UNKNOWN_TO_MODEL",
            )
        return tokenized

    async def detokenize(
        self, given: Sequence[int], client: str, most: int | None = None, field: str = "input.token_ids.ids"
    ) -> TokenizedText:
        """Tokens of given ids, the first `most` of them. Raises InvalidArgument for none, too many, or one outside the
        vocabulary; Overloaded."""
        if len(given) > self._limits.max_text_bytes:
            raise InvalidArgument.field(
                field, f"{len(given)} ids; at most {self._limits.max_text_bytes} are taken", reason="TEXT_TOO_LARGE"
            )
        ids = list(given)
        if ids and max(ids) >= self._vocabulary:
            place, token_id = next((place, one) for place, one in enumerate(ids) if one >= self._vocabulary)
            raise InvalidArgument.field(
                f"{field}[{place}]", f"id {token_id}; the vocabulary's ids are 0 to {self._vocabulary - 1}"
            )
        tokens = len(ids) if most is None else min(len(ids), most)
        seconds = len(ids) * ID_SECONDS + tokens * TOKEN_SECONDS
        return await self._desk.do(self.tokenizer.detokenize, ids, most, seconds=seconds, client=client)

    def fit(self, count: int, truncate: bool, field: str) -> bool:
        """Whether a text of so many tokens must be cut to the limit. Raises InvalidArgument if it may not be."""
        most = self._limits.max_tokens
        if count == 0:
            raise InvalidArgument.field(
                field, "no tokens; at least one beside the BOS is expected", reason="TEXT_EMPTY"
            )
        if count > most and not truncate:
            raise InvalidArgument.field(
                field, f"{count} tokens; at most {most} are taken unless truncate is set", reason="TOO_MANY_TOKENS"
            )
        return count > most
