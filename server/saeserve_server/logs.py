"""Log lines on stderr: text for people, or one JSON object a line.

Whatever is logged may hold what a caller sent. So nothing reaches a line unescaped: no control character, no line
break, no quote that would let a value pass for another field.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import warnings
from datetime import UTC, datetime
from typing import Any

from saeserve_server.config import Config
from saeserve_server.errors import printable

LONGEST_LINE = 2000
"""Characters of an exception's line; it may quote a whole request."""

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_PLAIN = re.compile(r"[\w.:/+@%-]+", re.ASCII)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII: time, level, logger, message, and whatever was passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_extra(record))
        if record.exc_info:
            line["exception"] = "\n".join(_clipped(text) for text in self.formatException(record.exc_info).split("\n"))
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """`time level logger: message key=value …`; the lines of an exception follow, each behind a `|`.

    The time is local, with its offset from UTC: `2026-11-05T09:30:00.125+01:00`.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: ")

    def format(self, record: logging.LogRecord) -> str:
        here = datetime.fromtimestamp(record.created, UTC).astimezone()
        record.asctime = here.isoformat(timespec="milliseconds")
        line = self.formatMessage(record) + escaped(record.getMessage())
        line += "".join(f" {key}={_field(value)}" for key, value in _extra(record).items())
        if record.exc_info:
            for text in self.formatException(record.exc_info).splitlines():
                line += "\n  | " + escaped(_clipped(text))
        return line


class ConsoleFormatter(logging.Formatter):
    """`saeserve-server: warning: message`."""

    def format(self, record: logging.LogRecord) -> str:
        return f"saeserve-server: {record.levelname.lower()}: {printable(record.getMessage())}"


def escaped(text: str) -> str:
    """The text on one line: what cannot be printed, as `\\n` or `\\x1b`; a backslash doubled, so that each is what it
    seems."""
    return printable(text.replace("\\", "\\\\"))


def _field(value: object) -> str:
    """A value as it is where it cannot be taken for anything else, quoted otherwise."""
    if isinstance(value, list):
        return "[" + ",".join(_quoted(str(one)) for one in value) + "]"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    return '"' + escaped(text).replace('"', '\\"') + '"'


def _clipped(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "…"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def configure_logging(config: Config) -> None:
    """Sets up logging for a process of the server."""
    _log_with(JsonFormatter() if config.log_format == "json" else TextFormatter())
    logging.getLogger("saeserve_server").setLevel(config.log_level.upper())
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # a caller that left is no error, and what is one we log


def configure_console() -> None:
    """Sets up logging for a command that a person runs: warnings only, a line each, as its errors are."""
    _log_with(ConsoleFormatter())


def _log_with(formatter: logging.Formatter) -> None:
    """All that this process has to say goes through one formatter, Python's own warnings included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    warnings.formatwarning = _format_warning
    logging.captureWarnings(True)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Without the source line, which would be a second one."""
    return f"{category.__name__}: {message} ({filename}:{lineno})"
