"""Chunks are handed out until each is in one part, whatever the workers die of; here without processes."""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from saeserve_server.config import load_config
from saeserve_server.engine import distributed, folding_worker
from saeserve_server.engine.distributed import build_with_ray
from saeserve_server.errors import ConfigError
from saeserve_server.records.builder import Settings, build_index, build_part, merge_parts, open_part
from saeserve_server.records.building.part import Part
from saeserve_server.records.made_of import Keeping
from tests.records.reference import FakeReader, tokenise, with_context

READER = FakeReader(n_features=4, model=with_context(30))
SETTINGS = Settings(keeping=Keeping(records=3, per_power=1, near_misses=1, positions=50), batch_blocks=7)
DRAW = random.Random(0)
TEXTS = ["".join(DRAW.choice("abcdefgh") for _ in range(DRAW.choice([0, 1, 9]))) for _ in range(64 * 7 + 5)]


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class Ray:
    """As much of Ray as is used: actors that compute when asked for the result, and die when `dies` says so."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, dies) -> None:
        self._dies = dies
        self.calls = Counter()

    def is_initialized(self) -> bool:
        return True

    def remote(self, **_):
        def of(cls):
            return SimpleNamespace(remote=lambda *arguments: Actor(self, cls(*arguments)))

        return of

    def kill(self, actor) -> None:
        actor.die()

    def wait(self, ones, num_returns, timeout):
        return random.Random(self.calls.total()).sample(ones, 1), []

    def get(self, one):
        actor, name, arguments = one.actor, one.name, one.arguments
        if actor.worker is None:
            raise RayError("is dead")
        self.calls[name] += 1
        if self._dies(name, *arguments):
            actor.die()
            raise RayError("was killed")
        try:
            return getattr(actor.worker, name)(*arguments)
        except ConfigError as error:
            raise RayTaskError(error) from error


class Actor:
    def __init__(self, ray: Ray, worker) -> None:
        self.worker = worker
        for name in ("begin", "fold", "end"):
            setattr(self, name, SimpleNamespace(remote=lambda *arguments, name=name: Result(self, name, arguments)))

    def die(self) -> None:
        lock = getattr(self.worker, "_lock", None)
        if lock is not None:
            lock.release()
        self.worker = None


@dataclass(eq=False)
class Result:
    actor: Actor
    name: str
    arguments: tuple


@pytest.fixture
def build(monkeypatch, tmp_path):
    monkeypatch.setattr(folding_worker, "build_runner", lambda config, with_index: (READER, None))
    monkeypatch.setattr(folding_worker, "pin_kernels", lambda config, runner: None)
    monkeypatch.setattr(folding_worker, "Tokenizer", lambda *_: SimpleNamespace(ids=tokenise))
    config = load_config(None, {"index": "none", "device": "cpu"}, {})

    def run(dies=lambda *_: False, texts=TEXTS, made_of=None, **options):
        monkeypatch.setattr(distributed, "_ray", lambda: Ray(dies))
        return build_with_ray(
            config,
            texts,
            made_of or SETTINGS.made_of(READER),
            tmp_path / "work",
            **{"rows_bytes": 2**30, "workers": 3, **options},
        )

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return build_index(READER, tokenise, TEXTS, tmp_path_factory.mktemp("whole") / "index", settings=SETTINGS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("checkpoint", [-1, 1000])
def test_whoever_dies_the_index_is_the_same(build, whole, tmp_path, monkeypatch, seed, checkpoint):
    monkeypatch.setattr(distributed, "MOST_DEATHS", 100)
    monkeypatch.setattr(folding_worker, "CHECKPOINT_SHARE", 0)
    draw = random.Random(seed)
    parts = build(lambda *_: draw.random() < 0.2, checkpoint=checkpoint)
    assert sorted(chunk for part in parts for chunk in part.chunks) == list(range(8))
    assert merge_parts(READER, parts, tmp_path / "index").content == whole.content


class BrokenError(Exception):
    pass


def broken_off():
    yield from TEXTS
    raise BrokenError


def test_a_build_goes_on_with_another_number_of_workers(build, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "IN_HAND", 1)
    with pytest.raises(BrokenError):
        build(texts=broken_off(), workers=4, checkpoint=-1)
    told = []
    parts = build(workers=1, progress=told.append)
    assert len(parts) > 1
    assert told[0].texts > 64
    assert merge_parts(READER, parts, tmp_path / "index").content == whole.content
    with pytest.raises(ConfigError, match=r"is of another corpus than the 100 texts given"):
        build(texts=TEXTS[:100])


def test_who_dies_over_the_same_texts_again_and_again_is_not_replaced(build):
    with pytest.raises(ConfigError, match=r"workers died 3 times over the texts 129 to 192, the last time: was killed"):
        build(lambda name, number=0, *_: name == "fold" and number == 2)
    with pytest.raises(ConfigError, match=r"part-\d died 3 times while it began or saved"):
        build(lambda name, *_: name == "begin")


def test_what_a_worker_raises_is_raised(build):
    with pytest.raises(ConfigError, match=r"computes otherwise than the process that began the build.*threads"):
        build(made_of=SETTINGS.made_of(Elsewhere(4, with_context(30))))


class Elsewhere(FakeReader):
    @property
    def computed(self):
        return {"threads": "2"}


def test_a_folder_of_another_build_is_left_alone(build, tmp_path):
    part = open_part(SETTINGS.made_of(READER), tmp_path / "work")
    build_part(READER, tokenise, TEXTS[:10], part, 0)
    with pytest.raises(ConfigError, match="was begun without Ray"):
        build()
    assert Part.open(tmp_path / "work").chunks == {0}


def test_without_ray_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray: pip install 'saeserve-server\[ray\]'"):
        build_with_ray(load_config(None, {}, {}), [], SETTINGS.made_of(READER), tmp_path, rows_bytes=0)


def test_two_builds_do_not_work_in_one_folder(build, tmp_path, monkeypatch):
    from saeserve_server.engine.folder_lock import lock_folder

    lock = lock_folder(tmp_path / "work" / "build")
    monkeypatch.setattr(distributed, "lock_folder", lambda folder: lock_folder(folder, 0))
    with pytest.raises(ConfigError, match="another build works here"):
        build()
    lock.release()
