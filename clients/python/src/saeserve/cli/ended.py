"""The end of a command that is neither an answer nor wrong usage nor the service's refusal."""

from __future__ import annotations


class Ended(Exception):
    """One line for standard error, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
