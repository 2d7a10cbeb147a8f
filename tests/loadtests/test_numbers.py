"""Percentiles, rates of bursts, tables, and the server's counters."""

import math
import random

import pytest

from loadtests.metrics import Growth, describe, parse
from loadtests.percentiles import digits, milliseconds, percentile
from loadtests.rates import abba, rate
from loadtests.records import Record, read, write
from loadtests.summary import by_kind, by_tier, faults
from loadtests.table import table


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (95, 95), (99, 99), (99.5, 100), (100, 100)])
def test_percentiles_are_values_that_occurred(percent: float, expected: float) -> None:
    values = list(range(1, 101))
    random.Random(0).shuffle(values)
    assert percentile(values, percent) == expected


def test_percentiles_of_few_and_of_none() -> None:
    assert percentile([7.0], 1) == percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0], 50) == 1.0
    assert math.isnan(percentile([], 50))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (math.nan, "–"),
        (0.01234, "0.0123"),
        (1.234, "1.23"),
        (99.96, "100.0"),
        (1234.5, "1,234"),
        (12, "12.0"),
    ],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert digits(value) == shown


def test_milliseconds() -> None:
    assert (milliseconds(0.0123), milliseconds(math.nan)) == ("12.3", "–")


def test_tables_line_up_and_are_markdown() -> None:
    lines = table(("name", "n"), [("a", 1), ("longer", 1234)]).splitlines()
    assert lines == ["| name   |    n |", "| ------ | ---: |", "| a      |    1 |", "| longer | 1234 |"]


def test_a_table_without_rows_has_its_head() -> None:
    assert table(("a", "b"), []).splitlines() == ["| a   |   b |", "| --- | --: |"]


def test_the_rate_of_an_even_stream() -> None:
    assert rate([number / 50 for number in range(1, 1000)], 0, 5, 15) == pytest.approx(50, rel=0.01)


@pytest.mark.parametrize("closes", [20.5, 23.9, 27.9, 28.1])
def test_the_rate_of_bursts_does_not_hang_on_where_the_window_ends(closes: float) -> None:
    bursts = [8 * burst + answer / 1000 for burst in range(1, 6) for answer in range(40)]
    assert rate(bursts, 0, 4, closes) == pytest.approx(5, rel=0.05)


def test_a_server_that_stops_answering_has_a_low_rate() -> None:
    assert rate([number / 10 for number in range(1, 51)], 0, 0, 50) == pytest.approx(1, rel=0.05)
    assert rate([1.0], 0, 10, 20) == 0
    assert rate([], 0, 10, 20) == 0


def test_two_take_turns_in_going_first() -> None:
    assert abba(5) == [True, False, True, False, True]


BEFORE = """\
saeserve_batch_size_count 2
saeserve_batch_size_sum 4
saeserve_cache_hits_total{tier="local"} 1
saeserve_queue_duration_seconds_bucket{le="0.1"} 0
saeserve_queue_duration_seconds_bucket{le="1.0"} 0
saeserve_queue_duration_seconds_bucket{le="+Inf"} 0
"""
AFTER = """\
saeserve_batch_size_count 6
saeserve_batch_size_sum 36
saeserve_cache_hits_total{tier="local"} 4
saeserve_cache_misses_total{tier="local"} 9
saeserve_cache_hits_total{tier="inner"} 2
saeserve_queue_duration_seconds_bucket{le="0.1"} 90
saeserve_queue_duration_seconds_bucket{le="1.0"} 100
saeserve_queue_duration_seconds_bucket{le="+Inf"} 100
"""


def test_what_the_server_counted_between_two_pages() -> None:
    grown = Growth(parse(BEFORE), parse(AFTER))
    assert grown.average("batch_size") == 8
    assert grown.by("cache_hits_total", "tier") == {"local": 3, "inner": 2}
    assert (grown.bound("queue_duration_seconds", 50), grown.bound("queue_duration_seconds", 99)) == (0.1, 1.0)
    rows = dict(describe(grown))
    assert rows["requests in a batch, mean"] == "8.00"
    assert rows["cache local: hits of look-ups"] == "3 of 12"


def test_what_was_not_counted_is_no_error() -> None:
    assert dict(describe(Growth({}, {})))["queue wait, mean ms"] == "–"


RECORDS = [
    Record("Search", 0.0, 0.1, "OK", "local"),
    Record("Search", 0.0, 0.3, "OK", "none"),
    Record("Search", 0.0, 0.2, "RESOURCE_EXHAUSTED OVERLOADED", "", 0.5),
    Record("Encode", 0.0, 0.2, "RESOURCE_EXHAUSTED"),
    Record("Encode", 0.0, 0.2, "UNAVAILABLE DRAINING"),
]


def test_refusals_are_no_failures_and_failures_no_refusals() -> None:
    assert [(r.answered, r.refused, r.failed) for r in RECORDS] == [
        (True, False, False),
        (True, False, False),
        (False, True, False),
        (False, False, True),  # without a reason it is gRPC's own: a message too large
        (False, False, True),
    ]
    assert faults(RECORDS) == ["1 of Encode failed: RESOURCE_EXHAUSTED", "1 of Encode failed: UNAVAILABLE DRAINING"]


def test_the_tables_of_calls() -> None:
    lines = by_kind(RECORDS, 2.0).splitlines()
    assert [cell.strip() for cell in lines[-1].split("|")[1:6]] == ["all", "2", "2", "1", "1.0"]
    assert [line.split("|")[1].strip() for line in by_tier(RECORDS).splitlines()[2:]] == ["none", "local"]


def test_records_survive_their_file(tmp_path) -> None:
    write(RECORDS, tmp_path / "records")
    assert read(tmp_path / "records") == RECORDS
