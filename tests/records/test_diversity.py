"""Of records that are the same at a level the strongest is shown, and says for how many it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeserve_server.records.diversity import BY_OVERLAP, SIDE, TEXT_TOKENS, Level, Shown, diverse
from saeserve_server.records.likeness import Folding

PIECES = [
    b" love",
    b"love",
    b" LOVE",
    b" hate",
    b"Hate",
    b" the",
    b"The",
    b" sea",
    b" ",
    b"\n",
    b"\xff",
    b"\xc3\x9f",
    b"ss",
]
BY_TOKEN = [Level.TOKEN, Level.FOLDED_TOKEN, Level.PHRASE, Level.SENTENCE, Level.TEXT]
"""The levels that promise not to fold different tokens."""


@dataclass
class Window:
    """A record, as far as diversity reads it."""

    token_ids: Any
    max_position: int
    max_activation: float
    text_index: int
    active: Any
    text: list[int] = field(default_factory=list)


def window(ids: list[int], peak: int, value: float, text: int = 0, active: tuple[int, ...] = (7,)) -> Window:
    return Window(np.array(ids, np.uint32), peak, value, text, np.array(active, np.uint32))


@dataclass
class Index:
    """An index of one feature: its kept records, and blocks beyond them as (token, activation)."""

    kept: list[Any]
    texts: list[list[int]]
    beyond: list[tuple[int, float]] = field(default_factory=list)
    records_per_feature: int = 64

    def records(self, source_id: str, index: int, offset: int = 0, count: int = 10) -> list[Any]:
        return self.kept[offset : offset + count]

    def statistics(self, source_id: str, index: int) -> Any:
        return SimpleNamespace(blocks=len(self.kept) + len(self.beyond))

    def text_ids(self, text_index: int) -> Any:
        return np.array(self.texts[text_index], np.uint32)

    def peak_counts(self, source_id: str, index: int) -> Any:
        peaks = [(peak_of(record), record.max_activation) for record in self.kept] + self.beyond
        ids = list(dict.fromkeys(token for token, _ in peaks))
        rows = []
        for token in ids:
            own = [value for other, value in peaks if other == token]
            alike = [value for other, value in peaks if folded(other) == folded(token)]
            rows.append((len(own), min(own), max(own), len(alike), min(alike), max(alike)))
        names = ("blocks", "least", "most", "folded_blocks", "folded_least", "folded_most")
        columns = zip(*rows, strict=True) if rows else [()] * 6
        return SimpleNamespace(
            ids=np.array(ids, np.uint32), **{n: np.array(c) for n, c in zip(names, columns, strict=True)}
        )


def peak_of(record: Any) -> int:
    return int(record.token_ids[record.max_position])


def folded(token: int) -> Any:
    try:
        return PIECES[token].decode().strip().casefold() or PIECES[token]
    except UnicodeDecodeError:
        return PIECES[token]


def grams(ids: Any, least: int = 1) -> set[Any]:
    run = [folded(int(token)) for token in ids]
    lengths = [n for n in (1, 2, 3) if n >= least] if len(run) >= least else [len(run)]
    return {tuple(run[start : start + n]) for n in lengths for start in range(len(run) - n + 1)}


def features(index: Index, record: Any, level: Level) -> set[Any]:
    peak = record.max_position
    if level is Level.PHRASE:
        return grams(record.token_ids[max(0, peak - SIDE) : peak + SIDE + 1])
    if level is Level.SENTENCE:
        return grams(record.token_ids)
    if level is Level.TEXT:
        return grams(index.texts[record.text_index][:TEXT_TOKENS], least=3)
    return set(record.active.tolist())


def same(index: Index, one: Any, other: Any, level: Level, threshold: float) -> bool:
    if level is Level.NONE:
        return False
    if level is Level.TOKEN:
        return peak_of(one) == peak_of(other)
    if level is not Level.SEMANTIC and folded(peak_of(one)) != folded(peak_of(other)):
        return False
    if level is Level.FOLDED_TOKEN:
        return True
    a, b = features(index, one, level), features(index, other, level)
    return len(a & b) / len(a | b) >= threshold


def plainly(index: Index, level: Level, threshold: float) -> list[list[Any]]:
    """The groups, by the rule as it is told."""
    groups: list[list[Any]] = []
    for record in index.kept:
        for group in groups:
            if same(index, group[0], record, level, threshold):
                group.append(record)
                break
        else:
            groups.append([record])
    return groups


def shown(
    index: Index, level: Level, threshold: float = 0.5, offset: int = 0, count: int = 1000
) -> tuple[list[Shown], bool]:
    return diverse(index, "0-demo", 3, level, threshold, offset, count, Folding(PIECES.__getitem__))  # type: ignore[arg-type]


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    ids = st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=12)
    texts = draw(st.lists(ids, min_size=1, max_size=4))
    kept = []
    for value in sorted(draw(st.lists(st.integers(1, 9), max_size=14)), reverse=True):
        text = draw(st.integers(0, len(texts) - 1))
        begin = draw(st.integers(0, len(texts[text]) - 1))
        run = texts[text][begin : begin + draw(st.integers(1, 9))]
        active = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True))
        kept.append(window(run, draw(st.integers(0, len(run) - 1)), value / 2, text, tuple(active)))
    beyond = [(draw(st.integers(0, len(PIECES) - 1)), 0.25) for _ in range(draw(st.integers(0, 3)) if kept else 0)]
    return Index(kept, texts, beyond)


@settings(max_examples=60)
@given(indexes(), st.sampled_from(Level), st.sampled_from([0.05, 0.25, 1 / 3, 0.5, 0.8, 1.0]))
def test_what_is_shown_is_what_the_rule_says(index: Index, level: Level, threshold: float) -> None:
    found, more = shown(index, level, threshold)
    expected = plainly(index, level, threshold)
    assert [one.record for one in found] == [group[0] for group in expected]
    assert not more
    counts = index.peak_counts("0-demo", 3)
    for one, group in zip(found, expected, strict=True):
        assert one.others == (() if level is Level.NONE else tuple(group[1:4]))
        values = [record.max_activation for record in group]
        if level in (Level.TOKEN, Level.FOLDED_TOKEN):
            place, name = list(counts.ids).index(peak_of(group[0])), "" if level is Level.TOKEN else "folded_"
            told = [getattr(counts, name + what)[place] for what in ("blocks", "least", "most")]
            assert [one.stands_for, one.least, one.most] == told
            assert not one.is_lower_bound
        else:
            assert (one.stands_for, one.least, one.most) == (len(group), min(values), max(values))
            assert one.is_lower_bound == (level is not Level.NONE and bool(index.beyond))


@settings(max_examples=60)
@given(indexes(), st.sampled_from(BY_TOKEN), st.floats(0.001, 1))
def test_no_level_but_semantic_folds_different_tokens(index: Index, level: Level, threshold: float) -> None:
    for group in shown(index, level, threshold)[0]:
        assert {folded(peak_of(record)) for record in group.others} <= {folded(peak_of(group.record))}


@settings(max_examples=60)
@given(indexes(), st.sampled_from(Level), st.integers(1, 4))
def test_pages_joined_are_the_whole(index: Index, level: Level, size: int) -> None:
    whole, _ = shown(index, level)
    paged: list[Shown] = []
    more = True
    while more:
        page, more = shown(index, level, offset=len(paged), count=size)
        assert len(page) == size or not more
        paged += page
    assert [one.record for one in paged] == [one.record for one in whole]
    assert [one.stands_for for one in paged] == [one.stands_for for one in whole]


@settings(max_examples=60)
@given(indexes(), st.sampled_from(sorted(BY_OVERLAP, key=lambda level: level.value)))
def test_every_kept_record_is_counted_once(index: Index, level: Level) -> None:
    assert sum(one.stands_for for one in shown(index, level)[0]) == len(index.kept)


def love_and_hate() -> Index:
    """` love` and ` hate` in the same places of texts that are the same but for them."""
    around = [5, 7, 5, 7, 5]
    texts = [[*around, verb, *around] for verb in (0, 3, 0, 3, 0, 3)]
    return Index([window(text, 5, 9.0 - n, n, (1, 2, 3)) for n, text in enumerate(texts)], texts)


@pytest.mark.parametrize("level", BY_TOKEN)
def test_love_and_hate_are_never_folded(level: Level) -> None:
    found, _ = shown(love_and_hate(), level, 0.01)
    assert [PIECES[peak_of(one.record)] for one in found] == [b" love", b" hate"]
    assert [one.stands_for for one in found] == [3, 3]


def test_semantic_folds_love_and_hate_where_the_same_latents_are_active() -> None:
    found, _ = shown(love_and_hate(), Level.SEMANTIC, 1.0)
    assert [one.stands_for for one in found] == [6]
    assert (found[0].least, found[0].most) == (4.0, 9.0)


def test_case_and_space_are_folded_by_every_level_but_token() -> None:
    texts = [[5, 0, 7], [6, 1, 7], [5, 2, 7]]  # ` the love sea`, `Thelove sea`, ` the LOVE sea`
    index = Index([window(text, 1, 5.0 - n, n) for n, text in enumerate(texts)], texts)
    assert len(shown(index, Level.TOKEN)[0]) == 3
    for level in (Level.FOLDED_TOKEN, Level.PHRASE, Level.SENTENCE, Level.TEXT):
        assert len(shown(index, level, 1.0)[0]) == 1


def test_white_space_and_broken_characters_equal_only_themselves() -> None:
    texts = [[8], [9], [10], [8]]
    index = Index([window(text, 0, 5.0 - n, n) for n, text in enumerate(texts)], texts)
    assert [one.stands_for for one in shown(index, Level.FOLDED_TOKEN)[0]] == [2, 1, 1]


def test_a_record_counts_for_the_first_shown_that_is_like_it() -> None:
    """The third is like both of those before it, which are not like each other."""
    kept = [window([0], 0, 5, 0, (1, 2)), window([0], 0, 4, 0, (3, 4)), window([0], 0, 3, 0, (1, 2, 3, 4))]
    assert [one.stands_for for one in shown(Index(kept, [[0]]), Level.SEMANTIC, 0.5)[0]] == [2, 1]


def test_only_the_beginning_of_a_long_text_is_compared() -> None:
    beginning = [5, 7] * (TEXT_TOKENS // 2)
    texts = [[*beginning, *[0] * 900], [*beginning, *[3] * 900]]
    index = Index([window(text[:9], 4, 5.0 - n, n) for n, text in enumerate(texts)], texts)
    assert len(shown(index, Level.TEXT, 1.0)[0]) == 1


@pytest.mark.parametrize("level", Level)
def test_a_feature_without_records_shows_none(level: Level) -> None:
    assert shown(Index([], [[0]]), level) == ([], False)


@given(st.lists(st.lists(st.integers(0, len(PIECES) - 1), max_size=5), max_size=6))
def test_tokens_keep_their_numbers_whenever_they_are_seen(rows: list[list[int]]) -> None:
    folding = Folding(PIECES.__getitem__)
    first = [folding.number(np.array(row, np.uint32)).tolist() for row in rows]
    assert [folding.number(np.array(row, np.uint32)).tolist() for row in rows] == first
    of_token = {
        token: number
        for row, numbers in zip(rows, first, strict=True)
        for token, number in zip(row, numbers, strict=True)
    }
    assert min(of_token.values(), default=1) == 1
    for one, number in of_token.items():
        for other, another in of_token.items():
            assert (number == another) == (folded(one) == folded(other))
