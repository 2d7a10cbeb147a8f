"""What holds of pieces and spans, whatever the tokenizer (`text/spans.py`)."""

import functools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saeserve_server.text.tokenizer import Tokenizer
from tests.text.shapes import AMBIGUOUS, BOS, END, FAITHFUL, SHAPES, tokenizer

SCRAPS = [
    *("red", " red", "is", "apples", "2", "42", "café", "cafe\u0301", "word", "Same", "RED", "x = (a)"),
    *(" ", "  ", "    ", "\n", "\n\n", "\t", "\u3000", "\u00a0", "\u200b", "\x00"),
    *("é", "e\u0301", "\u0301", "a\u0301\u0302", "q\u0307\u0323", "\u1112\u1161\u11ab", "한", "ﬁ", "①", "ﷺ", "İ", "ẞ"),
    *("日本", "赤い花", "🙂", "👩\u200d🚀", "🇩🇪", "▁", "▁▁", BOS, END, "<left>", "<right>", "<0x0A>", "##re"),
]
TEXTS = st.lists(st.one_of(st.sampled_from(SCRAPS), st.characters(exclude_categories=["Cs"])), max_size=12).map("".join)


@functools.cache
def made(shape: str) -> Tokenizer:
    return tokenizer(SHAPES[shape]())


@functools.cache
def raw_of(shape: str):
    return SHAPES[shape]()


@pytest.mark.parametrize("shape", SHAPES)
@given(text=TEXTS)
@example(text="")
@example(text="   ")
@settings(max_examples=25)
def test_every_byte_lies_in_the_span_of_one_token_in_order(shape: str, text: str) -> None:
    tokenized = made(shape).tokenize(text)
    assert tokenized.data == text.encode()
    if tokenized.tokens:
        # Before the first text token lies the BOS that the text begins with, and what was swallowed round it.
        end = tokenized.tokens[0].start if tokenized.led_by_bos else 0
        assert end == 0 or BOS.encode() in tokenized.data[:end]
        for token in tokenized.tokens:
            assert token.start == end
            assert token.end >= token.start
            end = token.end
        assert end == len(tokenized.data)
    raw = raw_of(shape).encode(text, add_special_tokens=False).ids
    assert list(tokenized.ids) == [token.id for token in tokenized.tokens] == raw[tokenized.led_by_bos :]


@pytest.mark.parametrize("shape", FAITHFUL)
@given(text=TEXTS)
@settings(max_examples=25)
def test_where_no_character_is_changed_the_pieces_are_the_text(shape: str, text: str) -> None:
    text = re.sub("[▁<#\u0120]", "", text) if "byte-level" not in shape else text
    tokenized = made(shape).tokenize(text)
    start = len(BOS) if tokenized.led_by_bos else 0
    for token in tokenized.tokens:
        assert token.piece == tokenized.data[token.start : token.end]
    assert b"".join(token.piece for token in tokenized.tokens) == tokenized.data[start:]


@pytest.mark.parametrize("shape", SHAPES)
@given(text=TEXTS)
@settings(max_examples=25)
def test_a_token_has_one_piece_whichever_way_it_is_reached(shape: str, text: str) -> None:
    """From the text, from its ids, and from the middle of its ids, as in a record."""
    one = made(shape)
    tokens = one.tokenize(text).tokens
    ids = [token.id for token in tokens]
    again = one.pieces(ids)
    for place, (token, other) in enumerate(zip(tokens, again, strict=True)):
        same = (token.piece, token.display) == (other.piece, other.display)
        assert same or (shape in AMBIGUOUS and token.piece == b" " + other.piece), place
    for start in range(1, len(ids)):
        window = one.pieces(ids[start:], ids[start - 1])
        assert [token.piece for token in window] == [token.piece for token in again[start:]]


def rows(shape: str, text: str) -> list[tuple[str, str, int, int]]:
    return [(t.piece.decode(errors="replace"), t.display, t.start, t.end) for t in made(shape).tokenize(text).tokens]


WITH_A_PREFIX = ["Llama 2", "Llama 2, special tokens normalised", "Metaspace always", "Metaspace first", "Unigram"]


@pytest.mark.parametrize("shape", WITH_A_PREFIX)
def test_an_added_prefix_is_an_empty_row(shape: str) -> None:
    assert rows(shape, "2 red apples")[:3] == [("", " ", 0, 0), ("2", "2", 0, 1), (" red", " red", 1, 5)]
    assert rows(shape, "red 2")[:2] == [("red", "red", 0, 3), (" ", " ", 3, 4)]  # one that is part of a word


