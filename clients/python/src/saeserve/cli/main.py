"""Runs one command and turns what goes wrong into one line on stderr and an exit code that scripts can tell apart."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from grpc import StatusCode

from saeserve.cli import commands, streams
from saeserve.cli.ended import Ended
from saeserve.cli.options import EXIT_CODES, WAIT, parser
from saeserve.cli.parser import UsageError, with_seconds
from saeserve.cli.printing import sentence
from saeserve.cli.wording import in_flags
from saeserve.transport.errors import SaeserveError

OK, FAILED, USAGE, NOT_FOUND, UNREACHABLE = EXIT_CODES
INTERRUPTED = 130
BROKEN_PIPE = 141

_CODES = {
    StatusCode.INVALID_ARGUMENT: USAGE,
    StatusCode.NOT_FOUND: NOT_FOUND,
    StatusCode.UNAVAILABLE: UNREACHABLE,
    StatusCode.DEADLINE_EXCEEDED: UNREACHABLE,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `saeserve` with these arguments, or the process's own, and return its exit code."""
    streams.prepare()
    if sys.stdout is None:
        return _fail("standard output is closed: there is nowhere to write the answer", FAILED)
    logging.getLogger("saeserve").addHandler(_WARNINGS)
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough
        streams.drop(sys.stdout)
        return BROKEN_PIPE
    except OSError as error:  # a full disk
        streams.drop(sys.stdout)
        return _fail(f"the answer cannot be written: {error.strerror or error}", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _run(argv: Sequence[str]) -> int:
    """Raises OSError where the answer cannot be written."""
    if not argv:
        parser().print_help()
        return OK
    try:
        return commands.run(parser().parse_args(with_seconds(argv, "--wait", WAIT)))
    except SystemExit as end:  # help, version
        return end.code if isinstance(end.code, int) else OK
    except UsageError as error:
        return _fail(str(error), USAGE)
    except SaeserveError as error:
        return _fail(in_flags(str(error)), _CODES.get(error.code, FAILED))
    except Ended as end:
        return _fail(str(end), end.code)
    except commands.BadAnswer as error:
        return _fail(f"the server's answer makes no sense: {error}", FAILED)
    except (ValueError, TypeError) as error:
        return _fail(in_flags(str(error)), USAGE)


def _fail(message: str, code: int) -> int:
    streams.complain(f"saeserve: error: {sentence(message)}")
    return code


class _Warnings(logging.Handler):
    """What the client warns of, as one line."""

    def emit(self, record: logging.LogRecord) -> None:
        streams.complain(f"saeserve: {record.levelname.lower()}: {sentence(in_flags(record.getMessage()))}")


_WARNINGS = _Warnings(logging.WARNING)
