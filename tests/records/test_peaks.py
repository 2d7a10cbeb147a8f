"""Top tokens go by count, then by maximum, then by id."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from saeserve_server.records.peaks import count_peaks


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30), st.integers(1, 3)), max_size=200))
def test_counts_equal_the_plain_count(records):
    columns = np.array(sorted(records), dtype=np.int64).reshape(-1, 3)
    offsets, top = count_peaks(columns[:, 0], columns[:, 1].astype(np.uint32), columns[:, 2].astype(np.float32), 5)
    for feature in range(5):
        peaks: dict[int, list[int]] = {}
        for owner, token, value in records:
            if owner == feature:
                peaks.setdefault(token, []).append(value)
        wanted = sorted(((len(values), max(values), -token) for token, values in peaks.items()), reverse=True)[:20]
        found = top[offsets[feature] : offsets[feature + 1]]
        assert [(one["count"], one["maximum"], -int(one["id"])) for one in found] == wanted
