"""What the server counts and times, for Prometheus. Names begin with `saeserve_`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = (16, 64, 256, 1024, 4096, 16384)


class Metrics:
    """The metrics of one server, in a registry of their own so that two servers can share a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._calls = Counter(
            "saeserve_calls_total", "Calls answered, by method and status", ["method", "code"], registry=self.registry
        )
        self._call_seconds = Histogram(
            "saeserve_call_seconds", "Time to answer a call", ["method"], buckets=SECONDS, registry=self.registry
        )
        self.in_flight = Gauge("saeserve_calls_in_flight", "Calls being answered", registry=self.registry)
        self.queue_length = Gauge("saeserve_queue_length", "Items waiting for the engine", registry=self.registry)
        self.queue_seconds = Histogram(
            "saeserve_queue_seconds", "Time an item waits for its batch", buckets=SECONDS, registry=self.registry
        )
        self._batch_items = Histogram("saeserve_batch_items", "Items in a batch", buckets=SIZES, registry=self.registry)
        self._batch_tokens = Histogram(
            "saeserve_batch_tokens", "Tokens of a batch's items", buckets=TOKENS, registry=self.registry
        )
        self._stage_seconds = Histogram(
            "saeserve_stage_seconds", "Time of a batch's stages", ["stage"], buckets=SECONDS, registry=self.registry
        )
        self.ready = Gauge("saeserve_ready", "1 while calls are answered", registry=self.registry)
        self.worker_restarts = Counter(
            "saeserve_worker_restarts_total", "Workers started again after a death", registry=self.registry
        )

    def call(self, method: str, code: str, seconds: float) -> None:
        """A call has been answered with a status code."""
        self._calls.labels(method, code).inc()
        self._call_seconds.labels(method).observe(seconds)

    def batch(self, items: int, tokens: int, forward_seconds: float, encode_seconds: float) -> None:
        """A batch has been computed."""
        self._batch_items.observe(items)
        self._batch_tokens.observe(tokens)
        self._stage_seconds.labels("forward").observe(forward_seconds)
        self._stage_seconds.labels("encode").observe(encode_seconds)

    def serve(self, address: str) -> int:
        """Serves the metrics over HTTP on HOST:PORT in a thread; returns the bound port."""
        host, _, port = address.rpartition(":")
        server, _ = start_http_server(int(port), addr=host.strip("[]"), registry=self.registry)
        return int(server.server_port)
