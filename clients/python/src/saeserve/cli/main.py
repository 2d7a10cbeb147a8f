"""Runs one command and turns what goes wrong into one line on stderr and an exit code that scripts can tell apart."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from grpc import StatusCode

from saeserve.cli import commands
from saeserve.cli.options import EXIT_CODES, parser
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets its escape instead of a traceback.
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = parser().parse_args(argv)
        commands.run(arguments)
        sys.stdout.flush()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else OK
    except SaeserveError as error:
        return _fail(str(error), _CODES.get(error.code, FAILED))
    except BrokenPipeError:
        # Whoever read has enough. The interpreter's own flush at the end must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:  # a full disk, a closed output
        return _fail(f"the answer cannot be written: {error.strerror}", FAILED)
    except (ValueError, TypeError) as error:
        return _fail(str(error), USAGE)
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def _fail(message: str, code: int) -> int:
    print("saeserve: error:", " ".join(message.split()), file=sys.stderr)
    return code
