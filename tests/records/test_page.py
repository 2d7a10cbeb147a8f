"""A page token opens the page that it was made for, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve_server.errors import Aborted, InvalidArgument
from saeserve_server.records.page import decode_page_token, encode_page_token


@given(
    offset=st.integers(0, 2**32 - 1),
    index=st.integers(0, 2**31),
    revision=st.text("0123456789abcdef"),
    asked=st.text(),
)
def test_a_token_gives_its_offset_back(offset, index, revision, asked):
    token = encode_page_token(revision, "0-demo", index, asked, offset)
    assert decode_page_token(token, revision, "0-demo", index, asked) == offset


def test_no_token_is_the_first_page():
    assert decode_page_token("", "r", "0-demo", 3, "top") == 0


def test_a_token_is_url_safe_text_that_shows_nothing():
    token = encode_page_token("revision", "0-demo", 3, "top", 20)
    assert token.replace("-", "").replace("_", "").isalnum()
    assert len(token) == 43


def test_a_changed_index_is_aborted():
    token = encode_page_token("r1", "0-demo", 3, "top", 20)
    with pytest.raises(Aborted) as caught:
        decode_page_token(token, "r2", "0-demo", 3, "top")
    assert caught.value.reason == "STORE_CHANGED"


@pytest.mark.parametrize(("source", "index"), [("0-demo", 4), ("1-demo", 3)])
def test_the_token_of_another_feature_is_invalid(source, index):
    token = encode_page_token("r", "0-demo", 3, "top", 20)
    with pytest.raises(InvalidArgument, match="another feature") as caught:
        decode_page_token(token, "r", source, index, "top")
    assert caught.value.reason == "INVALID_PAGE_TOKEN"
    assert caught.value.violations[0].field == "page_token"


def test_the_token_of_other_records_is_invalid():
    token = encode_page_token("r", "0-demo", 3, "top by phrase from 0.5", 20)
    with pytest.raises(InvalidArgument, match="other records") as caught:
        decode_page_token(token, "r", "0-demo", 3, "top by phrase from 0.6")
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


@given(place=st.integers(0, 42), letter=st.sampled_from("ABCXYZabcxyz0189-_=+/ é"))
def test_no_changed_letter_passes(place, letter):
    token = encode_page_token("r", "0-demo", 3, "top", 20)
    changed = token[:place] + letter + token[place + 1 :]
    if changed != token:
        with pytest.raises(InvalidArgument) as caught:
            decode_page_token(changed, "r", "0-demo", 3, "top")
        assert caught.value.reason == "INVALID_PAGE_TOKEN"


@given(token=st.text(min_size=1, max_size=100))
def test_any_other_text_is_invalid(token):
    with pytest.raises(InvalidArgument):
        decode_page_token(token, "r", "0-demo", 3, "top")
