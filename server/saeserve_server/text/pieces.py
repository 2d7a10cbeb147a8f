"""Which bytes each token id stands for, read from the tokenizer's own description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """The printable characters by which byte-level BPE writes the 256 bytes (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return alphabet


class Pieces:
    """Bytes of each token id, worked out once for each id that occurs."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        description = json.loads(tokenizer.to_str())
        types = {part.get("type") for part in _parts(description.get("decoder"))}
        types |= {part.get("type") for part in _parts(description.get("pre_tokenizer"))}
        self._alphabet = byte_alphabet() if "ByteLevel" in types else None
        self._byte_fallback = "ByteFallback" in types
        self._added: dict[int, bytes] = {
            token["id"]: token["content"].encode() for token in description.get("added_tokens", [])
        }
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}

    def __getitem__(self, token_id: int) -> bytes:
        """The bytes of a token; empty for an id that the vocabulary leaves unused."""
        piece = self._known.get(token_id)
        if piece is None:
            piece = self._known[token_id] = self._work_out(token_id)
        return piece

    def _work_out(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id]
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._alphabet is not None:
            return b"".join(
                bytes([self._alphabet[char]]) if char in self._alphabet else char.encode() for char in token
            )
        if self._byte_fallback and (byte := _BYTE_FALLBACK.fullmatch(token)):
            return bytes([int(byte.group(1), 16)])
        return token.replace("▁", " ").encode()


def display(piece: bytes) -> str:
    """The piece made printable: stray bytes as `\\xNN`, control characters escaped, spaces kept."""
    text = piece.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _parts(description: Any) -> Iterator[dict[str, Any]]:
    """Every object in a tokenizer component, sequences walked."""
    if isinstance(description, dict):
        yield description
        for value in description.values():
            yield from _parts(value)
    elif isinstance(description, list):
        for value in description:
            yield from _parts(value)
