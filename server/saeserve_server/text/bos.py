"""Tokens by their text: which one the setting `bos` means, and which a model cannot read."""

from __future__ import annotations

import tokenizers

from saeserve_server.errors import ConfigError, nearest

AUTO = "auto"
NONE = "none"


def bos_id(setting: int | str, auto: int | None, tokenizer_json: str, vocabulary: int, place: str) -> int | None:
    """The id that `auto`, `none`, a token's text or an id stands for; None for no token.

    `auto` is the id that `auto` stands for, `vocabulary` how many ids the model has an embedding for. Raises
    ConfigError; `place` is what its message begins with.
    """
    if setting == AUTO:
        found = auto
    elif setting == NONE:
        found = None
    elif isinstance(setting, int):
        found = setting
    else:
        tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        found = tokenizer.token_to_id(setting)
        if found is None:
            raise ConfigError(
                f"{place}: expected `auto`, `none`, a token of the vocabulary or its id, got {setting!r}"
                f"{nearest(setting, tokenizer.get_vocab(with_added_tokens=True), 1)}"
            )
    if found is not None and not 0 <= found < vocabulary:
        raise ConfigError(f"{place}: expected an id from 0 to {vocabulary - 1}, got {found}")
    return found


def tokens_without_embedding(tokenizer_json: str, vocabulary: int) -> dict[int, str]:
    """The tokens that a tokenizer can give and the model cannot read, by id: its embedding has `vocabulary` rows."""
    tokens = tokenizers.Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True)
    return dict(sorted((token_id, token) for token, token_id in tokens.items() if token_id >= vocabulary))
