"""A record's text is the indexed text: its tokens have the pieces that they have in the text, and in the statistics."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from saeserve_server.api.build import usual_tokens
from saeserve_server.api.records import record_message
from saeserve_server.catalog import Catalog
from saeserve_server.records.builder import build_index
from saeserve_server.records.diversity import Shown
from saeserve_server.records.match import Match, UsualPieces
from saeserve_server.rows import SourceRows, as_csr
from tests.records.reference import MODEL, source
from tests.text.shapes import BOS, END, SHAPES, tokenizer

TEXTS = [
    "2 red apples",
    "def red:\n    is = (red)\n        2",
    "        red",
    "日本 red",
    f"red{END}2 {END} red",
    "red is " * 20,
]


class Reader:
    """Feature n fires on the n-th id, on each occurrence more strongly than on that before."""

    def __init__(self, watched: Sequence[int]) -> None:
        self.catalog = Catalog(
            replace(MODEL, context_tokens=64, vocabulary=10_000, bos_id=None), (source("0-fake", len(watched)),)
        )
        self._watched = np.array(watched)
        self._seen = 0

    @property
    def computed(self) -> dict[str, str]:
        return {}

    def encode_blocks(self, blocks: Sequence[Sequence[int]]) -> Iterator[tuple[int, SourceRows]]:
        ids = np.array([one for block in blocks for one in block])
        rank = np.arange(self._seen + 1, self._seen + len(ids) + 1)
        self._seen += len(ids)
        yield 0, as_csr(((ids[:, None] == self._watched) * rank[:, None]).astype(np.float32))


@pytest.mark.parametrize("shape", ["Gemma", "Llama 2", "Metaspace first", "byte-level", "NFC (Pythia)"])
def test_records_show_the_text_that_was_indexed(shape, tmp_path):
    raw = SHAPES[shape]()
    one = tokenizer(raw)
    watched = sorted({token for text in one.ids(TEXTS) for token in text})
    store = build_index(Reader(watched), one.ids, TEXTS, tmp_path / "index", records_per_feature=8)
    serving = SimpleNamespace(tokenizer=one)
    for feature, token_id in enumerate(watched):
        for record in store.records("0-fake", feature, count=8):
            message = record_message(one, Shown(record, 1, is_lower_bound=False, least=0, most=0))
            text = one.tokenize(TEXTS[record.text_index])
            window = slice(record.text_position, record.text_position + len(message.tokens))
            shown = b"".join(token.piece for token in message.tokens)
            there = text.tokens[window]
            assert [token.piece for token in message.tokens] == [token.piece for token in there] or is_led_by_space(
                shape, text.data
            )
            if len(message.tokens) == len(text.tokens) and not is_led_by_space(shape, text.data):
                assert shown == text.data
                assert one.tokenize(shown.decode()) == text
        (usual,) = usual_tokens(serving, store.usual_tokens("0-fake", feature))
        assert usual.token.piece == one.piece(token_id)
        assert "▁" not in usual.token.display
        assert UsualPieces([usual.token.piece]).match(one.piece(token_id)) is Match.EXACT


def is_led_by_space(shape: str, text: bytes) -> bool:
    """Metaspace reads ` red` and `red` alike: the ids of the index do not tell."""
    return shape.startswith("Metaspace") and text.startswith(b" ")


def test_a_usual_token_that_is_written_as_added_token_matches_its_kind_in_a_text():
    one = tokenizer(SHAPES["Gemma"]())
    runs = [token for token in one.tokenize("a    b   c\nred  (").tokens if not token.piece.strip()]
    usual = UsualPieces([one.token(token.id).piece for token in runs])
    assert [usual.match(token.piece) for token in runs] == [Match.EXACT] * len(runs)
    assert BOS.encode() not in {token.piece for token in runs}
