"""What callers send cannot forge a log line, and their texts are logged only when asked for."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
import time

import pytest

import saeserve
from saeserve_server.logs import JsonFormatter, TextFormatter
from tests.security.conftest import Guarded, Keys, known, lines_of
from tests.service.servers import Server

FORGED = 'x" code=OK ms=1.0\n2026-01-01 00:00:00,000 INFO    saeserve_server: forged\x1b[31m\r\x00\u2028\u202e\\'


def record(
    message: str, *arguments: object, exception: BaseException | None = None, **extra: object
) -> logging.LogRecord:
    info = (type(exception), exception, exception.__traceback__) if exception else None
    made = logging.LogRecord("saeserve_server.x", logging.INFO, __file__, 1, message, arguments, info)
    vars(made).update(extra)
    return made


@pytest.mark.parametrize("place", ["message", "field", "list"])
def test_a_line_of_text_stays_one_line_with_its_own_fields(place: str) -> None:
    made = {
        "message": record("asked for %s", FORGED, code="NOT_FOUND"),
        "field": record("Search", request_id=FORGED, code="NOT_FOUND"),
        "list": record("Search", texts=["plain", FORGED], code="NOT_FOUND"),
    }[place]
    line = TextFormatter().format(made)
    assert line.isprintable()
    assert line.endswith(" code=NOT_FOUND")
    if place != "message":  # which comes before all fields and is the server's own
        fields = shlex.split(line)
        assert [field for field in fields if field.startswith("code=")] == ["code=NOT_FOUND"]


def test_a_line_of_json_stays_one_object() -> None:
    line = JsonFormatter().format(record("Search", request_id=FORGED, code="NOT_FOUND"))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["request_id"] == FORGED
    assert json.loads(line)["code"] == "NOT_FOUND"


def test_a_line_says_when_by_which_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    made = record("ready")
    made.created, made.msecs = 1_793_871_000.125, 125.0
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        line, written = TextFormatter().format(made), json.loads(JsonFormatter().format(made))
    time.tzset()
    assert line.startswith("2026-11-05T15:00:00.125+05:30 INFO    saeserve_server.x: ready")
    assert written["time"] == "2026-11-05T09:30:00.125Z"


def test_what_python_and_libraries_warn_of_is_one_line_too() -> None:
    code = (
        "import logging, warnings\nfrom saeserve_server.logs import configure_console, configure_logging\n"
        "from saeserve_server.config import load_config\n"
        "for configure in (configure_console, lambda: configure_logging(load_config(None, {}, {}))):\n"
        "    configure()\n    warnings.warn('old\\n\\x1b[31m', FutureWarning, stacklevel=1)\n"
        "    logging.getLogger('lib').warning('new\\n\\x1b[31m')\n"
    )
    said = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, timeout=60
    ).stderr
    assert said.count("\n") == 4
    assert said.startswith(r"saeserve-server: warning: FutureWarning: old\n\x1b[31m (")
    assert said.replace("\n", "").isprintable()


def test_an_exception_cannot_begin_a_line() -> None:
    try:
        raise ValueError(FORGED + "a" * 10_000)
    except ValueError as error:
        made = record("a call failed", exception=error, request_id="r1")
    first, *others = TextFormatter().format(made).split("\n")
    assert first.endswith("a call failed request_id=r1")
    assert all(line.startswith("  | ") and line.isprintable() and len(line) < 4000 for line in others)
    assert any("forged" in line for line in others)
    assert len(JsonFormatter().format(made)) < 8000


def ask_for_trouble(client: saeserve.Client, request_id: str) -> None:
    """Refused calls whose every part holds something to be forged."""
    for arguments in ({"sources": FORGED}, {"sort": f"no {FORGED}"}, {"sets": FORGED}, {"model": FORGED}):
        with pytest.raises(saeserve.SaeserveError):
            client.search(f"secret {FORGED}", request_id=request_id, **arguments)


def test_without_log_texts_no_line_quotes_the_request(guarded: Guarded) -> None:
    request_id = 'json-1" code=OK'
    with guarded.client(client_name="bob code=OK") as client:
        ask_for_trouble(client, request_id)
        client.search("secret red", request_id="json-2")
    lines = guarded.server.log()  # every one parses
    mine = [line for line in lines if line.get("request_id") == request_id]
    assert len(mine) == 4
    for line in mine:
        assert {"request_id", "client", "code", "reason", "ms"} <= set(line)
        assert line["code"] in ("NOT_FOUND", "INVALID_ARGUMENT")
        assert line["client"] == "bob code=OK"
        assert "error" not in line
    written = guarded.server._log.read_text()
    assert "forged" not in written
    assert "secret" not in written


def test_with_log_texts_they_are_clipped_and_escaped(mutual: Server, keys: Keys) -> None:
    with known(mutual, keys) as client:
        ask_for_trouble(client, "text-1")
        client.encode(["secret one", "b" * 200], features="0-demo:1", request_id="text-2")
        list(client.encode_stream(["secret two"], features="0-demo:1", request_id="text-3"))
        with pytest.raises(saeserve.InvalidArgument):
            client.tokenize("c" * 70_000, request_id="text-4")
    refused = lines_of(mutual, "text-1")
    assert len([line for line in refused if " asked " in line]) == 4
    assert len([line for line in refused if " code=" in line and "error=" in line]) == 4
    assert 'texts=["secret one","' in lines_of(mutual, "text-2")[0]
    assert 'texts=["secret two"]' in lines_of(mutual, "text-3")[0]
    assert all(len(line) < 1000 for line in lines_of(mutual, "text-4"))
    for line in mutual._log.read_text().split("\n"):
        assert line.isprintable()
        assert not line.startswith("2026-01-01")


def test_a_request_id_that_cannot_be_printed_is_replaced(guarded: Guarded) -> None:
    with guarded.client() as client:
        for given in ("a" * 129, "caf\u00e9"):
            try:
                answered = client.server_info(request_id=given).call_info.request_id
            except (saeserve.SaeserveError, ValueError):  # gRPC does not even send it
                continue
            assert answered != given
