"""What the server counts and times, for Prometheus. Names begin with `saeserve_`; docs/metrics.md lists them."""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Mapping
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TURNS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = (16, 64, 256, 1024, 4096, 16384)


class SharedFault(StrEnum):
    """Why Redis was of no use to a look-up or a write."""

    TIMEOUT = "timeout"
    ERROR = "error"
    """It could not be reached, or refused the command."""
    INVALID = "invalid"
    """What it held is not ours: another version, another question's, damaged, no answer to what was asked."""
    UNSIGNED = "unsigned"
    """What it held is not signed with a key of ours; or is signed, and this server has no key."""
    OPEN = "open"
    """It was not asked, since it failed a moment ago."""
    DROPPED = "dropped"
    """A write was not made, since too many were waiting."""


class Metrics:
    """The metrics of one server, in a registry of their own so that two servers can share a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = self._counter(
            "requests_total", "Calls answered, by method, status code and reason", "method", "code", "reason"
        )
        self._request_seconds = self._histogram("request_duration_seconds", "Time to answer a call", SECONDS, "method")
        self._ends: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self.in_flight = self._gauge("requests_in_flight", "Calls being answered")
        self.streams = self._gauge("streams_in_flight", "EncodeStreams being answered")

        self.queue_size = self._gauge("queue_size", "Texts waiting for the worker")
        self.queue_age = self._gauge("queue_age_seconds", "How long the oldest of them has waited")
        self.queue_load = self._gauge("queue_load_ratio", "Share of the admission budget that is taken, 0 to 1")
        self.queue_seconds = self._histogram("queue_duration_seconds", "Time a text waits for its batch", SECONDS)

        self.loop_turn_seconds = self._histogram(
            "loop_turn_duration_seconds", "Time of a turn of the event loop, of which some are measured", TURNS
        )
        self.front_waiting = self._gauge("front_queue_size", "Pieces of the front end's own work that wait")
        self.front_load = self._gauge("front_load_ratio", "Share of `front_seconds` that is taken, 0 to 1")
        self.front_seconds = self._histogram(
            "front_queue_duration_seconds", "Time a piece of the front end's work waits for its thread", SECONDS
        )
        front_work = self._histogram(
            "front_work_duration_seconds", "Time of a piece of the front end's work, by place", SECONDS, "where"
        )
        self._front_work = {where: front_work.labels(where) for where in ("loop", "quick", "slow")}
        self.answer_bytes = self._gauge("answer_bytes", "Memory of answers that have not left yet")
        self.stalled = self._counter(
            "stalled_total", "Calls ended since their caller did not send or read, by what ended them", "by"
        )

        self._batch_size = self._histogram("batch_size", "Requests in a batch", SIZES)
        self._batch_tokens = self._histogram("batch_tokens", "Tokens of a batch's requests", TOKENS)
        self.gather_seconds = self._histogram(
            "gather_duration_seconds", "Time a batch waits for callers who have just been answered", SECONDS
        )
        self.handover_seconds = self._histogram(
            "handover_duration_seconds", "Time the worker waits between two batches though work is there", SECONDS
        )
        self._stage_seconds = self._histogram(
            "stage_duration_seconds", "Time of a batch's stages in the worker", SECONDS, "stage"
        )
        self._forward_passes = self._counter("forward_passes_total", "Texts run through the model, once for each BOS")
        self._forward_tokens = self._counter("forward_tokens_total", "Tokens run through the model, BOS included")
        self._encodes = self._counter("encodes_total", "Texts encoded, counted once for each source")
        self._encode_tokens = self._counter("encode_tokens_total", "Tokens encoded, counted once for each source")
        self.abandoned = self._counter(
            "abandoned_total", "Requests dropped since nobody waited for them any more, by where they were", "stage"
        )
        self._batch_splits = self._counter("batch_splits_total", "Failed batches run again as halves")
        self._out_of_memory = self._counter("out_of_memory_total", "Batches that ran out of memory")

        self.cache_hits = self._counter("cache_hits_total", "Look-ups answered, by tier", "tier")
        self.cache_misses = self._counter("cache_misses_total", "Look-ups not answered, by tier", "tier")
        self.cache_bytes = self._gauge("cache_bytes", "Memory that a tier takes", "tier")
        self.cache_joined = self._counter(
            "cache_joined_total", "Requests that waited for the answer to an identical one in progress"
        )
        self._shared_faults = self._counter(
            "shared_cache_faults_total", "Look-ups and writes for which Redis was of no use", "kind"
        )
        self.shared_open = self._gauge("shared_cache_open", "1 while Redis is left alone since it failed")
        for fault in SharedFault:
            self._shared_faults.labels(fault.value)

        self.ready = self._gauge("ready", "1 while calls are answered")
        self.worker_restarts = self._counter("worker_restarts_total", "Workers started again after a death")
        self._worker_memory = self._gauge("worker_memory_bytes", "Resident memory of the worker, by kind", "kind")
        self._device_memory = self._gauge("worker_device_memory_bytes", "GPU memory of the worker, by kind", "kind")

        self._kernels = self._gauge("sources_by_kernel", "SAEs whose latents are computed by that kernel", "kernel")
        self.kernel_fallbacks = self._gauge(
            "kernel_fallbacks", "SAEs for which screening was given up: more was left than pays"
        )

    def kernels(self, names: Mapping[str, str], fallbacks: int) -> None:
        """Sources, by id, are computed by these kernels from now on."""
        self._kernels.clear()
        for kernel, count in Counted(names.values()).items():
            self._kernels.labels(kernel).set(count)
        self.kernel_fallbacks.set(fallbacks)

    def request(self, method: str, code: str, reason: str, seconds: float) -> None:
        """A call has been answered with a status code, and a reason unless it is OK or gRPC's own."""
        end = self._ends.get((method, code, reason))
        if end is None:  # to look labels up costs as much as to count
            end = self._requests.labels(method, code, reason), self._request_seconds.labels(method)
            self._ends[method, code, reason] = end
        end[0].inc()
        end[1].observe(seconds)

    def front_work(self, where: str, seconds: float) -> None:
        """The front end has done a piece of work."""
        self._front_work[where].observe(seconds)

    def batch(self, items: int, tokens: int, forward_seconds: float, encode_seconds: float) -> None:
        """A batch has been computed."""
        self._batch_size.observe(items)
        self._batch_tokens.observe(tokens)
        self._stage_seconds.labels("forward").observe(forward_seconds)
        self._stage_seconds.labels("encode").observe(encode_seconds)

    def work(self, forward_passes: int, forward_tokens: int, encodes: int, encode_tokens: int) -> None:
        """What the model and the sources have run."""
        self._forward_passes.inc(forward_passes)
        self._forward_tokens.inc(forward_tokens)
        self._encodes.inc(encodes)
        self._encode_tokens.inc(encode_tokens)

    def worker_memory(self, private: int, mapped: int) -> None:
        """Memory that the worker has for itself, and pages of files that it has mapped."""
        self._worker_memory.labels("private").set(private)
        self._worker_memory.labels("mapped").set(mapped)

    def device_memory(self, peak: int, reserved: int) -> None:
        """GPU memory that a batch took at its peak, weights included, and that was held after it. A CPU has none."""
        if reserved:
            self._device_memory.labels("peak").set(peak)
            self._device_memory.labels("reserved").set(reserved)

    def recovered(self, splits: int, out_of_memory: int) -> None:
        """What it took to answer a batch that failed."""
        self._batch_splits.inc(splits)
        self._out_of_memory.inc(out_of_memory)

    def shared_fault(self, fault: SharedFault) -> None:
        """Redis was of no use."""
        self._shared_faults.labels(fault.value).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"saeserve_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"saeserve_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"saeserve_{name}", text, labels, buckets=buckets, registry=self.registry)
