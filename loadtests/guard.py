"""Whether a closed loop drove what it says it drove.

Callers who wait for their answers make users / (latency + pause) calls a second, whatever the server does. A rate far
below that says that the load generator stood still: without gRPC's gevent support each call blocks all users, latencies
look fine, and the rate is that of one user.
"""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.percentiles import mean
from loadtests.records import Record

SLACK = 4.0
"""By how much the rate may miss what users and latency make; the generator's own work between calls takes some."""


def expected_rate(users: int, records: Sequence[Record], think: float = 0.0) -> float:
    """Calls a second that so many callers make who wait so long for each, and then pause."""
    return users / (mean(record.seconds + record.waited for record in records) + think)


def complaint(users: int, records: Sequence[Record], seconds: float, think: float = 0.0) -> str | None:
    """What is wrong with the load, or nothing. Fewer users than the slack cannot be judged."""
    if not records:
        return "no call was made"
    made, expected = len(records) / seconds, expected_rate(users, records, think)
    if made * SLACK >= expected or users <= SLACK:
        return None
    return (
        f"{users} users made {made:.1f} calls a second where their latency makes {expected:.1f}: the load generator "
        "stood still between calls, so these numbers say nothing about the server (gRPC without init_gevent?)"
    )
