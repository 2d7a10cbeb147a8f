"""Deadlines, retries, metadata, readiness and typed errors, over both clients."""

import asyncio
import copy
import inspect
import socket
import threading
import time

import grpc
import pytest

import saeserve
from saeserve import AsyncClient, Client, FieldViolation
from saeserve.v1 import feature_service_pb2 as service
from tests.client.fake import Failure, new_service, serve, status

UNAVAILABLE = Failure(status(grpc.StatusCode.UNAVAILABLE, "restarting", reason="WORKER_RESTARTING"))
AT_ONCE = (("grpc-retry-pushback-ms", "1"),)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_failures_are_hidden_by_the_channel_s_retries(client, fake):
    fake.failures = [UNAVAILABLE, UNAVAILABLE]
    assert client.search("a").tokens
    assert len(fake.seen) == 3
    assert len({seen.metadata["x-request-id"] for seen in fake.seen}) == 1


def test_five_attempts_in_all_then_the_error(client, fake):
    fake.failures = [UNAVAILABLE] * 9
    with pytest.raises(saeserve.Unavailable, match="WORKER_RESTARTING: restarting") as raised:
        client.search("a")
    assert raised.value.reason == "WORKER_RESTARTING"
    assert len(fake.seen) == 5


def test_options_of_the_caller_s_own_switch_retries_off(connect, fake):
    for option in (("grpc.enable_retries", 0), ("grpc.service_config", "{}")):
        fake.failures = [UNAVAILABLE]
        with pytest.raises(saeserve.Unavailable):
            connect(options=[option]).search("a")
        assert not fake.failures
    assert len(fake.seen) == 2


def test_the_server_s_delay_is_what_a_retry_waits_for(client, fake):
    over = status(grpc.StatusCode.RESOURCE_EXHAUSTED, "over budget", reason="OVERLOADED", retry_seconds=0.6)
    fake.failures = [Failure(over, (("grpc-retry-pushback-ms", "600"),))]
    began = time.monotonic()
    client.search("a")
    assert time.monotonic() - began >= 0.55
    assert len(fake.seen) == 2


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, saeserve.InvalidArgument),
        (grpc.StatusCode.NOT_FOUND, saeserve.NotFound),
        (grpc.StatusCode.FAILED_PRECONDITION, saeserve.FailedPrecondition),
        (grpc.StatusCode.ABORTED, saeserve.Aborted),
        (grpc.StatusCode.DEADLINE_EXCEEDED, saeserve.DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, saeserve.Cancelled),
        (grpc.StatusCode.UNAUTHENTICATED, saeserve.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, saeserve.PermissionDenied),
        (grpc.StatusCode.UNIMPLEMENTED, saeserve.Unimplemented),
        (grpc.StatusCode.INTERNAL, saeserve.Internal),
        (grpc.StatusCode.UNKNOWN, saeserve.SaeserveError),
    ],
)
def test_every_other_status_is_its_own_type_and_is_not_retried(client, fake, code, kind):
    fake.failures = [Failure(status(code, "so it is"))]
    with pytest.raises(kind) as raised:
        client.search("a")
    assert type(raised.value) is kind
    assert (raised.value.code, raised.value.message) == (code, "so it is")
    assert isinstance(raised.value.__cause__, grpc.RpcError)
    assert len(fake.seen) == 1


def test_an_error_carries_all_its_details(client, fake):
    fake.failures = [
        Failure(
            status(
                grpc.StatusCode.INVALID_ARGUMENT,
                "limit: 5000 is over 1000",
                reason="INVALID_REQUEST",
                metadata={"max_limit": "1000"},
                violations=[("limit", "5000 is over 1000"), ("sort_tokens[0].text", "matches no token")],
                request_id="abc",
            )
        )
    ]
    with pytest.raises(saeserve.InvalidArgument) as raised:
        client.search("a", limit=5000)
    error = raised.value
    assert error.reason == "INVALID_REQUEST"
    assert error.metadata == {"max_limit": "1000"}
    assert error.violations == (
        FieldViolation("limit", "5000 is over 1000"),
        FieldViolation("sort_tokens[0].text", "matches no token"),
    )
    assert (error.request_id, error.retry_delay) == ("abc", None)
    assert str(error) == (
        "INVALID_ARGUMENT INVALID_REQUEST: limit: 5000 is over 1000; sort_tokens[0].text: matches no token"
    )


def test_retry_delay_comes_from_retry_info_else_from_pushback(client, fake):
    over = status(grpc.StatusCode.RESOURCE_EXHAUSTED, "over", reason="OVERLOADED", retry_seconds=0.05)
    fake.failures = [Failure(over, AT_ONCE)] * 5
    with pytest.raises(saeserve.ResourceExhausted) as raised:
        client.search("a")
    assert raised.value.retry_delay == pytest.approx(0.05)
    fake.failures = [Failure(status(grpc.StatusCode.UNAVAILABLE, "later"), AT_ONCE)] * 5
    with pytest.raises(saeserve.Unavailable) as raised:
        client.search("a")
    assert raised.value.retry_delay == pytest.approx(0.001)


def test_damaged_details_leave_the_status_and_its_message(client, fake):
    class Damaged(Failure):
        def abort(self, context):
            context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
            context.abort(grpc.StatusCode.NOT_FOUND, "no such source")

    fake.failures = [Damaged(status(grpc.StatusCode.NOT_FOUND))]
    with pytest.raises(saeserve.NotFound, match="no such source") as raised:
        client.search("a")
    assert raised.value.reason == ""