@pytest.mark.parametrize("shape", WITH_A_PREFIX)
def test_characters_that_fall_to_bytes_after_a_prefix_keep_their_bytes(shape: str) -> None:
    tokens = made(shape).tokenize("日本").tokens
    assert [(token.start, token.end) for token in tokens] == [(0, 0), *((at, at + 1) for at in range(6))]
    assert b"".join(token.piece for token in tokens) == "日本".encode()


@pytest.mark.parametrize("shape", ["Llama 2", "Metaspace always"])
def test_the_prefix_after_a_special_token_is_an_empty_row_too(shape: str) -> None:
    assert rows(shape, f"a{END}2{END}red") == [
        *[("a", "a", 0, 1), (END, END, 1, 5), ("", " ", 5, 5), ("2", "2", 5, 6), (END, END, 6, 10)],
        ("red", "red", 10, 13),
    ]


def test_a_space_after_a_special_token_is_told_from_the_prefix_by_the_text() -> None:
    for shape in ("Llama 2", "Metaspace always"):  # the first reads ▁▁ and 2, the second ▁ and 2
        assert rows(shape, f"{END} 2") == [(END, END, 0, 4), (" ", " ", 4, 5), ("2", "2", 5, 6)]


@pytest.mark.parametrize("text", ["def a:\n    red\n        is", "   red", "     a", "a   b    c", "\n\n    "])
def test_added_tokens_that_write_spaces_as_marks_are_spaces(text: str) -> None:
    gemma = made("Gemma")
    tokens = gemma.tokenize(text).tokens
    assert any(raw_of("Gemma").id_to_token(token.id).startswith("▁▁") for token in tokens)
    assert b"".join(token.piece for token in tokens) == text.encode()
    assert gemma.detokenize([token.id for token in tokens]).tokens == tokens
    assert all("▁" not in token.display for token in tokens)
    for token in tokens:
        assert gemma.token(token.id).piece == gemma.piece(token.id) == token.piece


def test_an_added_token_with_marks_in_its_name_keeps_them_where_spaces_are_written_otherwise() -> None:
    raw = SHAPES["byte-level"]()
    raw.add_special_tokens(["<｜begin▁of▁sentence｜>"])
    assert tokenizer(raw).tokenize("red<｜begin▁of▁sentence｜>").tokens[1].display == "<｜begin▁of▁sentence｜>"


@pytest.mark.parametrize(
    ("shape", "text", "spans"),
    [
        ("NFC (Pythia)", "cafe\u0301 is red", ["cafe\u0301", " is", " red"]),
        ("NFC (Pythia)", "\u1112\u1161\u11ab is", ["\u1112\u1161\u11ab", " is"]),
        ("NFKC", "ﬁ①", ["ﬁ", "①"]),
        ("no accents", "cafe\u0301 is", ["cafe\u0301", " is"]),
        ("stripped", "  red  ", ["  red  "]),
        ("lower case", "RED is", ["RED", " is"]),
        ("NFC Llama 2, stripped", "e\u0301 2", ["", "e\u0301", " ", "2"]),
    ],
)
def test_what_normalisation_swallows_belongs_to_the_token_before_it(shape: str, text: str, spans: list[str]) -> None:
    """Tokens that share a character are put together here."""
    tokenized = made(shape).tokenize(text)
    found = [tokenized.data[token.start : token.end] for token in tokenized.tokens]
    assert b"".join(found) == text.encode()
    bounds = {0}
    for span in spans:
        bounds.add(max(bounds) + len(span.encode()))
    assert bounds <= {token.start for token in tokenized.tokens} | {len(tokenized.data)}


@pytest.mark.parametrize("shape", ["NFC (Pythia)", "NFKC", "NFC Llama 2, stripped"])
@pytest.mark.parametrize("scrap", ["e\u0301", "ﬃ", "a" + "\u0301" * 1000])
def test_long_texts_take_time_in_proportion(shape: str, scrap: str) -> None:
    """64 KiB in which every character is changed; quadratic work would take minutes, and the timeout would tell."""
    text = scrap * (65536 // len(scrap.encode()))
    tokens = made(shape).tokenize(text).tokens
    assert (tokens[0].start, tokens[-1].end) == (0, len(text.encode()))
