"""Texts come out of files in order, one at a time; what cannot be read is named by file and line."""

from __future__ import annotations

import json

import pytest

from saeserve_server.errors import ConfigError
from saeserve_server.records.corpus import Corpus, find_files


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_text_file_is_one_text(tmp_path):
    files = [
        write(tmp_path / "a.txt", "one\r\ntwo\n"),
        write(tmp_path / "b.md", "\ufeffthree"),
        write(tmp_path / "c", ""),
    ]
    assert list(Corpus(files)) == ["one\r\ntwo\n", "three"]


def test_or_a_text_a_line(tmp_path):
    file = write(tmp_path / "a.txt", "\ufeffone\r\n\n  \n two\u2028still two\nthree")
    assert list(Corpus([file], lines=True)) == ["one", " two\u2028still two", "three"]


def test_json_lines_hold_a_text_each_and_keep_empty_ones(tmp_path):
    file = write(tmp_path / "a.jsonl", '\ufeff{"text": "one"}\n\n{"text": "", "more": 1}\r\n{"text": "tw\\u00f6"}')
    assert list(Corpus([file])) == ["one", "", "twö"]
    assert list(Corpus([file], lines=True)) == ["one", "", "twö"]


def test_the_field_of_the_text_can_be_chosen(tmp_path):
    file = write(tmp_path / "a.ndjson", '{"body": "one", "text": "other"}')
    assert list(Corpus([file], field="body")) == ["one"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"a\.jsonl:2: not valid JSON"),
        (b"[1]", r"a\.jsonl:2: expected a JSON object"),
        (b'{"body": "x", "id": 1}', r"a\.jsonl:2: no field 'text'; it has body, id"),
        (b"{}", r"a\.jsonl:2: no field 'text'; it has none"),
        (b'{"text": 3}', r"a\.jsonl:2: field 'text': expected a string, got '3'"),
        (b'{"text": null}', r"a\.jsonl:2: field 'text': expected a string"),
        (b'{"text": "\\ud800"}', r"a\.jsonl:2: field 'text': half of a surrogate pair"),
        (b'{"text": "\xff"}', r"a\.jsonl:2: not UTF-8"),
    ],
)
def test_a_bad_line_is_named_after_the_good_ones_before_it(tmp_path, line, message):
    texts = iter(Corpus([write(tmp_path / "a.jsonl", b'{"text": "good"}\n' + line + b"\n")]))
    assert next(texts) == "good"
    with pytest.raises(ConfigError, match=message):
        next(texts)


def test_text_that_is_not_utf8_is_named_by_its_line(tmp_path):
    file = write(tmp_path / "a.txt", b"good\nbad \xff\n")
    for lines in (False, True):
        with pytest.raises(ConfigError, match=r"a\.txt:2: not UTF-8 text"):
            list(Corpus([file], lines=lines))


def test_files_are_read_only_when_their_turn_comes(tmp_path):
    good, bad = write(tmp_path / "a.txt", "good"), write(tmp_path / "b.txt", b"\xff")
    corpus = Corpus([good, bad])
    assert corpus.size == 5
    texts = iter(corpus)
    assert (next(texts), corpus.read) == ("good", 4)


def test_reading_counts_to_the_whole_size_and_can_be_repeated(tmp_path):
    corpus = Corpus([write(tmp_path / "a.jsonl", json.dumps({"text": "é"}) + "\n"), write(tmp_path / "b.txt", "é")])
    for _ in range(2):
        assert list(corpus) == ["é", "é"]
        assert corpus.read == corpus.size


def test_folders_and_patterns_give_sorted_files_once(tmp_path):
    for name in ("b.txt", "a.jsonl", "deep/er/c.txt", "image.png", ".hidden/d.txt", "notes.md"):
        write(tmp_path / name, "x")

    def found(*paths):
        return [file.relative_to(tmp_path).as_posix() for file in find_files(paths)]

    assert found(tmp_path) == ["a.jsonl", "b.txt", "deep/er/c.txt"]
    assert found(tmp_path / "*.txt", str(tmp_path)) == ["b.txt", "a.jsonl", "deep/er/c.txt"]
    assert found(f"{tmp_path}/**/*.txt") == ["b.txt", "deep/er/c.txt"]
    assert found(tmp_path / "notes.md", tmp_path / "notes.md") == ["notes.md"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path):
    file = write(tmp_path / "a[1].txt", "x")
    assert find_files([file]) == [file]


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.txt", "no such file or folder"), ("*.xyz", "no file matches"), ("empty", r"no \.txt, \.jsonl")],
)
def test_a_path_without_files_is_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=message):
        find_files([tmp_path / name])


def test_a_file_that_vanished_is_named(tmp_path):
    file = write(tmp_path / "a.txt", "x")
    corpus = Corpus([file])
    file.unlink()
    with pytest.raises(ConfigError, match=r"a\.txt: No such file"):
        list(corpus)
    with pytest.raises(ConfigError, match=r"a\.txt: No such file"):
        Corpus([file])
