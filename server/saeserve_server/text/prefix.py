"""The space that some tokenizers add before a text: Llama 2 reads `red` as `▁red`, and `2` as `▁`, `2`.

Some add it after each special token inside a text as well. Which do is found by asking the tokenizer, since several of
its parts can add one.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Tokenizer

_PROBE = "."  # a word boundary, which no normaliser touches


class Prefix:
    """Whether a tokenizer adds a space before a text, and after its added tokens."""

    def __init__(self, tokenizer: Tokenizer, piece: Callable[[int], bytes]) -> None:
        """`piece` gives the bytes of an id, added spaces included."""
        self._tokenizer = tokenizer
        self._piece = piece
        self._after: dict[int, bool] = {}
        ids = self._ids(_PROBE)
        self.at_start = bool(ids) and piece(ids[0]).startswith(b" ")
        """Whether one is added before a text that begins without."""

    def after(self, token_id: int, content: str) -> bool:
        """Whether one is added after this added token, written `content`."""
        known = self._after.get(token_id)
        if known is None:
            ids = self._ids(content + _PROBE)
            place = ids.index(token_id) + 1 if token_id in ids else len(ids)
            known = self._after[token_id] = place < len(ids) and self._piece(ids[place]).startswith(b" ")
        return known

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode_batch([text], add_special_tokens=False)[0].ids
