import json
import os
from pathlib import Path

import pytest

from saeserve_server.sources import revision
from saeserve_server.sources.revision import content_hash, memo_path


def write(path: Path, text: str, age: float = 100) -> Path:
    """A file that was last written `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were really read."""
    names: list[str] = []
    real = revision._file_hash

    def counting(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(revision, "_file_hash", counting)
    return names


def test_the_hash_is_of_names_and_bytes_and_the_extra(tmp_path: Path) -> None:
    a, b = write(tmp_path / "x" / "a", "1"), write(tmp_path / "x" / "b", "2")
    first = content_hash([a, b])
    assert content_hash([b, a]) == first
    moved = [write(tmp_path / "y" / "a", "1"), write(tmp_path / "y" / "b", "2")]
    assert content_hash(moved) == first
    others = {
        content_hash([a]),
        content_hash([a, b], "extra"),
        content_hash([a, write(tmp_path / "x" / "c", "2")]),
        content_hash([write(tmp_path / "z" / "a", "12"), write(tmp_path / "z" / "b", "")]),
    }
    assert len(others | {first}) == 5


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, hashed: list[str]) -> None:
    a, b = write(tmp_path / "a", "1"), write(tmp_path / "b", "2")
    first = content_hash([a, b])
    assert hashed == ["a", "b"]
    assert content_hash([a, b]) == first
    assert hashed == ["a", "b"]
    write(a, "3")
    assert content_hash([a, b]) != first
    assert hashed == ["a", "b", "a"]


def test_a_replaced_file_of_the_same_size_and_time_is_read_again(tmp_path: Path, hashed: list[str]) -> None:
    a = write(tmp_path / "a", "1")
    first, stamp = content_hash([a]), a.stat()
    new = write(tmp_path / "new", "2")
    os.utime(new, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    new.replace(a)
    assert content_hash([a]) != first
    assert hashed == ["a", "a"]


def test_a_file_just_written_is_not_remembered(tmp_path: Path, hashed: list[str]) -> None:
    a = write(tmp_path / "a", "1", age=0)
    content_hash([a])
    content_hash([a])
    assert hashed == ["a", "a"]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = write(tmp_path / "a", "1")
    real = revision._file_hash

    def changing(path: Path) -> str:
        digest = real(path)
        write(path, "2", age=50)
        return digest

    monkeypatch.setattr(revision, "_file_hash", changing)
    content_hash([a])
    assert not memo_path().exists()


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"a": 1}', '{"a": [[1, 2], "x"]}', "null"])
def test_a_damaged_memo_is_ignored_and_replaced(tmp_path: Path, hashed: list[str], damage: str) -> None:
    a = write(tmp_path / "a", "1")
    first = content_hash([a])
    memo_path().write_text(damage)
    assert content_hash([a]) == first
    assert list(json.loads(memo_path().read_text())) == [str(a)]
    assert hashed == ["a", "a"]


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", "1"), write(tmp_path / "b", "2")
    content_hash([a])
    a.unlink()
    content_hash([b])
    assert list(json.loads(memo_path().read_text())) == [str(b)]


def test_a_cache_folder_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write(tmp_path / "a", "1")
    first = content_hash([a])
    monkeypatch.setenv("XDG_CACHE_HOME", str(a))  # a file where a folder should be
    assert content_hash([a]) == first
    assert a.read_text() == "1"


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        content_hash([tmp_path / "no"])
