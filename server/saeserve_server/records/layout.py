"""The format of an index on disk: its files, what they hold, and the manifest that names them.

An index is a folder:

    index.json                  the manifest: magic, version, what was indexed, every file with shape and SHA-256
    tokens.bin                  [tokens of the corpus] ids of all texts one after another, no BOS prepended
    text_offsets.bin            [texts + 1] where each text begins in tokens.bin
    SOURCE/fires.bin            [features] positions on which the feature fires (activation > 0)
    SOURCE/sums.bin             [features] sum of its activations over those
    SOURCE/maxima.bin           [features] its largest activation, 0 if it never fires
    SOURCE/histogram.bin        [features, 42] its activations > 0, counted in powers of two
    SOURCE/record_offsets.bin   [features + 1] where each feature's records begin; they fall by (maximum, text, block)
    SOURCE/records.bin          [records] where a record's window lies and what its maximum is
    SOURCE/windows.bin          [records, 33] activations in the window, zero after its length
    SOURCE/top_offsets.bin      [features + 1] where each feature's top tokens begin
    SOURCE/top_tokens.bin       [top tokens] peak tokens of the records by count, then maximum, then id; at most 20

All numbers are little-endian. SOURCE is the canonical id of the source. Windows' token ids are read out of tokens.bin.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from saeserve_server.errors import ConfigError

MAGIC: Final = "saeserve-index"
VERSION: Final = 2
MANIFEST: Final = "index.json"

WINDOW: Final = 16
"""A record holds this many tokens on either side of its peak, as far as the block goes."""
SPAN: Final = 2 * WINDOW + 1

TOP_TOKENS: Final = 20
"""Most top tokens kept for a feature."""

LOWEST_EXPONENT: Final = -20
HIGHEST_EXPONENT: Final = 20
BINS: Final = HIGHEST_EXPONENT - LOWEST_EXPONENT + 2
"""Bin 0 holds (0, 2^-20), bin i holds [2^(i-21), 2^(i-20)), the last holds [2^20, ∞)."""

RECORD: Final = np.dtype([("text", "<u4"), ("position", "<u4"), ("maximum", "<f4"), ("length", "<u2"), ("peak", "<u2")])
"""`position`: of the window's first token in its text; `peak`: of the maximum in the window."""
TOP_TOKEN: Final = np.dtype([("id", "<u4"), ("count", "<u4"), ("maximum", "<f4")])

TOKENS: Final = "tokens.bin"
TEXT_OFFSETS: Final = "text_offsets.bin"
CORPUS_FILES: Final[Mapping[str, np.dtype[Any]]] = {TOKENS: np.dtype("<u4"), TEXT_OFFSETS: np.dtype("<i8")}
SOURCE_FILES: Final[Mapping[str, np.dtype[Any]]] = {
    "fires": np.dtype("<i8"),
    "sums": np.dtype("<f8"),
    "maxima": np.dtype("<f4"),
    "histogram": np.dtype("<i8"),
    "record_offsets": np.dtype("<i8"),
    "records": RECORD,
    "windows": np.dtype("<f4"),
    "top_offsets": np.dtype("<i8"),
    "top_tokens": TOP_TOKEN,
}

_FOLDER_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


class StoreError(ConfigError):
    """An index that cannot be used: what is wrong with it and what to do."""


@dataclass(frozen=True, slots=True)
class IndexedSource:
    """A source that the index covers."""

    id: str
    revision: str
    n_features: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the index."""

    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `index.json` says."""

    model_name: str
    model_revision: str
    context: int
    """Tokens of a block, BOS left out."""
    records_per_feature: int
    kernel: str
    """Where and in which type the activations were computed: what lets them differ in the last bits."""
    texts: int
    tokens: int
    """Tokens that count: those of all texts but any whose id is BOS."""
    sources: tuple[IndexedSource, ...]
    files: Mapping[str, FileEntry]

    def write(self, folder: Path) -> None:
        """Write `index.json` into `folder`."""
        body = self._body()
        path = folder / MANIFEST
        path.write_text(json.dumps({**body, "digest": _digest(body)}, indent=1) + "\n", encoding="utf-8")

    @property
    def digest(self) -> str:
        """SHA-256 over everything the manifest says, the files' own digests included: a hash of the whole content."""
        return _digest(self._body())

    @property
    def revision(self) -> str:
        """Digest of what went in: format, model, sources, settings, corpus, kernel.

        Activations move by about 1e-5 with the batch and the machine, so that two builds of the same differ in their
        bytes. They answer alike, and share caches and page tokens. The corpus is its tokens, text by text, which are
        whole numbers.
        """
        body = self._body()
        del body["tokens"], body["model"]["name"]  # a name is what it is called, here
        body["files"] = [self.files[name].sha256 for name in CORPUS_FILES]
        return _digest(body)

    def _body(self) -> dict[str, Any]:
        return {
            "magic": MAGIC,
            "version": VERSION,
            "model": {"name": self.model_name, "revision": self.model_revision},
            "context": self.context,
            "records_per_feature": self.records_per_feature,
            "kernel": self.kernel,
            "texts": self.texts,
            "tokens": self.tokens,
            "sources": [{"id": s.id, "revision": s.revision, "n_features": s.n_features} for s in self.sources],
            "files": {
                name: {"dtype": dtype_of(name).descr, "shape": list(entry.shape), "sha256": entry.sha256}
                for name, entry in sorted(self.files.items())
            },
        }


