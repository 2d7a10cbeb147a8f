"""Standard input, output and errors closed, full, left by their reader, or no text; arguments that are none."""

import io
import os
import subprocess
import sys

import pytest

from tests.client.fake import TEXT


@pytest.fixture
def in_shell(target):
    """Runs the command in a shell with these redirections: exit code and what stood on both."""

    def call(arguments, redirections):
        line = f'exec "$0" -m saeserve {arguments} {redirections}'
        environment = {**os.environ, "SAESERVE_TARGET": target}
        done = subprocess.run(
            ["sh", "-c", line, sys.executable], capture_output=True, env=environment, timeout=60, check=False
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return call


@pytest.mark.parametrize(
    ("arguments", "redirections", "code", "says"),
    [
        ("search red", ">&-", 1, "standard output is closed: there is nowhere to write the answer"),
        ("tokenize -", "<&-", 2, "standard input is closed: there is no text to read"),
        ("search red", ">/dev/full", 1, "the answer cannot be written: No space left on device"),
        ("--help", ">/dev/full", 1, "the answer cannot be written: No space left on device"),
        ("nothing", "2>/dev/full", 2, ""),
        ("nothing", "<&- >&- 2>&-", 1, ""),
        ("search red --limit x", "2>&-", 2, ""),
    ],
)
def test_a_stream_that_is_not_there_is_one_line_and_a_documented_code(in_shell, arguments, redirections, code, says):
    assert in_shell(arguments, redirections) == (code, "", f"saeserve: error: {says}\n" if says else "")


def test_what_is_not_needed_may_be_closed(in_shell):
    code, out, err = in_shell("tokenize red", "<&- 2>&-")
    assert (code, err) == (0, "")
    assert "favorite" in out


@pytest.mark.parametrize("arguments", [["search", TEXT], ["search", TEXT, "--json"], ["--help"]])
def test_a_reader_that_leaves_is_no_traceback(target, arguments):
    environment = {**os.environ, "SAESERVE_TARGET": target}
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "saeserve", *arguments],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141


def given(monkeypatch, data, encoding="utf-8"):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding=encoding))


@pytest.mark.parametrize(
    ("data", "encoding", "text"),
    [
        (b"two\nlines\n", "utf-8", "two\nlines"),
        (b"two\r\nlines\r\n", "utf-8", "two\r\nlines"),  # as it is: offsets count its bytes
        ("café".encode(), "ascii", "café"),
        ("café".encode("latin-1"), "iso8859-1", "café"),
        (b"", "utf-8", ""),
    ],
)
def test_standard_input_is_a_text_in_the_encoding_of_the_locale(run, fake, monkeypatch, data, encoding, text):
    given(monkeypatch, data, encoding)
    assert run("tokenize", "-")[0] == 0
    assert fake.seen[0].request.input.text == text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_standard_input_that_is_no_text_is_told_by_its_byte(run, fake, monkeypatch, encoding):
    given(monkeypatch, b"abc\xe9", encoding)
    code, out, err = run("tokenize", "-")
    assert (code, out) == (2, "")
    assert err == "saeserve: error: standard input is not UTF-8, byte 0xe9 at 3\n"
    assert fake.seen == []


def test_standard_input_is_read_once(run, monkeypatch):
    given(monkeypatch, b"a")
    code, _, err = run("encode", "2:1", "-", "-")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["tokenize", "BAD"],
        ["search", "BAD"],
        ["search", "a", "--sort", "BAD"],
        ["search", "a", "--sources", "BAD"],
        ["encode", "2:1", "a", "BAD"],
        ["encode", "2:1", "--text", "BAD"],
        ["top", "2:1", "--page-token", "BAD"],
        ["feature", "BAD"],
    ],
)
def test_an_argument_that_is_no_text_is_told_by_its_byte(run, fake, arguments):
    bad = os.fsdecode(b"caf\xe9")
    code, out, err = run(*[bad if argument == "BAD" else argument for argument in arguments])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "not UTF-8, byte 0xe9 at 3" in err
    assert fake.seen == []


def test_a_file_may_have_any_name(run, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.write_text("sesame")
    assert run("info", "--token-file", str(path))[0] == 0
