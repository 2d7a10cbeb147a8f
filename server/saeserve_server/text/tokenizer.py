"""The tokenizer: text to ids, pieces and byte offsets, from any number of threads.

One raw `tokenizers.Tokenizer` whose truncation and padding are never touched after construction. A fast tokenizer
reconfigured by one thread while another encodes gives wrongly cut encodings without an error (`make hazards` shows it),
so cutting happens here, in Python. `encode_batch` is used even for one text: it releases the interpreter lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

from saeserve_server.text.pieces import Pieces, display
from saeserve_server.text.spans import align, running


@dataclass(frozen=True, slots=True)
class Token:
    """One token: id, bytes, printable form, and half-open byte offsets in the text (`spans.py` says what holds).

    A space that the tokenizer added has no bytes and an empty span, and is displayed as a space.
    """

    id: int
    piece: bytes
    display: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text's ids and tokens, BOS left out of both.

    `led_by_bos` says that the input itself began with the BOS token, which is taken as the one that would otherwise
    have been prepended. `data` is what the tokens' offsets count in: the text in UTF-8, of ids the joined pieces.
    `count` are the tokens of the whole text, of which these may be the first.
    """

    ids: tuple[int, ...]
    tokens: tuple[Token, ...]
    data: bytes
    led_by_bos: bool
    count: int


class Tokenizer:
    """A model's tokenizer and its BOS rule."""

    def __init__(self, description: str, bos_id: int | None) -> None:
        """`description` is what `tokenizers.Tokenizer.to_str` gives; `bos_id` None for a model without BOS."""
        self._tokenizer = tokenizers.Tokenizer.from_str(description)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.post_processor = None  # without special tokens, all it does is to trim spaces off the offsets
        self._pieces = Pieces(self._tokenizer)
        self.bos_id = bos_id
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_ids = tuple(sorted(token_id for token_id, token in added.items() if token.special))
        """Of the tokens that it calls special."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without a leading BOS: what building an index needs."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [ids[1:] if self._is_led_by_bos(ids) else ids for ids in (encoding.ids for encoding in encodings)]

    def tokenize(self, text: str, most: int | None = None) -> TokenizedText:
        """Tokens of a text, no more than the first `most`: most of the time goes into making them.

        A literal BOS token in the text becomes its id, as in Hugging Face tokenizers.
        """
        encoding = self._tokenizer.encode_batch([text], add_special_tokens=False)[0]
        ids = encoding.ids
        led = self._is_led_by_bos(ids)
        bos = self._pieces.within(ids[:led])
        pieces, within = [*bos, *self._pieces.of(ids[led:])], self._pieces.within(ids)
        data = text.encode()
        if b"".join(pieces) == data:
            starts = running(pieces)
        elif b"".join(within) == data:
            pieces, starts = within, running(within)
        else:
            pieces, starts = align(text, encoding.offsets, pieces, within)
        end = len(ids) if most is None else min(len(ids), led + most)
        stop = len(data) if end == len(ids) else starts[end]
        tokens = self._tokens(ids[:end], pieces[:end], starts[:end], stop)
        return TokenizedText(tuple(ids[led:end]), tuple(tokens[led:]), data, led, len(ids) - led)

    def detokenize(self, ids: Sequence[int], most: int | None = None) -> TokenizedText:
        """Tokens of given ids, no more than the first `most`; offsets count in the joined pieces of these.

        A leading BOS is recognised and left out of both.
        """
        led = self._is_led_by_bos(ids)
        text = tuple(ids[led:]) if most is None else tuple(ids[led : led + most])
        tokens = tuple(self.pieces(text))
        return TokenizedText(text, tokens, b"".join(token.piece for token in tokens), led, len(ids) - led)

    def pieces(self, ids: Sequence[int], before: int | None = None) -> list[Token]:
        """Tokens of given ids; offsets count in the joined pieces.

        `before` is the id before them, None where they begin a text: a space that the tokenizer adds there is no part
        of the pieces.
        """
        pieces = self._pieces.of(ids, before)
        return self._tokens(ids, pieces, running(pieces), sum(map(len, pieces)))

    def piece(self, token_id: int) -> bytes:
        """The bytes that a token stands for within a text."""
        return self._pieces[token_id]

    def token(self, token_id: int) -> Token:
        """One token by itself, with offsets 0."""
        piece = self._pieces[token_id]
        return Token(token_id, piece, display(piece), 0, 0)

    def _tokens(self, ids: Sequence[int], pieces: Sequence[bytes], starts: Sequence[int], end: int) -> list[Token]:
        return [
            Token(token_id, piece, display(piece or self._pieces[token_id]), start, stop)
            for token_id, piece, start, stop in zip(ids, pieces, starts, [*starts[1:], end][: len(ids)], strict=True)
        ]

    def _is_led_by_bos(self, ids: Sequence[int]) -> bool:
        return self.bos_id is not None and len(ids) > 0 and ids[0] == self.bos_id
