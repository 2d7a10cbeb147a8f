"""The tier of kept rows: what it gives, what it drops, and what it says it takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from saeserve_server.cache.inner import InnerTier
from saeserve_server.metrics import Metrics
from saeserve_server.ranking.work import Aggregate, EncodeWork, Projection, Ranking, SearchWork, SourceFilter
from saeserve_server.rows import Csr, KeptRows, SourceRows

TEXT = (11, 12, 13)


def encode(ids: tuple[int, ...] = TEXT, *sources: int, **changes: Any) -> EncodeWork:
    values: dict[str, Any] = {"ids": ids, "bos_row": False, "sources": sources or (0, 1)}
    return EncodeWork(**(values | changes))


def neurons(rows: int, width: int = 4) -> np.ndarray:
    """Row by row, numbered from the last."""
    return np.arange(rows, 0, -1, dtype=np.float32)[:, None] * np.ones(width, dtype=np.float32)


def latents(rows: int) -> Csr:
    """As many in a row as rows follow it."""
    counts = np.arange(rows)[::-1]
    indices = np.concatenate([np.arange(count) for count in counts]).astype(np.uint32)
    return Csr(np.concatenate([[0], np.cumsum(counts)]), indices, indices.astype(np.float32) + 1, 8)


def kept(rows: int) -> KeptRows:
    return {0: latents(rows), 1: neurons(rows)}


def sample(metrics: Metrics, name: str) -> float:
    value = metrics.registry.get_sample_value(f"saeserve_{name}", {"tier": "inner"})
    assert value is not None
    return value


def test_it_gives_what_it_was_given() -> None:
    metrics = Metrics()
    tier = InnerTier(10**6, metrics)
    assert tier.get(encode()) is None
    tier.put(encode(), kept(3))
    found = tier.get(encode())
    assert found is not None
    assert found[1].tolist() == neurons(3).tolist()
    assert (sample(metrics, "cache_hits_total"), sample(metrics, "cache_misses_total")) == (1, 1)
    assert sample(metrics, "cache_bytes") == tier.bytes > 0


def test_it_gives_only_what_a_request_needs_and_all_of_it() -> None:
    tier = InnerTier(10**6, Metrics())
    tier.put(encode(), kept(3))
    assert tier.get(encode(TEXT, 0)).keys() == {0}
    assert tier.get(encode(TEXT, 0, 2)) is None
    assert tier.get(encode(sources=(), features=((1, 5), (0, 2), (1, 0)))).keys() == {0, 1}
    filters = (SourceFilter(0, only=()), SourceFilter(1))
    assert tier.get(SearchWork(TEXT, False, filters, Aggregate.SUM, (1,), 25, Ranking.RAW)).keys() == {0, 1}
    assert tier.get(encode((11, 12))) is None


def test_projections_are_never_at_hand_for_what_is_kept_is_what_sources_gave() -> None:
    tier = InnerTier(10**6, Metrics())
    tier.put(encode(), kept(3))
    on = (Projection("hook", bytes(16), b"d"),)
    for asked in (encode(sources=(), projections=on), encode(sources=(), features=((0, 2),), projections=on)):
        assert asked not in tier
        assert tier.get(asked) is None


def test_sources_of_a_text_come_together() -> None:
    tier = InnerTier(10**6, Metrics())
    tier.put(encode(TEXT, 0), {0: latents(3)})
    tier.put(encode(TEXT, 1), {1: neurons(3)})
    assert tier.get(encode()).keys() == {0, 1}
    assert len(tier) == 1


def height(rows: SourceRows) -> int:
    return len(rows.indptr) - 1 if isinstance(rows, Csr) else len(rows)


def test_rows_led_by_a_bos_serve_requests_without_it_and_not_the_other_way() -> None:
    tier = InnerTier(10**6, Metrics())
    tier.put(encode(), kept(3))
    assert tier.get(encode(bos_row=True)) is None
    tier.put(encode(bos_row=True), kept(4))
    tier.put(encode(), kept(3))  # fewer rows do not take the place of more
    assert [height(rows) for rows in tier.get(encode(bos_row=True)).values()] == [4, 4]
    found = tier.get(encode())
    assert found[1].tolist() == neurons(3).tolist()
    for name in ("indptr", "indices", "data", "columns"):
        assert np.array_equal(getattr(found[0], name), getattr(latents(3), name))


def test_a_text_that_is_only_a_bos_has_no_rows_without_it() -> None:
    tier = InnerTier(10**6, Metrics())
    tier.put(encode((), bos_row=True), kept(1))
    assert [height(rows) for rows in tier.get(encode(())).values()] == [0, 0]


def text(number: int) -> tuple[int, ...]:
    return (number, 12, 13)


def test_the_text_unused_for_longest_goes_first_and_the_bound_holds() -> None:
    metrics = Metrics()
    tier = InnerTier(10**6, metrics)
    tier.put(encode(), kept(3))
    size = tier.bytes
    tier = InnerTier(5 * size, metrics)
    for number in range(5):
        tier.put(encode(text(number)), kept(3))
    assert tier.get(encode(text(0))) is not None  # used again
    tier.put(encode(text(5)), kept(3))
    assert tier.bytes == 5 * size == sample(metrics, "cache_bytes")
    assert tier.get(encode(text(0))) is not None
    assert tier.get(encode(text(1))) is None
    for number in range(6, 100):
        tier.put(encode(text(number)), kept(3))
        assert tier.bytes <= 5 * size
    assert len(tier) == 5


def test_what_it_says_it_takes_covers_the_arrays() -> None:
    tier = InnerTier(10**8, Metrics())
    tier.put(encode(), {0: latents(3), 1: neurons(3, 10**5)})
    assert 12 * 10**5 < tier.bytes < 13 * 10**5
    tier.put(encode(bos_row=True), {1: neurons(4, 10**5)})  # takes the place of the three rows
    assert 16 * 10**5 < tier.bytes < 17 * 10**5


def test_a_text_too_large_is_not_kept_and_drives_out_nobody() -> None:
    tier = InnerTier(10**5, Metrics())
    tier.put(encode(), kept(3))
    tier.put(encode(text(1)), {1: neurons(3, 3000)})
    tier.put(encode(), {2: neurons(3, 3000)})
    assert tier.get(encode(text(1), 1)) is None
    assert tier.get(encode(TEXT, 2)) is None
    assert tier.get(encode()) is not None


def test_a_view_does_not_keep_what_it_is_a_part_of() -> None:
    tier = InnerTier(10**6, Metrics())
    whole = neurons(1000)
    tier.put(encode(TEXT, 1), {1: whole[-3:]})
    rows = tier.get(encode(TEXT, 1))[1]
    assert not np.shares_memory(rows, whole)
    assert rows.tolist() == neurons(3).tolist()


def test_without_capacity_nothing_is_kept() -> None:
    tier = InnerTier(0, Metrics())
    tier.put(encode(), kept(3))
    assert tier.get(encode()) is None
    assert (len(tier), tier.bytes) == (0, 0)
