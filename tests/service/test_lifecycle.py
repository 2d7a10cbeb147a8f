"""How a server starts, stops, loses its worker, and what it says meanwhile."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.inside import served_inside
from tests.service.servers import (
    COMMAND,
    FEW,
    NOT_SERVING,
    PATIENCE,
    SERVING,
    Server,
    children,
    command_line,
    descriptors,
    is_alive,
    server,
    until,
)
from tests.service.wire import (
    SERVICE,
    TIMEOUT,
    Slowly,
    config,
    connect,
    item,
    read_refusal,
    refused,
    stub_of,
    text_input,
)

pytestmark = pytest.mark.slow

RED = service.SearchRequest(input=text_input("My favorite color is red."))
LIVENESS = "saeserve.liveness"
METRICS = {
    "saeserve_requests_total",
    "saeserve_request_duration_seconds",
    "saeserve_requests_in_flight",
    "saeserve_queue_size",
    "saeserve_queue_duration_seconds",
    "saeserve_batch_size",
    "saeserve_batch_tokens",
    "saeserve_stage_duration_seconds",
    "saeserve_ready",
    "saeserve_worker_restarts_total",
}


def long(number: int, texts: int = 64) -> service.EncodeRequest:
    """Work for a while, other work for each number: what is asked twice is computed once."""
    return service.EncodeRequest(
        inputs=[text_input(f"{number}-{n} red blue green " * 50) for n in range(texts)],
        features=[{"source": "0-demo", "index": 1}],
        truncate=True,
        omit_tokens=True,
    )


def search(number: int) -> service.SearchRequest:
    """A search that no other test makes."""
    return service.SearchRequest(input=text_input(f"My {number}th favorite color is red."))


def test_from_loading_to_the_end(tmp_path: Path) -> None:
    """One server's whole life, since each costs seconds to start."""
    with server(tmp_path, ready=False, drain_delay=3, grace=60) as (own, channel, stub):
        # Loading: alive, not ready, and says when to come again.
        assert own.health(channel, LIVENESS) == SERVING
        assert own.health(channel) == own.health(channel, SERVICE) == NOT_SERVING
        for call in (
            lambda: stub.Search(RED, timeout=TIMEOUT),
            lambda: stub.GetServerInfo(service.GetServerInfoRequest(), timeout=TIMEOUT),
            lambda: list(stub.EncodeStream(iter([config(sources=["0-demo"])]), timeout=TIMEOUT)),
        ):
            refusal = refused(call)
            assert (refusal.code, refusal.reason) == (StatusCode.UNAVAILABLE, "LOADING")
            assert refusal.retry_after
            assert refusal.pushback == str(round(refusal.retry_after * 1000))
        assert own.metrics()["saeserve_ready"] == 0

        # Ready.
        own.await_ready(channel)
        assert own.health(channel, SERVICE) == own.health(channel, LIVENESS) == SERVING
        assert len(stub.Search(RED, timeout=TIMEOUT).results) == 25
        metrics = own.metrics()
        assert metrics["saeserve_ready"] == 1
        assert metrics['saeserve_requests_total{code="OK",method="Search",reason=""}'] == 1
        assert metrics['saeserve_requests_total{code="UNAVAILABLE",method="Search",reason="LOADING"}'] == 1
        assert metrics["saeserve_batch_size_count"] == 1
        assert {name for name in METRICS if not any(sample.startswith(name) for sample in metrics)} <= {
            "saeserve_stage_duration_seconds"
        }

        # SIGTERM: not ready at once, accepting for a while, finishing what was accepted.
        with ThreadPoolExecutor(4) as pool:
            stream = Slowly(stub, config(sources=["0-demo"]))
            stream.send(*(item(n, "red") for n in range(40)))
            next(stream.call)
            running = [pool.submit(stub.Encode, long(n), timeout=TIMEOUT) for n in range(4)]
            until(lambda: own.metrics()["saeserve_requests_in_flight"] >= 5, "calls are in flight")
            own.process.send_signal(signal.SIGTERM)
            until(lambda: own.health(channel) == NOT_SERVING, "not ready", 2.5)
            assert own.health(channel, SERVICE) == NOT_SERVING
            assert own.health(channel, LIVENESS) == SERVING
            with connect(own.target, **{"grpc.use_local_subchannel_pool": 1}) as late:  # a new connection, too
                assert len(stub_of(late).Search(RED, timeout=TIMEOUT).results) == 25
            for call in running:
                assert len(call.result().texts) == 64
            answered = []
            with pytest.raises(grpc.RpcError) as caught:
                answered += [answer.sequence for answer in stream.call]
            assert read_refusal(caught.value).reason == "DRAINING"
            stream.close()
        assert own.process.wait(PATIENCE) == 0
        assert not own.port_file.exists()

        # Every line it wrote is an object of JSON.
        lines = own.log()
        assert {"time", "level", "logger", "message"} <= set(lines[0])
        messages = [line["message"] for line in lines]
        assert [word for word in ("ready", "draining", "stopped") if word in messages] == [
            "ready",
            "draining",
            "stopped",
        ]
        refusals = [line for line in lines if line.get("code") == "UNAVAILABLE"]
        assert all({"request_id", "ms", "error"} <= set(line) for line in refusals)
        assert refusals
        assert not [line for line in lines if line["level"] == "error"]


