"""How Neuronpedia's calls are answered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TOKEN_LIMIT = 200
"""Tokens of a prompt with its BOS, as Neuronpedia's server has it by default."""


@dataclass(frozen=True, slots=True)
class Options:
    """What `saeserve web` is told of them."""

    secret: str | None = None
    """What the header X-SECRET-KEY has to hold; None: whatever it holds."""
    snake_case: bool = False
    """Whether answers have snake_case names, as they had before August 2026, and as the Python client reads them."""
    token_limit: int = TOKEN_LIMIT
    """Of a prompt, its BOS included; of each of several a quarter."""


def secret_of(path: str) -> str:
    """The secret in a file, white space around it left out. Raises ValueError where there is none."""
    try:
        secret = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"--neuronpedia-secret-file {path}: {said}") from error
    if not secret or not secret.isascii() or not secret.isprintable():
        raise ValueError(f"--neuronpedia-secret-file {path}: expected one line of printable ASCII characters")
    return secret
