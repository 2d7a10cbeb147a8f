"""The server's own numbers: its Prometheus page before and after, and what happened between."""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from loadtests.percentiles import digits, milliseconds

Sample: TypeAlias = tuple[str, frozenset[tuple[str, str]]]
Page: TypeAlias = Mapping[Sample, float]
"""Samples, by name and labels."""


def read_page(address: str) -> Page:
    """What the server at HOST:PORT counts."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        return parse(answer.read().decode())


def parse(text: str) -> Page:
    """The samples of a page."""
    return {
        (sample.name.removeprefix("saeserve_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@dataclass(frozen=True, slots=True)
class Growth:
    """What was counted between two pages."""

    before: Page
    after: Page

    def count(self, name: str, **labels: str) -> float:
        """By how much the samples of this name with these labels grew together."""
        return math.fsum(grown for found, grown in self._grown(name) if labels.items() <= found.items())

    def by(self, name: str, label: str) -> dict[str, float]:
        """By how much they grew, for each value of a label; those that did not are left out."""
        found: dict[str, float] = {}
        for labels, grown in self._grown(name):
            if grown and label in labels:
                found[labels[label]] = found.get(labels[label], 0.0) + grown
        return found

    def average(self, histogram: str, **labels: str) -> float:
        """Mean of what a histogram observed; NaN if it observed nothing."""
        observed = self.count(f"{histogram}_count", **labels)
        return self.count(f"{histogram}_sum", **labels) / observed if observed else math.nan

    def bound(self, histogram: str, percent: float) -> float:
        """The bucket's bound that so many percent of what was observed did not exceed; NaN if nothing was observed."""
        buckets = sorted((float(labels["le"]), grown) for labels, grown in self._grown(f"{histogram}_bucket"))
        total = buckets[-1][1] if buckets else 0.0
        return next((le for le, count in buckets if total and count >= total * percent / 100), math.nan)

    def _grown(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        for (sample, labels), value in self.after.items():
            if sample == name:
                yield dict(labels), value - self.before.get((sample, labels), 0.0)


def describe(grown: Growth) -> list[tuple[str, str]]:
    """What the server did, as rows of a table."""
    passes, tokens = grown.count("forward_passes_total"), grown.count("forward_tokens_total")
    rows = [
        ("batches", f"{grown.count('batch_size_count'):,.0f}"),
        ("requests in a batch, mean", digits(grown.average("batch_size"))),
        ("forward passes (texts)", f"{passes:,.0f}"),
        ("tokens run", f"{tokens:,.0f}"),
        ("encodes (texts × sources)", f"{grown.count('encodes_total'):,.0f}"),
        ("forward of a batch, mean ms", milliseconds(grown.average("stage_duration_seconds", stage="forward"))),
        ("encode of a batch, mean ms", milliseconds(grown.average("stage_duration_seconds", stage="encode"))),
        ("batches that waited for callers", f"{grown.count('gather_duration_seconds_count'):,.0f}"),
        ("their wait, mean ms", milliseconds(grown.average("gather_duration_seconds"))),
        ("handover between batches, mean ms", milliseconds(grown.average("handover_duration_seconds"))),
        ("queue wait, mean ms", milliseconds(grown.average("queue_duration_seconds"))),
        ("queue wait, 99% within ms", milliseconds(grown.bound("queue_duration_seconds", 99))),
        ("joined an identical request", f"{grown.count('cache_joined_total'):,.0f}"),
        ("dropped, nobody waited", f"{grown.count('abandoned_total'):,.0f}"),
    ]
    hits, misses = grown.by("cache_hits_total", "tier"), grown.by("cache_misses_total", "tier")
    for tier in sorted(hits.keys() | misses.keys()):
        asked = hits.get(tier, 0) + misses.get(tier, 0)
        rows.append((f"cache {tier}: hits of look-ups", f"{hits.get(tier, 0):,.0f} of {asked:,.0f}"))
    for kind, count in sorted(grown.by("shared_cache_faults_total", "kind").items()):
        rows.append((f"shared cache faults: {kind}", f"{count:,.0f}"))
    for code, count in sorted(grown.by("requests_total", "code").items()):
        rows.append((f"calls answered {code}", f"{count:,.0f}"))
    return rows
