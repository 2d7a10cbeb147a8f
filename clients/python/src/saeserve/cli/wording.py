"""Errors in the words of the command line: what a request calls `page_size` is `--count` here."""

from __future__ import annotations

import re

_FLAGS = {
    "page_size": "--count",
    "page_token": "--page-token",
    "next_page_token": "--page-token",
    "query": "WORDS",
    "input": "TEXT",
    "inputs": "TEXT",
    "input.token_ids": "--ids",
    "token_ids": "--ids",
    "feature": "FEATURE",
    "features": "FEATURE",
    "sources": "--sources",
    "limit": "--limit",
    "config.limit": "--limit",
    "ranking": "--ranking",
    "by_token": "--by-token",
    "sort_tokens": "--sort",
    "min_fires": "--min-fires",
    "min_density": "--min-density",
    "max_density": "--max-density",
    "include_bos": "--include-bos",
    "truncate": "--truncate",
    "group": "--group",
    "diversity": "--diversity",
    "threshold": "--threshold",
    "origin": "--origin",
    "RECORD_GROUP_TOP": "--group top",
    "DIVERSITY_TOKEN": "--diversity token",
    "DIVERSITY_FOLDED_TOKEN": "--diversity folded-token",
    "DIVERSITY_PHRASE": "--diversity phrase",
    "DIVERSITY_SENTENCE": "--diversity sentence",
    "DIVERSITY_TEXT": "--diversity text",
    "DIVERSITY_SEMANTIC": "--diversity semantic",
    "RANKING_RELATIVE_TO_MAX": "--ranking relative",
    "RANKING_SURPRISAL": "--ranking surprisal",
    # What Python's clients call it.
    "token_file": "--token-file",
    "ca_cert": "--ca-cert",
    "client_cert": "--client-cert",
    "client_key": "--client-key",
    "server_name": "--server-name",
    "client_name": "--client-name",
    "allow_insecure_token": "--allow-insecure-token",
}
_PHRASES = {
    "tls=True": "--tls",
    "leave out tls and": "leave out --tls and",
    "wait_ready(), or --wait on the command line, waits": "--wait waits",
    "; ask for less, stream, or give the client a larger max_message_bytes": "; ask for less",
}
"""Advice to programs."""
_SELECTED = {"kinds": "--kind"}
"""Of `filter.include` and `filter.exclude`, what is not called like its option."""

_QUOTED = r"(?<!\w)'[^']*'|\"[^\"]*\""
_PATH = r"(?<![\w.`'-])(?P<path>[A-Za-z_]+(?:\[\d+\])?(?:\.\w+(?:\[\d+\])?)*)"
_WORDS = re.compile(f"{_QUOTED}|{_PATH}(?P<colon>:(?= ))?|`(?P<code>\\w+)`")


def in_flags(message: str) -> str:
    """The message with options for the fields of requests; what it quotes stays as it is."""
    for phrase, ours in _PHRASES.items():
        message = message.replace(phrase, ours)
    return _WORDS.sub(_in_flags, message)


def _in_flags(found: re.Match[str]) -> str:
    word = found["path"] or found["code"]
    if not word:
        return found[0]  # quoted
    flag = _flag(re.sub(r"\[\d+\]", "", word))
    # `limit` and `sources` are words too: they are fields where a colon follows, others wherever they stand.
    if flag is None or not (found["colon"] or found["code"] or "_" in word or word == "truncate"):
        return found[0]
    return flag + (found["colon"] or "")


def _flag(path: str) -> str | None:
    parts = path.split(".")
    if parts[0] == "filter" and len(parts) > 1:
        if parts[1] not in ("include", "exclude"):
            return _FLAGS.get(parts[1])
        if len(parts) == 2:
            return None
        name = _SELECTED.get(parts[2], f"--{parts[2]}")
        return name if parts[1] == "include" else name.replace("--", "--exclude-")
    if parts[0] == "sort_tokens" and parts[-1] == "position":
        return "--sort-position"
    return _FLAGS.get(".".join(parts[:2])) or _FLAGS.get(parts[0])
