"""Tables of what became of calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from loadtests.percentiles import milliseconds, percentile
from loadtests.records import Record
from loadtests.table import table

TIERS = ("none", "local", "shared", "inner", "")
SHARES = (50, 95, 99)


def by_kind(records: Sequence[Record], seconds: float) -> str:
    """For each kind of question: how many, how fast. Times are those of answers."""
    kinds = sorted({record.kind for record in records})
    rows = [_kind(kind, [record for record in records if record.kind == kind], seconds) for kind in kinds]
    return table(
        ("question", "answers", "failed", "refused", "answers/s", "p50 ms", "p95 ms", "p99 ms"),
        [*rows, _kind("all", records, seconds)],
    )


def _kind(name: str, records: Sequence[Record], seconds: float) -> tuple[object, ...]:
    times = [record.seconds for record in records if record.answered]
    failed, refused = (sum(flags) for flags in zip(*((r.failed, r.refused) for r in records), strict=True))
    shown = [milliseconds(percentile(times, share)) for share in SHARES]
    return name, len(times), failed, refused, f"{len(times) / seconds:.1f}", *shown


def by_tier(records: Sequence[Record]) -> str:
    """Where answers came from, and how long each way took. Answers that are never cached have no tier."""
    rows = []
    answered = [record for record in records if record.answered]
    for tier in (*TIERS, *sorted({record.tier for record in answered} - set(TIERS))):
        times = [record.seconds for record in answered if record.tier == tier]
        if times:
            name = tier or "(not said)"
            shown = [milliseconds(percentile(times, share)) for share in SHARES]
            rows.append((name, len(times), f"{len(times) / len(answered):.1%}", *shown))
    return table(("answered from", "answers", "share", "p50 ms", "p95 ms", "p99 ms"), rows)


def faults(records: Sequence[Record]) -> list[str]:
    """Calls that failed, counted by what they failed with."""
    counts = Counter((record.kind, record.verdict) for record in records if record.failed)
    return [f"{count} of {kind} failed: {verdict}" for (kind, verdict), count in counts.most_common()]


def by_verdict(records: Sequence[Record], seconds: float) -> str:
    """How calls ended, and when."""
    rows = []
    for verdict, count in Counter(record.verdict for record in records).most_common():
        times = [record.seconds for record in records if record.verdict == verdict]
        shown = [milliseconds(percentile(times, share)) for share in SHARES]
        rows.append((verdict, count, f"{count / seconds:.1f}", *shown))
    return table(("ended with", "calls", "calls/s", "p50 ms", "p95 ms", "p99 ms"), rows)
