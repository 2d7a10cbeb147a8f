"""What a worker reads of its pipe: batches, who has left them, and that its front end is gone."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from saeserve_server.engine.work import Abandon, Batch
from saeserve_server.engine.worker import Mailbox
from saeserve_server.ranking.work import EncodeWork


def batch(number: int) -> Batch:
    return Batch(number, tuple(EncodeWork((n,), False, (0,)) for n in range(4)), (False,) * 4)


def abandon(number: int, *places: int) -> Abandon:
    return Abandon(number, frozenset(places))


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Mailbox]]:
    """The front end's end of a pipe, and the mailbox at the other."""
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        yield ours, Mailbox(theirs)


def test_batches_come_one_after_another(ends: tuple[Connection, Mailbox]) -> None:
    front, mailbox = ends
    for number in range(3):
        front.send(batch(number))
        assert mailbox.next_batch() == batch(number)
        assert mailbox.abandoned() == set()


def test_who_leaves_the_batch_in_progress_is_known_from_then_on(ends: tuple[Connection, Mailbox]) -> None:
    front, mailbox = ends
    front.send(batch(7))
    mailbox.next_batch()
    front.send(abandon(7, 2))
    assert mailbox.abandoned() == {2}
    front.send(abandon(7, 0))
    front.send(abandon(7, 3))
    assert mailbox.abandoned() == {0, 2, 3}
    assert mailbox.abandoned() == {0, 2, 3}


def test_who_left_an_older_batch_is_ignored(ends: tuple[Connection, Mailbox]) -> None:
    front, mailbox = ends
    front.send(batch(1))
    mailbox.next_batch()
    front.send(abandon(1, 0))
    mailbox.abandoned()
    front.send(abandon(1, 1))  # after the worker has looked for the last time
    front.send(batch(2))
    assert mailbox.next_batch().number == 2
    assert mailbox.abandoned() == set()
    front.send(abandon(1, 2))
    front.send(abandon(2, 3))
    assert mailbox.abandoned() == {3}


def test_a_closed_pipe_is_the_end_also_in_the_midst_of_a_batch(ends: tuple[Connection, Mailbox]) -> None:
    front, mailbox = ends
    front.send(batch(1))
    mailbox.next_batch()
    front.send(abandon(1, 0))
    front.close()
    with pytest.raises(EOFError):
        mailbox.abandoned()


def test_a_closed_pipe_is_the_end_while_it_waits_for_a_batch(ends: tuple[Connection, Mailbox]) -> None:
    front, mailbox = ends
    front.send(abandon(0, 0))
    front.close()
    with pytest.raises(EOFError):
        mailbox.next_batch()