def test_errors_cross_process_borders(client, fake):
    fake.failures = [Failure(status(grpc.StatusCode.NOT_FOUND, "no", reason="R", violations=[("a", "b")]))]
    with pytest.raises(saeserve.NotFound) as raised:
        client.search("a")
    again = copy.deepcopy(raised.value)
    assert type(again) is saeserve.NotFound
    assert (str(again), again.violations, again.code) == (str(raised.value), raised.value.violations, raised.value.code)


def test_every_call_has_a_deadline(client, fake):
    client.search("a")
    client.tokenize("a", timeout=3)
    assert 8 < fake.seen[0].seconds_left < 10.5
    assert 2 < fake.seen[1].seconds_left < 3.5


def test_a_deadline_that_passes_is_an_error_with_the_request_s_id(client, fake):
    fake.hang = {"Search"}
    with pytest.raises(saeserve.DeadlineExceeded) as raised:
        client.search("a", timeout=0.3, request_id="mine")
    assert raised.value.request_id == "mine"
    assert fake.seen[0].metadata["x-request-id"] == "mine"


def test_metadata_of_client_and_call_are_sent(connect, fake):
    client = connect(metadata={"Authorization": "Bearer x"})
    client.search("a", metadata=[("x-extra", "1"), ("x-request-id", "given")])
    assert fake.seen[0].metadata["authorization"] == "Bearer x"
    assert fake.seen[0].metadata["x-extra"] == "1"
    assert fake.seen[0].metadata["x-request-id"] == "given"
    client.search("a")
    assert len(fake.seen[1].metadata["x-request-id"]) == 16
    assert fake.seen[1].metadata["user-agent"].startswith("saeserve-python/")


def test_an_answer_over_the_client_s_limit_does_not_look_like_overload(connect, fake):
    client = connect(max_message_bytes=1000)
    fake.answers["Tokenize"] = service.TokenizeResponse(tokens=[{"display": "x" * 2000}])
    with pytest.raises(saeserve.ResourceExhausted, match="max_message_bytes") as raised:
        client.tokenize("a")
    assert raised.value.reason == "OVER_MAX_MESSAGE_BYTES"
    assert len(fake.seen) == 1


def test_without_a_server_the_error_says_so(connect):
    with pytest.raises(saeserve.Unavailable):
        connect(f"127.0.0.1:{free_port()}").search("a")


def test_wait_ready_waits_for_a_server_that_starts_and_loads(connect):
    port = free_port()
    fake = new_service()
    fake.failures = [Failure(status(grpc.StatusCode.UNAVAILABLE, "loading"), AT_ONCE)] * 6
    client = connect(f"127.0.0.1:{port}")
    servers = []
    timer = threading.Timer(0.5, lambda: servers.append(serve(fake, f"127.0.0.1:{port}")[0]))
    timer.start()
    assert client.wait_ready(timeout=20).model.name == "demo"
    timer.join()
    servers[0].stop(0).wait(10)


def test_wait_ready_ends_in_time_and_says_what_it_heard(connect, fake):
    with pytest.raises(saeserve.DeadlineExceeded, match=r"not ready after 0\.3 s"):
        connect(f"127.0.0.1:{free_port()}").wait_ready(timeout=0.3)
    fake.failures = [Failure(status(grpc.StatusCode.UNAVAILABLE, "loading weights"), AT_ONCE)] * 1000
    with pytest.raises(saeserve.DeadlineExceeded, match="loading weights"):
        connect().wait_ready(timeout=0.5)


def test_wait_ready_does_not_wait_for_what_waiting_cannot_mend(client, fake):
    fake.failures = [Failure(status(grpc.StatusCode.UNIMPLEMENTED, "another service"))]
    with pytest.raises(saeserve.Unimplemented):
        client.wait_ready(timeout=10)


def test_both_clients_have_the_same_methods_and_arguments():
    def public(kind):
        names = [name for name, value in vars(kind).items() if not name.startswith("_") and callable(value)]
        return {name: inspect.signature(getattr(kind, name)) for name in names}

    blocking, awaited = public(Client), public(AsyncClient)
    # Whoever carries others' streams is a server, and asynchronous: the gateway.
    assert set(blocking) == set(awaited) - {"call_stream"}
    for name, signature in blocking.items():
        described = [(p.name, p.kind, p.default) for p in signature.parameters.values()]
        assert described == [(p.name, p.kind, p.default) for p in awaited[name].parameters.values()], name
    assert inspect.signature(Client) == inspect.signature(AsyncClient)
    assert Client.search.__doc__
    assert AsyncClient.search.__name__ == "search"


def test_an_async_client_belongs_to_one_loop(target):
    client = AsyncClient(target)

    async def ask():
        return await client.search("a")

    asyncio.run(ask())
    with pytest.raises(RuntimeError, match="event loop"):
        asyncio.run(ask())


def test_context_managers_close(target):
    with Client(target) as client:
        client.search("a")

    async def run():
        async with AsyncClient(target) as client:
            answers = await asyncio.gather(*(client.search("a") for _ in range(20)))
            assert len(answers) == 20

    asyncio.run(run())
