"""Small tokenizers in the shapes of real ones, made here: by name, with what each does to characters."""

from __future__ import annotations

import re
from collections.abc import Callable

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from saeserve_server.text.tokenizer import Tokenizer

BOS, END = "<s>", "</s>"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_LETTERS = [*"abcdefghijklmnopqrstuvwxyzABCR.:-()=\n", *"0123456789"]
_WORDS = ["red", "re", "is", "ap", "café", "fé", "é", "def"]


def tokenizer(raw: tokenizers.Tokenizer, bos: bool = True) -> Tokenizer:
    return Tokenizer(raw.to_str(), raw.token_to_id(BOS) if bos else None)


def _merges(words: list[str], letters: set[str]) -> list[tuple[str, str]]:
    """Merges that build the words from the left, for those whose letters there are."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        if set(word) <= letters:
            merges.update({(word[:end], word[end]): None for end in range(1, len(word))})
    return list(merges)


def _bpe(letters: list[str], words: list[str], first: list[str], **options: object) -> tokenizers.Tokenizer:
    merges = _merges(words, set(letters))
    vocabulary = dict.fromkeys([*first, *letters, *(a + b for a, b in merges)])
    return tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges, **options))  # type: ignore[arg-type]


def sentencepiece_bpe() -> tokenizers.Tokenizer:
    """▁ for spaces, bytes for what has no token, digits by themselves. The parts that add ▁ come on top."""
    words = ["▁red", "▁is", "▁a", "red", "▁▁", "▁▁▁▁", "é"]
    raw = _bpe([*_LETTERS, "▁", "é"], words, ["<unk>", *_BYTES], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return raw


def llama2(normalized: bool = False) -> tokenizers.Tokenizer:
    raw = sentencepiece_bpe()
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.add_special_tokens([AddedToken(token, normalized=normalized) for token in (BOS, END)])
    return raw


def metaspace(scheme: str, split: bool = True) -> tokenizers.Tokenizer:
    raw = sentencepiece_bpe()
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    raw.decoder = decoders.Metaspace(prepend_scheme=scheme)
    raw.add_special_tokens([BOS, END])
    return raw


def gemma() -> tokenizers.Tokenizer:
    """No added ▁; runs of ▁ are in the vocabulary and added tokens too."""
    raw = sentencepiece_bpe()
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    raw.add_special_tokens([BOS, END])
    raw.add_tokens([AddedToken(token, normalized=False) for token in ("▁▁", "▁▁▁▁", "\n\n")])
    return raw


def unigram(*, byte_fallback: bool = True, normalizer: object = None) -> tokenizers.Tokenizer:
    pieces = ["<unk>", "▁", "▁red", "▁is", "red", "▁a", "é", *_LETTERS, *(_BYTES if byte_fallback else [])]
    vocabulary = [(piece, -float(place)) for place, piece in enumerate(pieces)]
    raw = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=byte_fallback))
    if normalizer is not None:
        raw.normalizer = normalizer
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    raw.decoder = decoders.Metaspace(prepend_scheme="always")
    raw.add_special_tokens([BOS, END])
    return raw


def nmt_nfkc() -> object:
    """What T5, XLM-R and XGLM do: odd white space made plain, compatibility forms, runs of spaces cut to one."""
    return normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])


def byte_level(normalizer: object = None, *, prefix: bool = False, trim: bool = False) -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    written = [pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(word)[0][0] for word in _WORDS]
    raw = _bpe(alphabet, [*written, "Ġred", "Ġis"], [])
    if normalizer is not None:
        raw.normalizer = normalizer
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    raw.decoder = decoders.ByteLevel()
    if trim:
        raw.post_processor = processors.ByteLevel(trim_offsets=True)
    raw.add_special_tokens([BOS, END])
    return raw


def with_added(raw: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Added tokens of every kind."""
    raw.add_tokens(
        [
            AddedToken("<left>", lstrip=True, normalized=False),
            AddedToken("<right>", rstrip=True, normalized=False),
            AddedToken("word", single_word=True, normalized=False),
            AddedToken("Same", normalized=True),
            AddedToken("日本", normalized=False),
        ]
    )
    return raw


def wordpiece() -> tokenizers.Tokenizer:
    """BERT's: lower case, no accents, spaces dropped."""
    letters = [*"abcdefghijklmnopqrstuvwxyz.0123456789"]
    pieces = ["[UNK]", *letters, *(f"##{letter}" for letter in letters), "red", "##pl", "is"]
    raw = tokenizers.Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    raw.add_special_tokens([BOS, END])
    return raw


def word_end() -> tokenizers.Tokenizer:
    """GPT-1's: </w> where a word ends."""
    letters = [*"abcdefghijklmnopqrstuvwxyz.0123456789"]
    raw = _bpe(
        [*letters, *(f"{letter}</w>" for letter in letters)],
        [],
        ["<unk>"],
        unk_token="<unk>",
        end_of_word_suffix="</w>",
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.decoder = decoders.BPEDecoder()
    raw.add_special_tokens([BOS, END])
    return raw


def split_metaspace() -> tokenizers.Tokenizer:
    """XLNet's: spaces are dropped, and written anew before each word."""
    raw = metaspace("always")
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return raw


FAITHFUL: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level, offsets trimmed": lambda: byte_level(trim=True),
    "byte-level with a prefix": lambda: byte_level(prefix=True),
    "Llama 2": llama2,
    "Llama 2, special tokens normalised": lambda: llama2(normalized=True),
    "Metaspace always": lambda: metaspace("always"),
    "Metaspace first": lambda: metaspace("first"),
    "Metaspace first, unsplit": lambda: metaspace("first", split=False),
    "Metaspace never": lambda: metaspace("never"),
    "Gemma": gemma,
    "Unigram": unigram,
}
"""Those that change no character, but for ▁ in the text."""

CHANGING: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "NFC (Pythia)": lambda: byte_level(normalizers.NFC(), trim=True),
    "NFKC": lambda: byte_level(normalizers.NFKC()),
    "NFD": lambda: byte_level(normalizers.NFD()),
    "lower case": lambda: byte_level(normalizers.Lowercase()),
    "stripped": lambda: byte_level(normalizers.Strip()),
    "no accents": lambda: byte_level(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
    "NFC Llama 2, stripped": lambda: _nfc_llama2(),
    "Unigram, NMT NFKC": lambda: unigram(normalizer=nmt_nfkc()),
    "Unigram, NMT NFKC, no bytes": lambda: unigram(byte_fallback=False, normalizer=nmt_nfkc()),
    "added tokens, byte-level": lambda: with_added(byte_level(normalizers.NFC())),
    "added tokens, Llama 2": lambda: with_added(llama2()),
    "added tokens, Metaspace": lambda: with_added(metaspace("always")),
    "WordPiece": wordpiece,
    "GPT-1": word_end,
    "XLNet": split_metaspace,
}
"""Those that change, swallow or add characters."""

SHAPES = FAITHFUL | CHANGING

AMBIGUOUS = {name for name in SHAPES if re.search("Metaspace|Unigram|prefix|Llama 2, stripped|XLNet", name)}
"""Those that add a space only where there is none: their ids do not tell whether it was there."""


def _nfc_llama2() -> tokenizers.Tokenizer:
    raw = llama2()
    raw.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Strip(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return raw
