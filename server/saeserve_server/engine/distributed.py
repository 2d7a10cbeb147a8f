"""Builds the parts of an index with Ray: processes on this machine or a cluster, to which chunks are handed out.

This process reads the corpus and numbers its texts; each worker (folding_worker.py) tokenises and folds the chunks that
it is given into a part of its own, in a folder that all machines see. Chunks are always computed alike, and parts merge
exactly: which worker took which chunk cannot be told from the index.

A worker that dies is replaced by one that goes on from its last checkpoint. What was lost with it is handed out again
in another round over the corpus.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from saeserve_server.config import Config
from saeserve_server.engine.build import pick_device
from saeserve_server.engine.folder_lock import lock_folder
from saeserve_server.engine.folding_worker import Folded, FoldingWorker, Orders
from saeserve_server.errors import ConfigError
from saeserve_server.records.builder import CHECKPOINT_SECONDS, Progress, Told
from saeserve_server.records.building.chunks import CHUNK_TEXTS, groups
from saeserve_server.records.building.part import Part, is_part, part_folders, saved_chunks
from saeserve_server.records.made_of import MadeOf

log = logging.getLogger(__name__)

IN_HAND: Final = 2
"""Chunks that a worker has: it computes one, and the next is there when that is done."""
MOST_DEATHS: Final = 3
"""So often a worker may die while it begins, or over the same chunk."""
PATIENCE: Final = 60.0
"""Seconds after which it is said that nothing has come from any worker."""
STORE_BYTES: Final = 256 * 2**20
"""Of memory for texts on their way, where Ray is started here; more goes to the disk."""


def build_with_ray(
    config: Config,
    corpus: Iterable[str],
    made_of: MadeOf,
    work: Path,
    *,
    rows_bytes: int,
    workers: int | None = None,
    address: str | None = None,
    checkpoint: float = CHECKPOINT_SECONDS,
    progress: Told | None = None,
) -> list[Part]:
    """The parts of an index over a corpus, in folders under `work`, to be merged; a build that was broken off goes on.

    `made_of` is `Settings.made_of` of this process's own reader; the threads of torch here are those of every worker.
    `corpus` is iterated again for what was lost with a worker. `workers` is by default what the machines have CPUs for
    (or GPUs, if that is the device). `address` is that of a cluster (`auto`: the one that this machine is in), by
    default none: Ray is started on this machine, and stopped at the end. On a cluster the package, the configuration's
    files and `work` are to be found at the same paths on all machines.

    Raises ConfigError without Ray, where a machine computes otherwise than this one, where workers die again and
    again, and as `build_index` does.
    """
    if is_part(work):
        raise ConfigError(f"{work}: was begun without Ray: go on without it, or remove it")
    ray = _ray()
    work = work.absolute()
    device, threads = pick_device(config).type, torch.get_num_threads()
    # A worker sees the one GPU that Ray gives it.
    here = {"device": "cuda:0" if device == "cuda" else "cpu", "base": config.base.absolute(), "threads": threads}
    lock = lock_folder(work / "build")
    try:
        with _connected(ray, address, threads, workers or _room_here(device, threads)):
            count = workers or _room(ray, device, threads)
            log.info("%d workers with %d threads each", count, threads)
            orders = Orders(config.model_copy(update=here), made_of, rows_bytes // count, checkpoint)
            actor = ray.remote(num_cpus=threads, num_gpus=1 if device == "cuda" else 0)(FoldingWorker)
            build = _Build(ray, lambda folder: actor.remote(orders, folder), work, count, progress)
            try:
                total = build.run(corpus)
            finally:
                build.close()
    finally:
        lock.release()
    parts = [Part.open(folder) for folder in part_folders(work)]
    for part in parts:
        if part.corpus_texts not in (None, total) or max(part.texts, default=-1) >= total:
            raise ConfigError(f"{part.folder}: is of another corpus than the {total} texts given: remove {work}")
        part.corpus_texts = total  # which one that a run with more workers left does not know
    return parts


@dataclass(eq=False)
class _Worker:
    """A worker as this process knows it."""

    folder: Path
    actor: Any
    begun: Any
    """What will come of its beginning; None once that has come."""
    folded: set[int] = field(default_factory=set)
    """Chunks that it told are in its part, saved or not."""
    given: deque[tuple[int, Any]] = field(default_factory=deque)
    """Number of each chunk that it has, and what will come of it; the first is being computed."""

    def next(self) -> Any:
        """What comes from it next; None where it has nothing to do."""
        return self.begun or (self.given[0][1] if self.given else None)


class _Build:
    """Hands out chunks until each is in a part."""

    def __init__(self, ray: Any, start: Callable[[Path], Any], work: Path, count: int, progress: Told | None) -> None:
        self._ray = ray
        self._start = start
        self._progress = progress
        self._placed = set[int]()
        """Chunks that are in a part, or in a worker's hands."""
        self._done = Progress(0, 0, 0)
        for folder in part_folders(work):
            saved, tokens = _saved(folder)
            self._placed |= saved
            self._done = Progress(self._done.texts + CHUNK_TEXTS * len(saved), 0, self._done.tokens + tokens)
        self._deaths = Counter[Path | int]()
        self._workers = list[_Worker]()
        for number in range(count):
            self._begin(work / f"part-{number}")

    def run(self, corpus: Iterable[str]) -> int:
        """Returns the number of texts."""
        total = 0

        def seen(texts: int) -> None:
            nonlocal total
            total = texts

        while True:
            for number, texts in groups(corpus, lambda number: number not in self._placed, seen):
                self._hand_out(number, texts)
            while any(worker.given for worker in self._workers):
                self._wait()
            self._end(total)
            if self._placed.issuperset(range(-(-total // CHUNK_TEXTS))):
                return total

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            self._ray.kill(worker.actor)

    def _begin(self, folder: Path) -> None:
        actor = self._start(folder)
        self._workers.append(_Worker(folder, actor, actor.begin.remote()))

    def _hand_out(self, number: int, texts: list[str]) -> None:
        while True:
            ready = [worker for worker in self._workers if worker.begun is None and len(worker.given) < IN_HAND]
            if ready:
                break
            self._wait()
        worker = min(ready, key=lambda worker: len(worker.given))
        worker.given.append((number, worker.actor.fold.remote(number, texts)))
        self._placed.add(number)

    def _wait(self) -> None:
        """Takes what comes next from workers."""
        awaited = {worker.next(): worker for worker in self._workers if worker.next() is not None}
        come, _ = self._ray.wait(list(awaited), num_returns=1, timeout=PATIENCE)
        if not come:
            starting = sum(worker.begun is not None for worker in self._workers)
            log.warning(
                "nothing came from any worker for %.0f s; of %d, %d have not begun: is there room for them?",
                PATIENCE,
                len(self._workers),
                starting,
            )
        for one in come:
            self._take(awaited[one], one)

    def _take(self, worker: _Worker, one: Any) -> None:
        found, result = self._result(worker, one)
        if not found:
            return
        if worker.begun is not None:
            worker.begun = None
            worker.folded = result
            return
        folded: Folded = result
        worker.given.popleft()
        worker.folded.add(folded.number)
        done = self._done
        self._done = Progress(done.texts + folded.texts, done.blocks + folded.blocks, done.tokens + folded.tokens)
        if self._progress is not None:
            self._progress(self._done)

    def _end(self, total: int) -> None:
        """Has all parts saved."""
        ending = [(worker, worker.actor.end.remote(total)) for worker in self._workers if worker.begun is None]
        for worker, one in ending:
            self._result(worker, one)

    def _result(self, worker: _Worker, one: Any) -> tuple[bool, Any]:
        """Whether the worker lives, and what came of it. What it raised is raised."""
        try:
            return True, self._ray.get(one)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from error
            raise
        except self._ray.exceptions.RayError as error:
            self._replace(worker, error)
            return False, None

    def _replace(self, worker: _Worker, error: Exception) -> None:
        """Starts another in the place of one that died. Raises ConfigError where that happened too often."""
        self._workers.remove(worker)
        self._ray.kill(worker.actor)  # it may live, and be out of reach
        reason = " ".join(str(error).split())
        log.warning("%s: its worker died: %s", worker.folder, reason)
        over: Path | int = worker.folder
        what = f"a worker for {worker.folder} died {MOST_DEATHS} times while it began or saved"
        if worker.given:
            over = worker.given[0][0]
            first = over * CHUNK_TEXTS + 1
            what = f"workers died {MOST_DEATHS} times over the texts {first} to {first + CHUNK_TEXTS - 1}"
        self._deaths[over] += 1
        if self._deaths[over] == MOST_DEATHS:
            raise ConfigError(f"{what}, the last time: {reason}")
        saved, _ = _saved(worker.folder)
        self._placed -= (worker.folded | {number for number, _ in worker.given}) - saved
        self._begin(worker.folder)


def _saved(folder: Path) -> tuple[set[int], int]:
    """The chunks in a folder's part, and their tokens, once nobody writes there any more."""
    lock = lock_folder(folder)
    try:
        return saved_chunks(folder) if is_part(folder) else (set(), 0)
    finally:
        lock.release()


def _ray() -> Any:
    # No word about this machine goes anywhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray: needs Ray: pip install 'saeserve-server[ray]'") from error
    return ray


@contextmanager
def _connected(ray: Any, address: str | None, threads: int, count: int) -> Iterator[None]:
    """Ray on this machine with room for `count` workers, or of a cluster; one that this process uses already is left
    as it is."""
    if ray.is_initialized():
        yield
        return
    try:
        if address is None:
            ray.init(
                "local",
                num_cpus=count * threads,
                object_store_memory=STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        hint = "" if address is None else "; a cluster that asks for a token wants RAY_AUTH_MODE=token here too"
        raise ConfigError(f"--ray-address: {address or 'this machine'}: {error}{hint}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _room_here(device: str, threads: int) -> int:
    cpus = max(1, len(os.sched_getaffinity(0)) // threads)
    return min(torch.cuda.device_count(), cpus) if device == "cuda" else cpus


def _room(ray: Any, device: str, threads: int) -> int:
    """How many workers there is room for. Raises ConfigError where there is none for any."""
    room = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            most = int(has.get("CPU", 0) // threads)
            room += min(most, int(has.get("GPU", 0))) if device == "cuda" else most
    if not room:
        raise ConfigError(
            f"--engine ray: no machine there has {threads} CPUs{' and a GPU' * (device == 'cuda')} for a worker: "
            "fewer --threads, or --workers to wait for machines that come later"
        )
    return room