def source_file(source_id: str, name: str) -> str:
    """Path of a source's file in the index. Raises ConfigError for an id that cannot be a folder's name."""
    if not _FOLDER_NAME.fullmatch(source_id):
        raise ConfigError(f"source {source_id!r}: an index can hold ids of a-z, 0-9, '_', '.' and '-' only")
    return f"{source_id}/{name}.bin"


def dtype_of(file: str) -> np.dtype[Any]:
    """Type of the entries of a file of the index."""
    if file in CORPUS_FILES:
        return CORPUS_FILES[file]
    return SOURCE_FILES[Path(file).stem]


def is_index(folder: Path) -> bool:
    """Whether the folder holds an index of any version, whole or not."""
    try:
        _parse(folder)
    except StoreError:
        return False
    return True


def read_manifest(folder: Path) -> Manifest:
    """The manifest, checked against its own digest. Raises StoreError for anything that this version cannot read."""
    content = _parse(folder)
    if content["version"] != VERSION:
        raise StoreError(
            f"{folder}: index format {content['version']!r}, but this version of the server reads {VERSION}: "
            "build the index again"
        )
    body = {key: value for key, value in content.items() if key != "digest"}
    if content.get("digest") != _digest(body):
        raise StoreError(f"{folder / MANIFEST}: corrupted: it does not match its own digest; build the index again")
    try:
        manifest = Manifest(
            model_name=content["model"]["name"],
            model_revision=content["model"]["revision"],
            context=content["context"],
            records_per_feature=content["records_per_feature"],
            kernel=content["kernel"],
            texts=content["texts"],
            tokens=content["tokens"],
            sources=tuple(IndexedSource(s["id"], s["revision"], s["n_features"]) for s in content["sources"]),
            files={name: FileEntry(tuple(file["shape"]), file["sha256"]) for name, file in content["files"].items()},
        )
        whole = manifest.digest == content["digest"] and _shapes_agree(manifest)
    except (KeyError, TypeError, AttributeError, ConfigError):
        whole = False
    if not whole:
        raise StoreError(f"{folder / MANIFEST}: not a manifest of index format {VERSION}; build the index again")
    return manifest


def _parse(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"{folder}: not an index: {'no such folder' if not folder.exists() else f'it has no {MANIFEST}'}; "
            "`saeserve-server index build` makes one"
        ) from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{path}: corrupted or not the manifest of an index: {error}") from error
    if not isinstance(content, dict) or content.get("magic") != MAGIC or "version" not in content:
        raise StoreError(f"{path}: not the manifest of an index")
    return content


def _shapes_agree(manifest: Manifest) -> bool:
    """Whether the manifest lists exactly the files of its sources, in shapes that fit together."""
    files = manifest.files
    shapes: dict[str, tuple[int, ...]] = {TOKENS: (files[TOKENS].shape[0],), TEXT_OFFSETS: (manifest.texts + 1,)}
    for source in manifest.sources:
        n_features = source.n_features
        records = files[source_file(source.id, "records")].shape[0]
        top_tokens = files[source_file(source.id, "top_tokens")].shape[0]
        for name, shape in {
            "fires": (n_features,),
            "sums": (n_features,),
            "maxima": (n_features,),
            "histogram": (n_features, BINS),
            "record_offsets": (n_features + 1,),
            "records": (records,),
            "windows": (records, SPAN),
            "top_offsets": (n_features + 1,),
            "top_tokens": (top_tokens,),
        }.items():
            shapes[source_file(source.id, name)] = shape
    return shapes == {name: entry.shape for name, entry in files.items()}


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
