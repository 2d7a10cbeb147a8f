"""The seal of shared values: what opens, what does not and as what it is counted, and how keys are changed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from saeserve_server import watched
from saeserve_server.cache.answers import make_answer_cache
from saeserve_server.cache.seal import MOST_KEYS, KeyFile, Seal
from saeserve_server.config import ServerSettings, load_config
from saeserve_server.errors import ConfigError
from saeserve_server.metrics import Metrics, SharedFault

QUESTION = bytes(range(32))
PAYLOAD = b"an answer"
OLD, NEW = "old-" * 8, "new-" * 8


def keyed(folder: Path, *keys: str) -> Seal:
    path = folder / "-".join(key[:3] for key in keys)
    path.write_text("\n".join(keys) + "\n")
    return Seal(KeyFile(path))


@pytest.mark.parametrize("signed", [False, True])
def test_what_was_sealed_opens_for_its_question_and_every_changed_byte_closes_it(tmp_path: Path, signed: bool) -> None:
    seal = keyed(tmp_path, OLD) if signed else Seal()
    value = seal.close(QUESTION, PAYLOAD)
    assert seal.open(QUESTION, value) == PAYLOAD
    assert seal.open(bytes(32), value) is SharedFault.INVALID
    for place in range(len(value)):
        changed = value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]
        assert seal.open(QUESTION, changed) in (SharedFault.INVALID, SharedFault.UNSIGNED)
        assert seal.open(QUESTION, value[:place]) in (SharedFault.INVALID, SharedFault.UNSIGNED)
    assert seal.open(QUESTION, seal.close(QUESTION, b"")) == b""


def test_a_value_does_not_move_to_another_question_by_changing_what_it_says_of_itself(tmp_path: Path) -> None:
    seal = keyed(tmp_path, OLD)
    value, other = seal.close(QUESTION, PAYLOAD), bytes(32)
    assert seal.open(other, value.replace(QUESTION, other, 1)) is SharedFault.UNSIGNED


def test_keys_are_changed_in_three_steps_without_a_value_lost(tmp_path: Path) -> None:
    before, both, turned, after = (keyed(tmp_path, *keys) for keys in ((OLD,), (OLD, NEW), (NEW, OLD), (NEW,)))
    for writer, reader in [(before, both), (both, before), (both, turned), (turned, both), (turned, after)]:
        assert reader.open(QUESTION, writer.close(QUESTION, PAYLOAD)) == PAYLOAD
    assert after.open(QUESTION, before.close(QUESTION, PAYLOAD)) is SharedFault.UNSIGNED


def test_the_file_is_read_again_and_one_that_cannot_be_used_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watched, "LOOK_INTERVAL", 0.0)
    path = tmp_path / "key"
    path.write_text(OLD)
    keys = KeyFile(path)
    with caplog.at_level(logging.INFO, "saeserve_server"):
        for bad in ("", "short"):
            path.write_text(bad)
            assert keys.keys() == (OLD.encode(),)
        path.write_text(f"{NEW}\r\n\n")
        assert keys.keys() == (NEW.encode(),)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.WARNING, logging.INFO]
    assert not {OLD, NEW, "short"} & {word for record in caplog.records for word in record.getMessage().split()}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "0 keys"),
        (b"\n \n", "0 keys"),
        (b"hunter2", "key 1"),
        (OLD.encode() + b"\nhunter2", "key 2"),
        (b"hunter2 " * 4, "key 1"),
        (b"\xff" * 32, "key 1"),
        ((OLD + "\n").encode() * (MOST_KEYS + 1), "9 keys"),
        (None, "No such file"),
    ],
)
def test_a_file_without_keys_is_an_error_that_names_it_and_repeats_nothing(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="cache_key_file") as caught:
        make_answer_cache(ServerSettings(cache_url="redis://host", cache_key_file=path), Metrics())
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_key_without_redis_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "saeserve.toml").write_text('cache_key_file = "key"\n')
    with pytest.raises(ConfigError, match=r"cache_key_file: .*it takes cache_url too"):
        load_config(tmp_path / "saeserve.toml", {}, {})
    config = load_config(tmp_path / "saeserve.toml", {}, {"SAESERVE_CACHE_URL": "redis://host"})
    assert config.cache_key_file == tmp_path / "key"
