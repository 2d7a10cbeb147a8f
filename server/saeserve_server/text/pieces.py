"""Which bytes each token id stands for, read from the tokenizer's own description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer

from saeserve_server.text.prefix import Prefix

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """The printable characters by which byte-level BPE writes the 256 bytes (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return alphabet


class Pieces:
    """Bytes of each token id, worked out once for each id that occurs. One piece for one id, however it is reached."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        description = json.loads(tokenizer.to_str())
        model = description.get("model", {})
        parts = [part for name in _COMPONENTS for part in _parts(description.get(name))]
        types = {part.get("type") for part in parts}
        self._alphabet = byte_alphabet() if "ByteLevel" in types else None
        self._byte_fallback = "ByteFallback" in types or model.get("byte_fallback") is True
        self._space_marks = _space_marks(parts)
        self._continuing = model.get("continuing_subword_prefix") or ""  # ## of WordPiece
        self._word_end = model.get("end_of_word_suffix") or ""  # </w> of GPT-1
        self._added: dict[int, str] = {token["id"]: token["content"] for token in description.get("added_tokens", [])}
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}
        self._prefix = Prefix(tokenizer, self.__getitem__)

    def __getitem__(self, token_id: int) -> bytes:
        """The bytes of a token within a text; empty for an id that the vocabulary leaves unused."""
        piece = self._known.get(token_id)
        if piece is None:
            piece = self._known[token_id] = self._work_out(token_id)
        return piece

    def within(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes of each token."""
        return [self[token_id] for token_id in ids]

    def of(self, ids: Sequence[int], before: int | None = None) -> list[bytes]:
        """The bytes of each token, without the space that the tokenizer adds before a text.

        `before` is the id before the first, None where they begin a text. A token that is no more than the added
        space is left empty.
        """
        pieces = self.within(ids)
        if not self._prefix.at_start or not ids:
            return pieces
        firsts = [0] if before is None or self._ends_a_stretch(before) else []
        firsts += [place + 1 for place, token_id in enumerate(ids[:-1]) if self._ends_a_stretch(token_id)]
        for first in firsts:
            pieces[first] = pieces[first].removeprefix(b" ")
        return pieces

    def _ends_a_stretch(self, token_id: int) -> bool:
        """Whether the tokenizer adds a space after this token too. Added tokens of white space come from merges too."""
        content = self._added.get(token_id)
        return content is not None and not self[token_id].isspace() and self._prefix.after(token_id, content)

    def _work_out(self, token_id: int) -> bytes:
        token = self._added.get(token_id)
        if token is None:
            token = self._tokenizer.id_to_token(token_id)
            if token is None:
                return b""
            if self._continuing:
                token = token.removeprefix(self._continuing)
            if self._word_end and token.endswith(self._word_end):
                token = token.removesuffix(self._word_end) + " "
            if self._alphabet is not None and all(char in self._alphabet for char in token):
                return bytes(self._alphabet[char] for char in token)
        if self._byte_fallback and (byte := _BYTE_FALLBACK.fullmatch(token)):
            return bytes([int(byte.group(1), 16)])
        for mark in self._space_marks:
            token = token.replace(mark, " ")
        return token.encode()


def display(piece: bytes) -> str:
    """The piece made printable: stray bytes as `\\xNN`, control characters escaped, spaces kept."""
    text = piece.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


_COMPONENTS = ("normalizer", "pre_tokenizer", "decoder")


def _space_marks(parts: Sequence[dict[str, Any]]) -> list[str]:
    """The characters by which tokens write a space: ▁ of SentencePiece."""
    marks = set()
    for part in parts:
        if part.get("type") == "Metaspace":
            marks.add(part.get("replacement", "▁"))
        elif part.get("type") == "Replace":
            pattern, content = part.get("pattern", {}).get("String"), part.get("content")
            marks |= {content} if pattern == " " else {pattern} if content == " " else set()
    return sorted(mark for mark in marks if mark and not mark.isspace())


def _parts(description: Any) -> Iterator[dict[str, Any]]:
    """Every object in a tokenizer component, sequences walked."""
    if isinstance(description, dict):
        yield description
        for value in description.values():
            yield from _parts(value)
    elif isinstance(description, list):
        for value in description:
            yield from _parts(value)