def test_sigterm_while_loading_ends_it_with_status_0(tmp_path: Path) -> None:
    own = Server(tmp_path)
    try:
        own.await_listening()
        time.sleep(1.0)
        assert own.terminate(30.0) == 0
        assert not own.port_file.exists()
        assert all("Traceback" not in str(line) for line in own.log())
    finally:
        own.end()


# One server, three tests: the last ends it


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, grpc.Channel, Any]]:
    """A server with few descriptors, and long patience with calls at its end."""
    with server(tmp_path_factory.mktemp("few"), few_descriptors=True, drain_delay=0, grace=120) as one:
        yield one


def test_a_slow_reader_is_held_back(few: tuple[Server, grpc.Channel, Any]) -> None:
    """No more is encoded than `max_stream_items` and what gRPC's own windows hold; a caller who leaves is counted."""
    own, _, stub = few
    count = 160
    stream = Slowly(stub, config(sources=["0", "1", "2", "3"], truncate=True))
    stream.send(*(item(n, "red blue green " * 70) for n in range(count)))
    stream.close()
    seen = -1.0
    while seen != (now := own.metrics()["saeserve_batch_size_sum"]) or now < 32:
        seen = now
        time.sleep(1.0)
    assert 32 <= seen <= 64
    assert {answer.sequence for answer in stream.call} == set(range(count))
    for _ in range(3):
        stream = Slowly(stub, config(sources=["0", "1", "2", "3"], truncate=True))
        stream.send(*(item(n, "red blue green " * 70) for n in range(100)))
        next(stream.call)
        time.sleep(0.5)
        stream.call.cancel()
        stream.close()
    cancelled = 'saeserve_requests_total{code="CANCELLED",method="EncodeStream",reason=""}'
    until(lambda: own.metrics()["saeserve_requests_in_flight"] == 0, "the streams have ended")
    assert own.metrics().get(cancelled) == 3
    assert all(line["level"] != "error" for line in own.log())  # a caller who leaves is no fault


def test_a_worker_that_is_killed_is_replaced_and_nobody_hangs(few: tuple[Server, grpc.Channel, Any]) -> None:
    """Also where there are few descriptors and others connect for all that they can get."""
    own, channel, stub = few
    with ExitStack() as silent:
        host, _, port = own.target.rpartition(":")
        for _ in range(2 * FEW):
            silent.enter_context(socket.create_connection((host, int(port)), 5))
        worker = own.worker()
        stub.Search(search(0), timeout=TIMEOUT)
        own.metrics()
        before = descriptors(own.process.pid)
        assert stub.GetServerInfo(service.GetServerInfoRequest(), timeout=TIMEOUT).limits.max_connections < FEW
        stream = Slowly(stub, config(sources=["0-demo"], truncate=True))
        stream.send(*(item(n, "red blue green " * 80) for n in range(32)))
        with ThreadPoolExecutor(6) as pool:
            running = [pool.submit(outcome, stub, long(n)) for n in range(6)]
            until(lambda: own.metrics()["saeserve_requests_in_flight"] >= 7, "calls are in flight")
            os.kill(worker, signal.SIGKILL)
            outcomes = [call.result(PATIENCE) for call in running]
        refusals = [one for one in outcomes if one is not None]
        assert refusals
        for refusal in refusals:
            assert (refusal.code, refusal.reason) == (StatusCode.UNAVAILABLE, "WORKER_RESTARTING")
            assert refusal.retry_after
            assert refusal.pushback == str(round(refusal.retry_after * 1000))
        stream.close()
        with pytest.raises(grpc.RpcError) as caught:
            list(stream.call)
        assert read_refusal(caught.value).reason == "WORKER_RESTARTING"

        assert own.health(channel, LIVENESS) == SERVING
        assert own.health(channel) == own.health(channel, SERVICE) == NOT_SERVING
        assert own.metrics()["saeserve_ready"] == 0
        refusal = refused(lambda: stub.Search(RED, timeout=TIMEOUT))
        assert (refusal.code, refusal.reason) == (StatusCode.UNAVAILABLE, "WORKER_RESTARTING")
        tokens = stub.Tokenize(service.TokenizeRequest(input=text_input("red")), timeout=TIMEOUT).tokens
        assert tokens  # what needs no worker is answered without one
        assert stub.Search(search(0), timeout=TIMEOUT).call_info.cache == types.CACHE_TIER_LOCAL

        own.await_ready(channel)
        assert own.worker() != worker
        assert len(stub.Search(RED, timeout=TIMEOUT).results) == 25
        assert own.metrics()["saeserve_worker_restarts_total"] == 1
        assert own.metrics()["saeserve_requests_in_flight"] == 0
        assert own.metrics()["saeserve_queue_size"] == 0
        until(lambda: descriptors(own.process.pid) <= before, "nothing is left of the worker before")


