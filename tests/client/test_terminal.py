"""What a rogue server sends reaches no terminal as a command to it, and a terminal may be of any width and alphabet."""

import io
import json
import re
import shlex
import sys

import grpc
import pytest
from google.protobuf.message import Message

import saeserve
from saeserve.cli.printing import printable
from tests.client.fake import TEXT, Failure, hit, search_answer, status

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\x9d\x85\x7f\x00\u202e\u2066\u200b\u2028\ufeff\U000e0041'; $(owned) `owned`"
)
COMMANDS = [
    ["search", TEXT],
    ["search", TEXT, "--by-token"],
    ["search", TEXT, "--sort", "red", "--full"],
    ["encode", "0-DEMO:1", "a"],
    ["encode", "--sources", "0-demo", "a"],
    ["top", "0-DEMO:1", "--count", "2"],
    ["feature", "0-DEMO:1"],
    ["sources"],
    ["tokenize", "a"],
    ["info"],
]


def poison(message: Message, spare: set[str]) -> Message:
    """The message with the hostile text behind every text in it, but for these fields."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.type == field.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
            for part in value if field.is_repeated else [value] if message.HasField(field.name) else []:
                poison(part, spare)
        elif field.name in spare:
            continue
        elif field.type == field.TYPE_STRING and field.is_repeated:
            value[:] = [text + HOSTILE for text in value] or [HOSTILE]
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, value + HOSTILE)
        elif field.name == "piece":
            message.piece = value + HOSTILE.encode()
    return message


def make_rogue(fake, spare=()):
    for method, answer in list(fake.answers.items()):
        fake.answers[method] = lambda request, answer=answer: poison(answer(request), set(spare))


def shows_nothing(text):
    """Whether all that a terminal gets is text and line breaks."""
    return all(char == "\n" or char.isprintable() for char in text)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_text_of_a_server_reaches_a_terminal_unescaped(run, fake, monkeypatch, arguments, colour):
    make_rogue(fake, {"source"})  # the source of a feature's name is checked
    if colour:
        for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"}.items():
            monkeypatch.setenv(name, value)
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "owned" in out
    assert shows_nothing(re.sub(r"\x1b\[[\d;]*m", "", out) if colour else out)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_as_json_it_is_escaped_and_all_there(run, fake, arguments):
    make_rogue(fake)
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    assert shows_nothing(out)
    assert any(isinstance(value, str) and HOSTILE in value for value in values(json.loads(out)))


def values(node):
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return [node, *(value for part in parts for value in values(part))]


def test_nor_what_it_says_of_an_error(run, fake):
    failure = status(
        grpc.StatusCode.NOT_FOUND,
        HOSTILE,
        reason=HOSTILE,
        violations=[("filter.include.sources[0]" + HOSTILE, HOSTILE + HOSTILE)],
    )
    fake.failures = [Failure(failure)]
    code, out, err = run("search", "a")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "owned" in err
    assert shows_nothing(err)


def test_nor_does_python_print_it_in_a_traceback():
    error = saeserve.NotFound(HOSTILE + "\nowned", reason=HOSTILE)
    assert shows_nothing(str(error))
    assert str(error).endswith("\nowned")  # lines stay lines
    assert error.message == HOSTILE + "\nowned"


def test_an_answer_that_makes_no_sense_is_an_error_of_the_server(run, fake):
    make_rogue(fake)
    code, out, err = run("feature", "2:1")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("saeserve: error: the server's answer makes no sense: ")
    assert shows_nothing(err)

    def beyond(request):
        answer = search_answer(request)
        answer.results[0].max_position = 99
        return answer

    fake.answers["Search"] = beyond
    assert run("search", "a")[0] == 1


def test_a_page_token_can_be_copied_into_a_shell(run, fake):
    make_rogue(fake, {"source"})
    _, out, _ = run("top", "0-DEMO:1", "--count", "2")
    words = shlex.split(out.splitlines()[-1])
    assert words[:5] == ["more:", "saeserve", "top", "0-DEMO:1", "--page-token"]
    assert len(words) == 6


def test_what_an_error_quotes_of_the_command_line_is_escaped_too(run, monkeypatch):
    assert "\\x1b[31m" in run("find\x1b[31m", "a")[2]
    assert "\\x1b[31m" in run("info", "--nothing\x1b[31m")[2]
    monkeypatch.setenv("SAESERVE_TARGET", "\x1b[31m\nhost")
    code, _, err = run("info")
    assert (code, err.count("\n")) == (2, 1)
    assert shows_nothing(err)


def test_letters_of_all_scripts_stay():
    assert printable("naïve 赤い עברית हिन्दी 🙂 e\u0301") == "naïve 赤い עברית हिन्दी 🙂 e\u0301"
    assert printable("a\u2029b\x1bc\udce9") == "a\\u2029b\\x1bc\\udce9"


def test_numbers_that_json_has_not_are_texts(run, fake):
    def infinite(request):
        answer = search_answer(request)
        answer.results[0].CopyFrom(hit("0-demo", 1, [0.0, float("nan"), float("-inf"), 1.0], 1))
        return answer

    fake.answers["Search"] = infinite
    code, out, _ = run("search", "a", "--json")
    printed = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert code == 0
    assert printed["results"][0]["activations"] == [0.0, "NaN", "-Infinity", 1.0]


@pytest.mark.parametrize("columns", ["0", "1", "7", "-5", "", "many", "²", "9" * 30, "9" * 5000])
def test_a_terminal_of_any_width_gets_the_table(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", "²")
    code, out, err = run("search", TEXT)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:4] == ["1", "0-DEMO:1633", "4.250", "·red"]
    assert out.splitlines()[2].strip() == "My favorite color is «red»."
    assert run("search", "--help")[0] == 0


@pytest.mark.parametrize(("encoding", "line"), [("ascii", "<<red>>"), ("iso8859-1", "«red»"), ("utf-8", "«red»")])
def test_what_a_terminal_lacks_is_spelled_out(run, fake, monkeypatch, encoding, line):
    def japanese(request):
        answer = search_answer(request)
        answer.tokens[0].display = "赤い"
        return answer

    fake.answers["Search"] = japanese
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert run("search", TEXT)[0] == 0
    table = written.getvalue().decode(encoding)
    assert f"color is {line}." in table
    assert ("赤い" if encoding == "utf-8" else r"\u8d64\u3044") in table
    written.truncate(0)
    written.seek(0)
    assert run("search", TEXT, "--json")[0] == 0
    assert json.loads(written.getvalue().decode(encoding))["tokens"][0]["display"] == "赤い"
