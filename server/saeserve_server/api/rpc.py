"""An RPC as gRPC runs it: when it has ended, and how the server ends it.

A context of grpc.aio says neither when an answer has left nor lets the server cancel a call whose caller reads nothing:
`abort` waits behind the bytes that do not leave. But gRPC runs each call within a task of its own, which waits for the
call's end in the core; cancelling it drops the call, and with it the bytes. That task is found by its coroutine's name,
when it is made, and handed on in the context of all that runs in it. A test holds that it is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import weakref
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any

_COROUTINE = "_schedule_rpc_coro"
_task: ContextVar[weakref.ref[asyncio.Task[Any]] | None] = ContextVar("saeserve_rpc", default=None)
"""Weak: a task holds its context, and what both hold would only go when garbage is collected."""


class Rpc:
    """The RPC in which the current task runs."""

    def __init__(self, task: asyncio.Task[Any] | None, handler: asyncio.Task[Any] | None) -> None:
        self._task = task
        self._handler = handler

    @property
    def can_be_ended(self) -> bool:
        """False with a gRPC that runs its calls otherwise than is expected here."""
        return self._task is not None

    @property
    def has_ended(self) -> bool:
        """Whether its answer has left, or its caller has."""
        task = self._task or self._handler
        return task is None or task.done()

    def end(self) -> None:
        """Drops the call and whatever it has not sent: its caller gets CANCELLED. Its handler is cancelled too."""
        for task in (self._handler, self._task):
            if task is not None and task.cancel():
                task.add_done_callback(_forget)

    def interrupt(self) -> None:
        """Cancels its handler, which may yet answer."""
        if self._handler is not None:
            self._handler.cancel()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Has `callback` called once the call has ended: its answer has left, or its caller has."""
        task = self._task or self._handler
        if task is not None:
            task.add_done_callback(lambda _: callback())


def current_rpc() -> Rpc:
    """The RPC that the current task handles."""
    task = _task.get()
    return Rpc(None if task is None else task(), asyncio.current_task())


def watch_rpcs(loop: asyncio.AbstractEventLoop) -> None:
    """Has the RPCs of servers in this event loop known to their handlers. Call before a server starts."""

    def make(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
    ) -> asyncio.Task[Any]:
        if getattr(coroutine, "__name__", "") != _COROUTINE:
            return asyncio.Task(coroutine, loop=loop, **options)
        context = options.pop("context", None) or contextvars.copy_context()
        task = asyncio.Task(coroutine, loop=loop, context=context, **options)
        context.run(_task.set, weakref.ref(task))
        return task

    loop.set_task_factory(make)


def _forget(task: asyncio.Task[Any]) -> None:
    """A task that was cancelled holds the error until somebody asks, and with it the call and all its bytes."""
    with contextlib.suppress(asyncio.CancelledError, Exception):
        task.result()
