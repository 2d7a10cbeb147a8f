"""The tokenizer: text to ids, pieces and byte offsets, from any number of threads.

One raw `tokenizers.Tokenizer` whose truncation and padding are never touched after construction. A fast tokenizer
reconfigured by one thread while another encodes gives wrongly cut encodings without an error (`make hazards` shows it),
so cutting happens here, in Python. `encode_batch` is used even for one text: it releases the interpreter lock.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

from saeserve_server.text.pieces import Pieces, display


@dataclass(frozen=True, slots=True)
class Token:
    """One token: id, bytes, printable form, and half-open byte offsets in the text."""

    id: int
    piece: bytes
    display: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text's ids and tokens, BOS left out of both.

    `led_by_bos` says that the input itself began with the BOS token, which is taken as the one that would otherwise
    have been prepended.
    """

    ids: tuple[int, ...]
    tokens: tuple[Token, ...]
    led_by_bos: bool = False

    def cut(self, count: int) -> TokenizedText:
        """The first `count` tokens."""
        return TokenizedText(self.ids[:count], self.tokens[:count], self.led_by_bos)


class Tokenizer:
    """A model's tokenizer and its BOS rule."""

    def __init__(self, description: str, bos_id: int | None) -> None:
        """`description` is what `tokenizers.Tokenizer.to_str` gives; `bos_id` None for a model without BOS."""
        self._tokenizer = tokenizers.Tokenizer.from_str(description)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._pieces = Pieces(self._tokenizer)
        self.bos_id = bos_id

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without a leading BOS: what building an index needs."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [ids[1:] if self._is_led_by_bos(ids) else ids for ids in (encoding.ids for encoding in encodings)]

    def tokenize(self, text: str) -> TokenizedText:
        """Tokens of a text. A literal BOS token in the text becomes its id, as in Hugging Face tokenizers."""
        encoding = self._tokenizer.encode_batch([text], add_special_tokens=False)[0]
        ids = encoding.ids
        pieces = [self._pieces[token_id] for token_id in ids]
        data = text.encode()
        if b"".join(pieces) == data:
            spans = _running_spans(pieces)
        else:  # the tokenizer normalises, or writes an added space: go by where it says the tokens lie
            spans = _byte_spans(text, encoding.offsets)
            pieces = [data[start:end] for start, end in spans]
        return self._assemble(ids, pieces, spans)

    def detokenize(self, ids: Sequence[int]) -> TokenizedText:
        """Tokens of given ids; offsets count in the joined pieces. A leading BOS is recognised and left out of both."""
        led = self._is_led_by_bos(ids)
        text = tuple(ids)[led:]
        return TokenizedText(text, tuple(self.pieces(text)), led)

    def pieces(self, ids: Sequence[int]) -> list[Token]:
        """Tokens of given ids from the middle of a text; offsets count in the joined pieces."""
        pieces = [self._pieces[token_id] for token_id in ids]
        return _tokens(ids, pieces, _running_spans(pieces))

    def piece(self, token_id: int) -> bytes:
        """The bytes that a token stands for."""
        return self._pieces[token_id]

    def token(self, token_id: int) -> Token:
        """One token by itself, with offsets 0."""
        piece = self._pieces[token_id]
        return Token(token_id, piece, display(piece), 0, 0)

    def _assemble(self, ids: Sequence[int], pieces: list[bytes], spans: list[tuple[int, int]]) -> TokenizedText:
        led = self._is_led_by_bos(ids)
        return TokenizedText(tuple(ids)[led:], tuple(_tokens(ids, pieces, spans))[led:], led)

    def _is_led_by_bos(self, ids: Sequence[int]) -> bool:
        return self.bos_id is not None and len(ids) > 0 and ids[0] == self.bos_id


def _tokens(ids: Sequence[int], pieces: Sequence[bytes], spans: Sequence[tuple[int, int]]) -> list[Token]:
    return [
        Token(token_id, piece, display(piece), start, end)
        for token_id, piece, (start, end) in zip(ids, pieces, spans, strict=True)
    ]


def _running_spans(pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    """Offsets of pieces that lie end to end."""
    ends = list(itertools.accumulate(map(len, pieces)))
    return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []


def _byte_spans(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Character offsets as byte offsets. Tokens that share a character, as byte fallback makes them, get a byte each
    where there are as many of them as bytes; else the first gets the whole and the others none."""
    ends = [0, *itertools.accumulate(len(char.encode()) for char in text)]
    spans: list[tuple[int, int]] = []
    for (first, last), group in itertools.groupby(offsets):
        count = len(list(group))
        start, end = ends[first], ends[last]
        if count == 1:
            spans.append((start, end))
        elif count == end - start:
            spans.extend((byte, byte + 1) for byte in range(start, end))
        else:
            spans.append((start, end))
            spans.extend([(end, end)] * (count - 1))
    return spans