def outcome(stub: FeatureServiceStub, request: service.EncodeRequest) -> Any:
    """None for an answer, else the refusal."""
    try:
        stub.Encode(request, timeout=TIMEOUT)
    except grpc.RpcError as error:
        return read_refusal(error)
    return None


def test_callers_that_never_finish_do_not_hold_up_the_end(few: tuple[Server, grpc.Channel, Any]) -> None:
    """A stream without its configuration, one without items, a health watch, a connection: nothing is owed to them."""
    own, channel, stub = few
    with ExitStack() as connections:
        host, _, port = own.target.rpartition(":")
        connections.enter_context(socket.create_connection((host, int(port)), 5))
        silent = Slowly(stub)
        waiting = Slowly(stub, config(sources=["0-demo"]))
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        until(lambda: own.metrics()["saeserve_requests_in_flight"] == 2, "the streams are open")
        try:
            assert own.terminate(10.0) == 0
        finally:
            silent.close()
            waiting.close()
            watch.cancel()


# Servers of their own


def test_a_server_ends_with_its_caller_though_his_child_holds_its_standard_input() -> None:
    """Told its address on standard output, for which nothing with a name is needed."""
    flags = ["start", "--model", "synthetic:tiny", "--bind", "127.0.0.1:0", "--metrics-bind", "none"]
    command = [*COMMAND, *flags, "--port-file", "-", "--end-with-caller"]
    caller = (
        "import os, subprocess, sys, time\n"
        f"own = subprocess.Popen({command}, stdin=subprocess.PIPE)\n"
        "child = os.fork()\n"
        "if child: print(own.pid, child, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", caller], stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        pid, child = map(int, one.stdout.readline().split())
        assert re.fullmatch(r"127\.0\.0\.1:\d+\n", one.stdout.readline())
        one.kill()
    try:
        until(lambda: not is_alive(pid), "the server has ended", 5)
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_server_ends_in_order_with_its_standard_input(tmp_path: Path) -> None:
    command = [*COMMAND, "start", "--model", "synthetic:tiny", "--bind", "127.0.0.1:0", "--metrics-bind", "none"]
    port_file = tmp_path / "port"
    with subprocess.Popen(
        [*command, "--port-file", str(port_file), "--end-with-caller"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as own:
        until(port_file.exists, "the server listens")
        worker = children(own.pid)
        assert own.stdin is not None
        own.stdin.close()
        assert own.wait(5) == 0
    assert not port_file.exists()
    assert not [pid for pid in worker if b"spawn_main" in command_line(pid)]


def test_limits_of_the_configuration_are_published_and_enforced() -> None:
    """They are the front end's: the worker is a thread, see tests/inside.py."""
    limits = {"max_text_bytes": 100, "max_tokens": 12, "max_inputs": 3, "max_answer_bytes": 65536, "batch_tokens": 20}
    with served_inside(index="none", **limits) as target, connect(target) as channel:
        stub = stub_of(channel)
        published = stub.GetServerInfo(service.GetServerInfoRequest(), timeout=TIMEOUT).limits
        assert {name: getattr(published, name) for name in limits} == limits

        def encode(*texts: str) -> Any:
            inputs = [text_input(text) for text in texts]
            return stub.Encode(service.EncodeRequest(inputs=inputs, sources=["0-demo"]), timeout=TIMEOUT)

        assert len(encode("red", "blue", "red red red red red red red").texts) == 3
        assert refused(lambda: encode("x" * 101)).reason == "TEXT_TOO_LARGE"
        assert (
            refused(lambda: encode("red red red red red red red red red red red red red")).reason == "TOO_MANY_TOKENS"
        )
        assert list(refused(lambda: encode(*["red"] * 4)).fields) == ["inputs"]
        refusal = refused(
            lambda: stub.Search(
                service.SearchRequest(input=text_input("a b c d e f g h i j"), by_token=True, limit=1000,
                                      filter={"include": {"kinds": [1, 2]}}),
                timeout=TIMEOUT,
            )
        )  # fmt: skip
        assert (refusal.code, refusal.reason) == (StatusCode.INVALID_ARGUMENT, "ANSWER_TOO_LARGE")
        for call in (
            lambda: stub.TopActivations(
                service.TopActivationsRequest(feature={"source": "0-demo", "index": 1}), timeout=TIMEOUT
            ),
            *(
                partial(stub.Search, service.SearchRequest(input=text_input("red"), ranking=ranking), timeout=TIMEOUT)
                for ranking in (service.RANKING_RELATIVE_TO_MAX, service.RANKING_SURPRISAL)
            ),
        ):
            refusal = refused(call)
            assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "INDEX_REQUIRED")
        without = stub.Search(service.SearchRequest(input=text_input("red")), timeout=TIMEOUT)
        assert without.call_info.index_revision == ""
        for result in without.results:
            assert not result.facts.HasField("density")
            assert not result.facts.HasField("index_max_activation")
            assert result.match == types.MATCH_UNKNOWN
        feature = stub.GetFeature(service.GetFeatureRequest(feature={"source": "0-demo", "index": 1}), timeout=TIMEOUT)
        assert not feature.HasField("statistics")
        assert not feature.HasField("dead")


# On the demo's server


def test_a_deadline_that_passes_ends_the_call_and_not_the_server(
    stub: FeatureServiceStub, demo: saeserve.Client
) -> None:
    for number, timeout in enumerate((0.0005, 0.005, 0.02, 0.05)):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Encode(long(100 + number), timeout=timeout)
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
    assert demo.search("red").results
    with pytest.raises(saeserve.DeadlineExceeded):
        demo.encode(["red blue green " * 70] * 64, features="0-demo:1", timeout=0.01)


def test_a_storm_of_cancelled_calls_leaves_the_server_as_it_was(
    stub: FeatureServiceStub, demo: saeserve.Client
) -> None:
    for storm in range(5):
        requests = [long(1000 + 40 * storm + number, texts=24) for number in range(40)]
        calls = [stub.Encode.future(request, timeout=TIMEOUT) for request in requests]
        time.sleep(0.02)
        for call in calls:
            call.cancel()
        assert {call.code() for call in calls} <= {StatusCode.CANCELLED, StatusCode.OK}
    began = time.monotonic()
    assert demo.search("red").results
    assert time.monotonic() - began < PATIENCE  # what nobody waits for is not computed


def test_200_calls_at_once_are_all_answered(stub: FeatureServiceStub) -> None:
    calls = [stub.Search.future(search(number), timeout=TIMEOUT) for number in range(200)]
    assert {len(call.result().results) for call in calls} == {25}


def test_more_calls_at_once_than_it_takes_are_answered_or_told_to_come_again(stub: FeatureServiceStub) -> None:
    """gRPC's own cap on calls that wait to be taken up would cancel some: a status that no caller can act on."""
    calls = [stub.Search.future(search(1000 + number), timeout=TIMEOUT) for number in range(1500)]
    refusals = [read_refusal(call) for call in calls if call.exception() is not None]
    assert {(one.code, one.reason) for one in refusals} <= {(StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")}
    assert all(one.retry_after and one.retry_after <= 10 for one in refusals)
    assert len(calls) - len(refusals) >= 1024


def test_more_calls_than_a_connection_takes_wait_at_the_callers(
    stub: FeatureServiceStub, demo: saeserve.Client
) -> None:
    most = demo.server_info().limits.max_concurrent_streams
    for _ in range(3):  # streams that have just ended do not count
        request = service.TokenizeRequest(input=text_input("red"))
        calls = [stub.Tokenize.future(request, timeout=TIMEOUT) for _ in range(3 * most)]
        assert all(call.result().tokens for call in calls)


def test_reflection_lists_the_service(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        reflection_pb2.ServerReflectionRequest(file_by_filename="google/rpc/status.proto"),
    ]
    listed, described, imported = stub.ServerReflectionInfo(iter(asked), timeout=TIMEOUT)
    assert {one.name for one in listed.list_services_response.service} == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert described.file_descriptor_response.file_descriptor_proto
    assert imported.file_descriptor_response.file_descriptor_proto


def test_health_can_be_watched(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE, LIVENESS):
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT)
        assert next(watch).status == SERVING
        watch.cancel()
