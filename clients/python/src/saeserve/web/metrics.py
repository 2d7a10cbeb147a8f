"""What a gateway counts and times, for Prometheus. Names begin with `saeserve_web_`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.paths: set[str] = set()
        """Those that are counted by name. All others are files of the page, or `other`."""
        self._requests = Counter(
            "saeserve_web_requests",
            "Requests answered, by path and HTTP status",
            ["path", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "saeserve_web_request_duration_seconds",
            "Time until an answer has left, by path",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = self._gauge("requests_in_flight", "Calls being answered")
        self.streams = self._gauge("streams_in_flight", "Of these, EncodeStreams")
        self.connections = self._gauge("connections", "Connections that are open")
        self.refused = Counter(
            "saeserve_web_connections_refused",
            "Connections that were closed unanswered, by why",
            ["why"],
            registry=self.registry,
        )
        self._ends: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request has been answered; 499: its caller was gone."""
        if path not in self.paths:
            path = "page" if status in (200, 304) else "other"
        end = self._ends.get((path, status))
        if end is None:  # to look labels up costs as much as to count
            end = self._requests.labels(path, str(status)), self._seconds.labels(path)
            self._ends[path, status] = end
        end[0].inc()
        end[1].observe(seconds)

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(f"saeserve_web_{name}", what, registry=self.registry)
