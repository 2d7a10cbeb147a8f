"""Tokens: pieces, offsets, BOS, and the tokens that a sort token names."""

import threading

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from saeserve_server.text.sort_tokens import SortTokens
from saeserve_server.text.tokenizer import Tokenizer
from tests.reference import MODEL

RAW = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
TOKENIZER = Tokenizer(RAW.to_str(), 0)
BOS = "<|endoftext|>"

# Emoji of several code points, CJK, combining characters, right-to-left, and white space of many kinds, often.
TRICKY = st.text(
    st.one_of(
        st.sampled_from("🙂👩‍🚀🇩🇪日本語中文한국어éñüe\u0301o\u0308אבجد \t\n\u00a0\u3000"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)


@given(TRICKY)
@example("👩‍🚀 e\u0301 日本\n")
@example("")
def test_pieces_join_to_the_text_and_offsets_are_bytes(text: str) -> None:
    tokenized = TOKENIZER.tokenize(text)
    data = text.encode()
    assert b"".join(token.piece for token in tokenized.tokens) == data
    end = 0
    for token in tokenized.tokens:
        assert token.start == end
        assert data[token.start : token.end] == token.piece
        end = token.end
    assert end == len(data)
    assert list(tokenized.ids) == [token.id for token in tokenized.tokens] == RAW.encode(text).ids


@given(TRICKY)
def test_display_is_printable_and_tells_the_piece(text: str) -> None:
    for token in TOKENIZER.tokenize(text).tokens:
        assert token.display.isprintable() or token.display == " "
        assert token.display


@given(TRICKY)
def test_ids_give_back_the_pieces(text: str) -> None:
    tokenized = TOKENIZER.tokenize(text)
    assert TOKENIZER.detokenize(tokenized.ids) == tokenized
    assert TOKENIZER.ids([text, "red"]) == [list(tokenized.ids), list(TOKENIZER.tokenize("red").ids)]


def test_a_character_may_span_tokens() -> None:
    tokenized = TOKENIZER.tokenize("🙂")
    assert len(tokenized.tokens) == 4
    assert [token.display for token in tokenized.tokens] == ["\\xf0", "\\x9f", "\\x99", "\\x82"]
    assert [(token.start, token.end) for token in tokenized.tokens] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_a_leading_bos_is_no_text_token_and_another_is() -> None:
    led = TOKENIZER.tokenize(f"{BOS}red{BOS}")
    assert led.led_by_bos
    assert [token.piece for token in led.tokens] == [b"red", BOS.encode()]
    assert led.tokens[0].start == len(BOS)
    assert not TOKENIZER.tokenize("red").led_by_bos
    assert TOKENIZER.detokenize([0, 5]).ids == (5,)
    assert TOKENIZER.ids([f"{BOS}red"]) == TOKENIZER.ids(["red"])
    assert Tokenizer(RAW.to_str(), None).tokenize(f"{BOS}red").ids[0] == 0  # a model without BOS: a token as any other


def test_special_tokens_are_those_that_the_tokenizer_says() -> None:
    assert TOKENIZER.special_ids == (0,)
    more = tokenizers.Tokenizer.from_str(RAW.to_str())
    more.add_tokens(["plain"])
    more.add_special_tokens(["<turn>"])
    assert Tokenizer(more.to_str(), 0).special_ids == (0, more.token_to_id("<turn>"))


def test_truncation_and_padding_saved_with_a_tokenizer_are_not_obeyed() -> None:
    configured = tokenizers.Tokenizer.from_str(RAW.to_str())
    configured.enable_truncation(2)
    configured.enable_padding(length=50)
    text = "My favorite color is red."
    assert Tokenizer(configured.to_str(), 0).tokenize(text) == TOKENIZER.tokenize(text)


def test_threads_get_what_one_caller_gets() -> None:
    texts = [f"text {number} " + "red and blue " * (number % 17) for number in range(64)]
    alone = [TOKENIZER.tokenize(text) for text in texts]
    wrong: list[int] = []

    def work(first: int) -> None:
        for round_ in range(20):
            for place in range(first, len(texts), 8):
                if TOKENIZER.tokenize(texts[place]) != alone[place]:
                    wrong.append(round_)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def sentencepiece_like(*, byte_fallback: bool, normalize: bool) -> Tokenizer:
    """A tokenizer in the manner of Llama's or Gemma's: ▁ for spaces, <0xNN> for what has no token."""
    vocabulary = ["<unk>", "<s>", "▁", "▁red", "▁is", "red", "a", "▁a", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = [(token, -float(place)) for place, token in enumerate(vocabulary)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=byte_fallback))
    if normalize:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<s>"])
    return Tokenizer(tokenizer.to_str(), 1)


@pytest.mark.parametrize("text", ["red is red", "red 日 a", "🙂red", "is", "<s>red"])
def test_sentencepiece_tokens_cover_the_text_bytewise(text: str) -> None:
    tokenized = sentencepiece_like(byte_fallback=True, normalize=False).tokenize(text)
    start = len("<s>") if tokenized.led_by_bos else 0
    assert b"".join(token.piece for token in tokenized.tokens) == text.encode()[start:]
    assert tokenized.tokens[-1].end == len(text.encode())


def test_a_normalising_tokenizer_gives_its_own_tokens_and_their_spans_in_the_text_as_it_was_given() -> None:
    """One piece for one token: what `RED` was before it became `red` is told by the span."""
    tokenized = sentencepiece_like(byte_fallback=False, normalize=True).tokenize("RED a")
    assert [token.piece for token in tokenized.tokens] == [b"red", b" a"]
    assert [tokenized.data[token.start : token.end] for token in tokenized.tokens] == [b"RED", b" a"]


def positions(text: str, wanted: str) -> list[str]:
    tokens = TOKENIZER.tokenize(text).tokens
    return [tokens[place].display for place in SortTokens(tokens).match(wanted)]


def test_sort_tokens_match_exactly_before_stripped() -> None:
    assert positions("My favorite color is red.", "red") == [" red"]
    assert positions("red and red", "red") == ["red"]
    assert positions("red and red", " red") == [" red"]
    assert positions("red, red and more red", "  red ") == ["red", " red", " red"]


def test_a_word_of_several_tokens_is_one_sort_token() -> None:
    assert positions("My favorite color is red.", "favorite") == [" favor", "ite"]
    assert positions("My favorite color is red.", "color is") == [" color", " is"]


def test_no_match_and_part_of_a_token_give_nothing() -> None:
    assert positions("My favorite color is red.", "crimson") == []
    assert positions("My favorite color is red.", "re") == []
    assert positions("My favorite color is red.", "") == []
    assert positions("a  b", " \n") == []


def test_a_periodic_text_is_matched_in_proportion_to_its_length() -> None:
    """256 sort tokens that nearly match everywhere: quadratic work would take minutes, and the timeout would tell."""
    tokens = [TOKENIZER.token(310)] * 4000
    wanted = SortTokens(tokens)
    piece = tokens[0].piece.decode()
    for _ in range(256):
        assert wanted.match(piece * 300 + "b") == []
    assert wanted.match(piece * 300) == list(range(4000))


@given(TRICKY, st.data())
@settings(max_examples=200)
def test_every_run_of_tokens_finds_itself(text: str, data: st.DataObject) -> None:
    tokens = TOKENIZER.tokenize(text).tokens
    if not tokens:
        return
    first = data.draw(st.integers(0, len(tokens) - 1))
    last = data.draw(st.integers(first, len(tokens) - 1))
    run = b"".join(token.piece for token in tokens[first : last + 1])
    try:
        wanted = run.decode()
    except UnicodeDecodeError:
        return
    assert set(range(first, last + 1)) <= set(SortTokens(tokens).match(wanted))
