"""The tier in memory: least recently used goes first, never more bytes than given, nothing that is too large."""

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeserve_server.cache.bounded import LARGEST_SHARE
from saeserve_server.cache.local import ENTRY_OVERHEAD, LocalTier
from saeserve_server.metrics import Metrics


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def sample(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(f"saeserve_{name}", {"tier": "local"}) or 0.0


def test_what_was_put_is_found() -> None:
    metrics = Metrics()
    tier = LocalTier(2**20, metrics)
    assert tier.get(key(1)) is None
    tier.put(key(1), b"one")
    tier.put(key(2), b"")
    assert (tier.get(key(1)), tier.get(key(2)), tier.get(key(3))) == (b"one", b"", None)
    assert (sample(metrics, "cache_hits_total"), sample(metrics, "cache_misses_total")) == (2, 2)
    assert sample(metrics, "cache_bytes") == tier.size == 3 + 2 * ENTRY_OVERHEAD


def test_the_newer_payload_replaces_the_older() -> None:
    tier = LocalTier(2**20, Metrics())
    tier.put(key(1), b"a" * 100)
    tier.put(key(1), b"b")
    assert tier.get(key(1)) == b"b"
    assert (len(tier), tier.size) == (1, 1 + ENTRY_OVERHEAD)


def test_least_recently_used_goes_first() -> None:
    tier = LocalTier(10 * (ENTRY_OVERHEAD + 10), Metrics())
    for number in range(10):
        tier.put(key(number), bytes(10))
    assert tier.get(key(0)) is not None
    tier.put(key(10), bytes(10))
    assert tier.get(key(1)) is None
    assert all(tier.get(key(number)) is not None for number in (0, *range(2, 11)))


@pytest.mark.parametrize(("excess", "kept"), [(0, True), (1, False)])
def test_an_entry_takes_an_eighth_at_most(excess: int, kept: bool) -> None:
    capacity = 64 * 1024
    tier = LocalTier(capacity, Metrics())
    payload = bytes(capacity // LARGEST_SHARE - ENTRY_OVERHEAD + excess)
    tier.put(key(1), payload)
    assert (tier.get(key(1)) is not None) == kept
    tier.put(key(2), b"")
    tier.put(key(2), payload)
    assert tier.get(key(2)) == (payload if kept else None), "never an outdated payload"


def test_without_capacity_nothing_is_kept_or_counted() -> None:
    metrics = Metrics()
    tier = LocalTier(0, metrics)
    tier.put(key(1), b"")
    assert tier.get(key(1)) is None
    assert (len(tier), tier.size) == (0, 0)
    assert sample(metrics, "cache_hits_total") == sample(metrics, "cache_misses_total") == 0


steps = st.lists(st.tuples(st.booleans(), st.integers(0, 15), st.integers(0, 1000)), max_size=60)


@given(st.integers(0, 12_000), steps)
def test_it_does_what_a_plain_list_does(capacity: int, story: list[tuple[bool, int, int]]) -> None:
    tier = LocalTier(capacity, Metrics())
    plain: OrderedDict[int, bytes] = OrderedDict()

    def held() -> int:
        return sum(len(payload) + ENTRY_OVERHEAD for payload in plain.values())

    for step, (put, number, size) in enumerate(story):
        if put:
            payload = bytes([step % 256]) * size
            tier.put(key(number), payload)
            plain.pop(number, None)
            if (size + ENTRY_OVERHEAD) * LARGEST_SHARE <= capacity:
                plain[number] = payload
            while held() > capacity:
                plain.popitem(last=False)
        else:
            assert tier.get(key(number)) == plain.get(number)
            if number in plain:
                plain.move_to_end(number)
        assert tier.size == held() <= capacity
        assert len(tier) == len(plain)
