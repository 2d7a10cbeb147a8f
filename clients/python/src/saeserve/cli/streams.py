"""Standard input, output and errors as they may be: closed, full, left by their reader, or of few characters."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TextIO

_MARKS = {"«": "<<", "»": ">>", "·": ".", "…": "...", "✓": "=", "✗": "x"}
"""What we draw, where a terminal has not these characters."""


def prepare() -> None:
    """Before anything else: what was closed leads nowhere, and what a terminal cannot show is spelled out."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Else a connection takes the number, and what a library says on standard error is sent over it.
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # else print() takes standard output for it
    codecs.register_error("saeserve", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="saeserve")


def complain(message: str) -> None:
    """Print a line on standard error, if that can be done."""
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        drop(sys.stderr)


def drop(stream: TextIO) -> None:
    """What is still to be written goes nowhere: the interpreter's own flush at the end must not complain."""
    with contextlib.suppress(OSError, ValueError):  # a stream that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def read_input(most: int) -> str:
    """All of standard input, in the locale's encoding, without its last line break. Raises ValueError.

    That line break the shell has put there, and not the author.
    """
    if sys.stdin is None:
        raise ValueError("standard input is closed: there is no text to read")
    buffer = getattr(sys.stdin, "buffer", None)
    try:
        given = sys.stdin.read(most + 1) if buffer is None else buffer.read(most + 1)
    except OSError as error:
        raise ValueError(f"standard input cannot be read: {error.strerror}") from error
    if len(given) > most:
        raise ValueError(f"standard input has more than {most:,} bytes")
    text = given if isinstance(given, str) else decoded(given, _encoding(sys.stdin.encoding), "standard input")
    return text.removesuffix("\n").removesuffix("\r")


def argument(given: str) -> str:
    """A text from the command line, where Python keeps bytes that it could not read as marks. Raises ValueError."""
    if not any("\ud800" <= char <= "\udfff" for char in given):
        return given
    return decoded(os.fsencode(given), _encoding(sys.getfilesystemencoding()), "")


def decoded(given: bytes, encoding: str, what: str) -> str:
    """Bytes as text. Raises ValueError, which says which byte is wrong, and where: counted from 0."""
    try:
        return given.decode(encoding)
    except UnicodeDecodeError as error:
        name = error.encoding.upper()
        wrong = f"not {name}, byte 0x{given[error.start]:02x} at {error.start}"
        raise ValueError(f"{what} is {wrong}" if what else wrong) from None


def _encoding(name: str) -> str:
    """Texts are UTF-8 where the locale knows of ASCII only."""
    return "utf-8" if codecs.lookup(name).name == "ascii" else codecs.lookup(name).name


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(_MARKS.get(char) or char.encode("unicode_escape").decode() for char in wrong), error.end
