"""Runs the server: listens at once, answers health while the model loads, drains and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1.feature_service_pb2_grpc import add_FeatureServiceServicer_to_server
from saeserve_server.api.interceptor import CallInterceptor
from saeserve_server.api.listen import obstacle
from saeserve_server.api.rpc import watch_rpcs
from saeserve_server.api.security import credentials_of, token_of, warn_of_exposure
from saeserve_server.api.servicer import FeatureServicer
from saeserve_server.api.turns import Turns
from saeserve_server.api.watch_port import WatchPort
from saeserve_server.cache.answers import make_answer_cache
from saeserve_server.catalog import Catalog
from saeserve_server.config import Config
from saeserve_server.engine.process import ProcessEngine
from saeserve_server.engine.work import Kernels, Ready
from saeserve_server.errors import ConfigError
from saeserve_server.metrics import Metrics
from saeserve_server.records.imported.store import ImportedStore, open_imported
from saeserve_server.records.store import RecordStore
from saeserve_server.scheduler.cost import CostModel
from saeserve_server.scheduler.desk import Desk
from saeserve_server.scheduler.held import Held
from saeserve_server.scheduler.queue import WorkQueue
from saeserve_server.scheduler.scheduler import Scheduler
from saeserve_server.serving.limits import MAX_RECEIVED_BYTES, make_limits, request_limits
from saeserve_server.serving.serving import Serving

log = logging.getLogger(__name__)

SERVICE = service.DESCRIPTOR.services_by_name["FeatureService"].full_name
REFUSING_SECONDS = 0.5
"""How long calls that still arrive at the end of a drain are told to go elsewhere."""
LAST_SECONDS = 0.1
"""How often it is looked whether calls have ended."""
LIVENESS = "saeserve.liveness"
"""SERVING while the event loop runs, also while draining: readiness and liveness are two things."""

KEEPALIVE = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
)
"""Clients may ping every 10 s; a client that pings more often is not disconnected for it."""


class FeatureServer:
    """The gRPC server, its worker, and their states."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._metrics = Metrics()
        self._servicer = FeatureServicer()
        self._desk = Desk(config.front_seconds, config.max_calls, self._metrics)
        self._held = Held(config.answer_bytes, self._metrics)
        self._interceptor = CallInterceptor(
            self._metrics,
            self._desk,
            self._held,
            token=token_of(config),
            requests={name: (_request_of(name), size) for name, size in request_limits(config).items()},
            max_calls=config.max_calls,
            max_streams=config.max_streams,
            stall_timeout=config.stall_timeout,
            log_texts=config.log_texts,
        )
        self._health = health.aio.HealthServicer()
        self._draining = asyncio.Event()
        self._leaving = False
        self._ready = False
        self._watchers = WatchPort(self._metrics.registry, lambda: self._ready)
        self._engine = ProcessEngine(config, self._on_state, self._on_kernels)
        self._answers = make_answer_cache(config, self._metrics)
        self._scheduler: Scheduler | None = None
        self._pending: set[asyncio.Task[None]] = set()
        self._turns: Turns | None = None
        self._server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=[
                *KEEPALIVE,
                ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
                ("grpc.max_concurrent_streams", config.max_concurrent_streams),
                # Else streams that have ended count until Python has let go of them, and honest callers are refused.
                ("grpc.http.overload_protection", 0),
                ("grpc.max_send_message_length", config.max_answer_bytes + 1024 * 1024),
                ("grpc.so_reuseport", 0),
                ("grpc.max_allowed_incoming_connections", config.max_connections),
                ("grpc.server_handshake_timeout_ms", 20_000),
                ("grpc.server.max_pending_requests", 100_000),
                ("grpc.server.max_pending_requests_hard_limit", 100_000),
            ],
        )
        add_FeatureServiceServicer_to_server(self._servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self.address = ""

    async def start(self, listening: Callable[[str], None]) -> None:
        """Listens, says where, then loads; returns once calls are answered. Raises ConfigError."""
        watch_rpcs(asyncio.get_running_loop())
        self._turns = Turns(self._metrics)
        await self._set_ready(False)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        self.address = self._listen()
        await self._server.start()
        if self._config.metrics_bind != "none":
            await self._listen_for_watchers()
        listening(self.address)
        log.info("listening on %s, loading %s", self.address, self._config.model)
        await self._engine.start()
        gc.collect()
        # What is loaded stays: later collections, which hold up every call, need not look at it. Nor would they ever
        # free it: whatever is replaced in the life of a server is closed by who replaces it.
        gc.freeze()
        log.info("ready")

    async def stop(self, hurry: asyncio.Event) -> None:
        """Drains, then stops: not ready at once, accepting for `drain_delay`, then `grace` for what was accepted.

        Once `hurry` is set nothing is waited for any more: calls are cancelled, the worker is killed.
        """
        self._leaving = True
        await self._set_ready(False)
        if self._servicer.serving is not None:
            log.info("draining")
            await _first(hurry.wait(), asyncio.sleep(self._config.drain_delay))
        self._draining.set()
        self._interceptor.drain()
        # gRPC cancels what arrives while it stops, and no caller retries that: for a moment calls are refused by us.
        await _first(hurry.wait(), asyncio.sleep(min(REFUSING_SECONDS, self._config.grace)))
        # Calls are waited for, connections are not: one on which nobody has said a word would hold up the end.
        await _first(hurry.wait(), self._calls_ended(), self._server.stop(self._config.grace))
        await self._server.stop(None)
        if self._scheduler is not None:
            await self._scheduler.stop()
        self._desk.close()
        await _first(hurry.wait(), self._engine.stop())
        await self._engine.stop(0.0)
        await _first(hurry.wait(), self._answers.close())
        self._watchers.close()
        if self._turns is not None:
            self._turns.close()
        log.info("stopped")

    def _listen(self) -> str:
        bind = self._config.bind
        credentials = credentials_of(self._config)
        warn_of_exposure(self._config)
        try:
            if credentials is None:
                port = self._server.add_insecure_port(bind)
            else:
                port = self._server.add_secure_port(bind, credentials)
        except RuntimeError as error:
            raise ConfigError(f"bind: {bind} cannot be listened on: {obstacle(bind) or error}") from error
        return bind if bind.startswith("unix:") else f"{bind.rpartition(':')[0]}:{port}"

    async def _calls_ended(self) -> None:
        """Returns once every call has ended and its last bytes have had a moment to leave."""
        while not self._interceptor.is_idle:  # noqa: ASYNC110 (it happens once)
            await asyncio.sleep(LAST_SECONDS)
        await asyncio.sleep(LAST_SECONDS)

    async def _listen_for_watchers(self) -> None:
        try:
            port = await self._watchers.listen(self._config.metrics_bind)
        except OSError as error:
            raise ConfigError(
                f"metrics_bind: {self._config.metrics_bind} cannot be listened on: {error.strerror}; "
                "give another address, or none"
            ) from error
        log.info("metrics on %s:%d", self._config.metrics_bind.rpartition(":")[0], port)

    def _on_state(self, ready: Ready | None) -> None:
        if ready is not None:
            self._serve(ready)
        if not self._leaving:
            task = asyncio.ensure_future(self._set_ready(ready is not None))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    def _serve(self, ready: Ready) -> None:
        """Serves with the worker that is up; one that was started anew serves the same, and nothing is replaced."""
        before = self._servicer.serving
        if before is not None:
            self._metrics.worker_restarts.inc()
        index = open_index(ready.index, ready.catalog)
        imported = open_imported(self._config.imports, ready.catalog)
        if ready.passing and ready.index is not None:
            shutil.rmtree(ready.index.parent, ignore_errors=True)
        if before is None:
            if ready.imported != (imported.revision if imported else ""):
                raise ConfigError(f"{self._config.imports}: was changed while the server started: start it again")
            self._servicer.serving = self._make_serving(ready, index, imported)
        else:
            if imported is not None:
                imported.close()
            known = _revisions(before.catalog, before.index, before.imported)
            if known != _revisions(ready.catalog, index, imported) or known[-1] != ready.imported:
                raise ConfigError(
                    "the files of model, sources, index or imported records have changed: the server must be started "
                    "anew"
                )
        self._on_kernels(Kernels(ready.kernels, 0))

    def _on_kernels(self, kernels: Kernels) -> None:
        if self._servicer.serving is not None:
            self._servicer.serving.computed_by(kernels.names)
        self._metrics.kernels(kernels.names, kernels.fallbacks)

    def _make_serving(self, ready: Ready, index: RecordStore | None, imported: ImportedStore | None) -> Serving:
        catalog = ready.catalog
        limits = make_limits(self._config, catalog, ready.capacity)
        if self._scheduler is None:
            queue = WorkQueue(limits.batch_tokens, limits.max_batch)
            self._scheduler = Scheduler(self._engine, CostModel(catalog), queue, limits.budget, self._metrics)
            self._scheduler.start()
        return Serving(
            self._config,
            catalog,
            self._scheduler,
            self._desk,
            self._held,
            self._answers,
            index,
            self._metrics,
            self._draining,
            ready.capacity,
            imported,
        )

    async def _set_ready(self, ready: bool) -> None:
        self._ready = ready
        self._metrics.ready.set(ready)
        state = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, state)


def open_index(folder: Path | None, catalog: Catalog) -> RecordStore | None:
    """The index of that folder, checked against what is served. Raises ConfigError."""
    if folder is None:
        return None
    index = RecordStore.open(folder)
    index.check(catalog)
    return index


def _revisions(
    catalog: Catalog, index: RecordStore | None, imported: ImportedStore | None
) -> tuple[str, list[tuple[str, str]], str, str]:
    """What answers follow from."""
    sources = [(source.id, source.revision) for source in catalog.sources]
    return (
        catalog.model.revision,
        sources,
        index.revision if index else "",
        imported.revision if imported else "",
    )


def _request_of(method: str) -> type[Message]:
    """The class of a method's requests."""
    name = service.DESCRIPTOR.services_by_name["FeatureService"].methods_by_name[method].input_type.name
    request: type[Message] = getattr(service, name)
    return request


async def _first(*works: Coroutine[Any, Any, object]) -> None:
    """Waits until one of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
