"""Closed clients: one error of our own, before a call, within one, and in streams; cancelling is asyncio's."""

import asyncio
import inspect
import threading
import time

import pytest

from saeserve import AsyncClient, Cancelled, Client
from tests.client.fake import one_value

CALLS = {
    "search": lambda client: client.search("a"),
    "top_activations": lambda client: client.top_activations("2:1"),
    "wait_ready": lambda client: client.wait_ready(),
    "encode_stream": lambda client: client.encode_stream(["a", "b", "c", "d"], features="2:1"),
    "iter_top_activations": lambda client: client.iter_top_activations("2:1"),
}


@pytest.fixture
def hanging(fake):
    """Nothing is answered, but for the first two items of a stream."""

    def stream(requests, context):
        assert next(requests).HasField("config")
        for number, message in enumerate(requests):
            if number == 2:
                fake.release.wait(20)
                return
            yield one_value(message.item)

    fake.streams = [stream]
    fake.hang = {"Search", "TopActivations", "GetServerInfo"}
    return fake


def ask(client, call):
    answer = CALLS[call](client)
    return list(answer) if inspect.isgenerator(answer) else answer


async def ask_async(client, call, got=None):
    answer = CALLS[call](client)
    if inspect.isawaitable(answer):
        return await answer
    got = [] if got is None else got
    async for item in answer:
        got.append(item)
    return got


def is_closed(error):
    return isinstance(error, Cancelled) and error.reason == "CLIENT_CLOSED" and "client is closed" in str(error)


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("used", [True, False])
def test_a_closed_client_answers_nothing(target, call, used):
    client = Client(target)
    if used:
        client.search("a")
    client.close()
    client.close()
    with pytest.raises(Cancelled) as raised:
        ask(client, call)
    assert is_closed(raised.value)

    async def run():
        client = AsyncClient(target)
        if used:
            await client.search("a")
        await client.close()
        await client.close()
        with pytest.raises(Cancelled) as raised:
            await ask_async(client, call)
        assert is_closed(raised.value)

    asyncio.run(run())


@pytest.mark.parametrize("call", CALLS)
def test_closing_ends_what_is_on_its_way(target, hanging, call):
    caught = []
    client = Client(target)

    def run():
        try:
            ask(client, call)
        except Cancelled as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: hanging.seen)
    client.close()
    thread.join(10)
    assert is_closed(caught[0])


@pytest.mark.parametrize("call", CALLS)
def test_closing_ends_a_task_group_with_an_error(target, hanging, call):
    """A bare CancelledError would end the group as if all had been well."""

    async def run():
        client = AsyncClient(target)
        got = []
        async with asyncio.TaskGroup() as group:
            group.create_task(ask_async(client, call, got))
            await asyncio.to_thread(until, lambda: hanging.seen and (call != "encode_stream" or len(got) == 2))
            await client.close()

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(run())
    assert is_closed(raised.value.exceptions[0])


@pytest.mark.parametrize("call", CALLS)
def test_a_task_that_is_cancelled_is_cancelled(target, hanging, call):
    async def run():
        for close in (False, True):
            hanging.seen.clear()
            client = AsyncClient(target)
            task = asyncio.create_task(ask_async(client, call))
            await asyncio.to_thread(until, lambda: hanging.seen)
            task.cancel()
            if close:
                await client.close()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ask_async(AsyncClient(target), call), 0.05)
            await client.close()

    asyncio.run(run())


def test_a_client_closed_between_two_attempts_says_so(target, fake):
    from tests.client.test_calls import UNAVAILABLE

    fake.failures = [UNAVAILABLE] * 9
    client = Client(target)
    threading.Timer(0.05, client.close).start()
    with pytest.raises(Cancelled) as raised:
        client.search("a")
    assert is_closed(raised.value)
