"""Texts: the same in each run, popular ones again and again, distinct ones never."""

import statistics
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer

from loadtests.texts import LONGEST, SHORTEST, Distinct, Popular, caller
from loadtests.words import OPENERS, WORDS

MODELS = Path(__file__).parents[2] / "server" / "saeserve_server" / "models"


def test_the_texts_are_the_same_in_each_run() -> None:
    assert Popular(seed=3).texts == Popular(seed=3).texts
    assert Popular(seed=3).texts != Popular(seed=4).texts
    assert Distinct().pick(caller(0, 1)) == Distinct().pick(caller(0, 1))


def test_callers_differ_from_each_other() -> None:
    assert len({Distinct().pick(caller(seed, number)) for seed in range(10) for number in range(100)}) == 1000


def test_popular_texts_follow_zipf() -> None:
    texts, chance = Popular(1000, 1.0), caller(0, 0)
    counts = Counter(texts.pick(chance) for _ in range(50_000))
    first, second, tenth = (counts[texts.texts[rank]] for rank in (0, 1, 9))
    assert 1.8 < first / second < 2.2
    assert 8.5 < first / tenth < 11.5
    assert len(counts) > 900


def test_distinct_texts_never_come_again() -> None:
    texts, chance = Distinct(), caller(0, 0)
    assert len({texts.pick(chance) for _ in range(20_000)}) == 20_000


def test_lengths_lie_around_ten_with_some_long_ones() -> None:
    lengths = [len(text.split()) for text in Popular(5000).texts]
    assert 9 <= statistics.median(lengths) <= 11
    assert min(lengths) == SHORTEST
    assert 0.01 < sum(length >= 40 for length in lengths) / len(lengths) < 0.06
    assert max(lengths) <= LONGEST


def test_words_are_tokens_of_the_demo() -> None:
    tokenizer = Tokenizer.from_file(str(MODELS / "demo" / "model" / "tokenizer.json"))
    single = [*OPENERS, *(" " + word for word in WORDS)]
    assert [word for word in single if len(tokenizer.encode(word, add_special_tokens=False).ids) != 1] == []
    assert len(set(WORDS)) == len(WORDS)
    text = Distinct(10).pick(caller(0, 0))
    assert len(tokenizer.encode(text, add_special_tokens=False).ids) == 10
