"""Which tokens a sort token names where tokens and text differ: prefixes, normalisation, display."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeserve_server.text.sort_tokens import SortTokens
from saeserve_server.text.tokenizer import TokenizedText
from tests.text.shapes import END, SHAPES
from tests.text.test_spans import TEXTS, made


def found(text: TokenizedText, wanted: str) -> list[int]:
    return SortTokens(text.tokens, text.data).match(wanted)


@pytest.mark.parametrize("shape", ["Llama 2", "Metaspace always", "Metaspace first", "Unigram"])
def test_the_added_prefix_is_not_what_it_stands_before(shape: str) -> None:
    text = made(shape).tokenize("2 red apples")
    assert found(text, "2") == [1]
    assert found(text, "red") == [2]
    assert found(text, "2 red") == [1, 2]
    assert found(made(shape).tokenize("red 2"), "red") == [0]


def test_nor_is_the_prefix_after_a_special_token() -> None:
    text = made("Llama 2").tokenize(f"red{END}2")
    assert [token.piece for token in text.tokens] == [b"red", END.encode(), b"", b"2"]
    assert found(text, "2") == [3]
    assert found(text, END) == [1]


def test_the_prefix_is_found_as_it_is_displayed() -> None:
    assert found(made("Llama 2").tokenize("2"), " ") == [0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("wanted", ["NFC", "NFD"])
def test_a_text_is_found_in_either_unicode_form(shape: str, form: str, wanted: str) -> None:
    text = made(shape).tokenize(unicodedata.normalize(form, "is café is"))
    positions = found(text, unicodedata.normalize(wanted, "café"))
    assert positions
    held = b"".join(text.data[text.tokens[place].start : text.tokens[place].end] for place in positions)
    assert unicodedata.normalize("NFC", held.decode()).strip() == "café"


def test_a_decomposed_word_at_the_beginning_is_found_with_its_accent() -> None:
    text = made("NFC (Pythia)").tokenize("cafe\u0301 is red")
    assert text.tokens[0].end == 6
    assert found(text, "café") == found(text, "cafe\u0301") == [0]


def test_all_tokens_of_a_character_are_found_where_it_has_fewer_bytes_than_they() -> None:
    text = made("lower case").tokenize("xİ.")
    assert [(token.start, token.end) for token in text.tokens] == [(0, 1), (1, 2), (2, 3), (3, 3), (3, 4)]
    assert found(text, "İ") == [1, 2, 3]


def test_what_was_normalised_is_found_as_given_and_as_displayed() -> None:
    assert found(made("lower case").tokenize("RED is"), "RED") == [0]
    assert found(made("lower case").tokenize("RED is"), "red") == [0]
    ligature = made("NFKC").tokenize("ﬁ is")
    assert found(ligature, "ﬁ") == found(ligature, "fi") == [0, 1]


@pytest.mark.parametrize(
    ("text", "wanted", "positions"),
    [
        ("a\nb", "\\n", [1]),
        ("a\n", "a\\n", [0, 1]),
        ("a\n b\n", " \\n", [1, 4]),
        ("a\tb\x00", "\\x00", [3]),
        ("日a", "\\xe6\\x97\\xa5", [0, 1, 2]),
        ("日a", "\\x97", [1]),
        ("a\u200bb", "\\u200b", []),
    ],
)
def test_the_displayed_form_is_taken_last(text: str, wanted: str, positions: list[int]) -> None:
    assert found(made("byte-level").tokenize(text), wanted) == positions


def test_what_stands_in_the_text_comes_before_what_is_displayed_like_it() -> None:
    text = made("byte-level").tokenize("a\n\\n")
    assert [token.display for token in text.tokens] == ["a", "\\n", "\\", "n"]
    assert found(text, "\\n") == [2, 3]


@pytest.mark.parametrize("shape", SHAPES)
@given(text=TEXTS, data=st.data())
@settings(max_examples=25)
def test_every_run_of_tokens_finds_itself_by_its_text(shape: str, text: str, data: st.DataObject) -> None:
    tokenized = made(shape).tokenize(text)
    holding = [place for place, token in enumerate(tokenized.tokens) if token.end > token.start]
    if not holding:
        return
    first = data.draw(st.sampled_from(holding))
    last = data.draw(st.sampled_from([place for place in holding if place >= first]))
    run = tokenized.data[tokenized.tokens[first].start : tokenized.tokens[last].end]
    try:
        wanted = run.decode()
    except UnicodeDecodeError:
        return
    assert set(range(first, last + 1)) <= set(found(tokenized, wanted))


def test_tokens_cut_off_are_not_looked_for() -> None:
    text = made("byte-level").tokenize("red is red", 2)
    assert found(text, " is red") == []
    assert found(text, "red") == [0]
