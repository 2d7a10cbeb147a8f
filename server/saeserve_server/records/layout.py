"""The format of an index on disk: its files, what they hold, and the manifest that names them.

An index is a folder of NumPy arrays, which `numpy.load(path, mmap_mode="r")` opens too:

    index.json                     the manifest: what was indexed and how, every file with type, shape and SHA-256
    tokens.npy                     [tokens of the corpus] ids of all texts one after another, no BOS prepended
    text_offsets.npy               [texts + 1] where each text begins in tokens.npy
    sampled.npy                    [sampled] positions of the corpus by their hashes: text · 2^32 + position

Of each source, in SOURCE/, with n features:

    fires.npy                      [n] tokens on which the feature fires (activation > 0)
    blocks.npy, texts.npy          [n] blocks and texts in which it fires
    means.npy, maxima.npy          [n] mean activation where it fires, largest activation; 0 if it never does
    histogram_offsets.npy          [n + 1] where each feature's bins begin in
    histogram_bins.npy             [bins] code of each (bins.py: the top 12 bits of the activations in it), ascending
    histogram_counts.npy           [bins] tokens
    coarse_offsets.npy             [n + 1] where each feature's powers of two begin in
    coarse.npy                     [powers] power, and of how many blocks and texts the largest activation lies in it
    record_offsets.npy             [n + 1] where each feature's records begin in
    records.npy                    [records] text, position of the peak in it, activation there
    sample_offsets.npy             [n + 1] the same of the stratified sample
    samples.npy                    [samples] the same; the strongest first
    sample_weights.npy             [samples] for how many blocks each stands: those of its power over those sampled
    near_offsets.npy, near.npy     the same of near misses: the position where it does not fire, and its block's maximum
    window_offsets.npy             [records + samples + near misses + 1] where each one's window begins in
    window_places.npy              [entries] place in the window, from 0; not of neurons, whose windows are whole
    window_values.npy              [entries] activation; of latents never 0
    peak_offsets.npy, peaks.npy    [n + 1], [peaks] tokens on which the feature peaks, over all blocks; of the tokens
                                   those of records, and at most 20 more
    top_offsets.npy                [n + 1] where each feature's top tokens begin in
    top_tokens.npy                 [top tokens] peak tokens of the records by count, then maximum, then id; at most 20
    sketch_offsets.npy, sketch.npy [n + 1], [entries] smallest hashes of positions on which it fires; at most 128
                                   (of 64 bits as many as the number of the feature leaves, at least the highest 44)
    active_keys.npy                [places] peaks of records, samples and near misses, ascending: text · 2^32 + position
    active_offsets.npy             [places + 1] where each one's latents begin in
    active.npy                     [latents] those that fire most there, the strongest first; at most 16, no neurons
    firing_offsets.npy, firing.npy [sampled + 1], [entries] latents that fire on each sampled position, or of neurons
    firing_bits.npy                [sampled, n / 8 rounded up] a bit for each, the lowest first

A window is at most 16 tokens before a position, it, and at most 16 after, as far as the block that was run goes: blocks
begin at multiples of `context` in a text. All numbers are little-endian. SOURCE is the canonical id of the source.
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
from saeserve_server.records.made_of import MadeOf

MAGIC: Final = "saeserve-index"
VERSION: Final = 3
MANIFEST: Final = "index.json"

WINDOW: Final = 16
"""A record holds this many tokens on either side of its peak, as far as the block goes."""
SPAN: Final = 2 * WINDOW + 1

TOP_TOKENS: Final = 20
"""Most top tokens kept for a feature."""

RECORD: Final = np.dtype([("text", "<u4"), ("position", "<u4"), ("value", "<f4")])
COARSE: Final = np.dtype([("power", "i1"), ("blocks", "<u4"), ("texts", "<u4")])
"""`power`: the activations lie between 2^power and 2^(power + 1)."""
TOP_TOKEN: Final = np.dtype([("id", "<u4"), ("count", "<u4"), ("maximum", "<f4")])
PEAK_TOKEN: Final = np.dtype(
    [
        ("id", "<u4"),
        ("blocks", "<u4"),
        ("least", "<f4"),
        ("most", "<f4"),
        ("folded_blocks", "<u4"),
        ("folded_least", "<f4"),
        ("folded_most", "<f4"),
    ]
)
"""Blocks whose peak lies on a token, and their least and largest peaks; `folded`: on any token that is the same but for
case and the space around it."""

TOKENS: Final = "tokens"
TEXT_OFFSETS: Final = "text_offsets"
SAMPLED: Final = "sampled"
_OFFSETS: Final = np.dtype("<i8")
CORPUS_FILES: Final[Mapping[str, np.dtype[Any]]] = {
    TOKENS: np.dtype("<u4"),
    TEXT_OFFSETS: _OFFSETS,
    SAMPLED: np.dtype("<u8"),
}
SOURCE_FILES: Final[Mapping[str, np.dtype[Any]]] = {
    "fires": np.dtype("<i8"),
    "blocks": np.dtype("<i8"),
    "texts": np.dtype("<i8"),
    "means": np.dtype("<f8"),
    "maxima": np.dtype("<f4"),
    "histogram_offsets": _OFFSETS,
    "histogram_bins": np.dtype("<u2"),
    "histogram_counts": np.dtype("<u4"),
    "coarse_offsets": _OFFSETS,
    "coarse": COARSE,
    "record_offsets": _OFFSETS,
    "records": RECORD,
    "sample_offsets": _OFFSETS,
    "samples": RECORD,
    "sample_weights": np.dtype("<f4"),
    "near_offsets": _OFFSETS,
    "near": RECORD,
    "window_offsets": _OFFSETS,
    "window_places": np.dtype("u1"),
    "window_values": np.dtype("<f4"),
    "peak_offsets": _OFFSETS,
    "peaks": PEAK_TOKEN,
    "top_offsets": _OFFSETS,
    "top_tokens": TOP_TOKEN,
    "sketch_offsets": _OFFSETS,
    "sketch": np.dtype("<u8"),
    "active_keys": np.dtype("<u8"),
    "active_offsets": _OFFSETS,
    "active": np.dtype("<u4"),
    "firing_offsets": _OFFSETS,
    "firing": np.dtype("<u4"),
    "firing_bits": np.dtype("u1"),
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

    made_of: MadeOf
    texts: int
    tokens: int
    """Tokens that count: those of all texts but any whose id is BOS."""
    files: Mapping[str, FileEntry]

    @property
    def sources(self) -> tuple[IndexedSource, ...]:
        """The sources that it covers."""
        return tuple(IndexedSource(*source) for source in self.made_of.sources)

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
        """Digest of what went in: format, model, sources, settings, corpus, kind of device and type.

        Activations move by about 1e-5 with the kernel and the machine, so that two builds of the same on different
        machines differ in their bytes. They answer alike, and share caches and page tokens. The corpus is its tokens,
        text by text, which are whole numbers.
        """
        body = self._body()
        made_of = body["made_of"]
        del body["tokens"], made_of["model"], made_of["computed"]  # a name is what it is called, here
        made_of["cut"] = made_of["cut"]["context"]  # batches move last bits, too
        body["files"] = [self.files[f"{name}.npy"].sha256 for name in (TOKENS, TEXT_OFFSETS)]
        return _digest(body)

    def _body(self) -> dict[str, Any]:
        return {
            "magic": MAGIC,
            "version": VERSION,
            "made_of": self.made_of.told(),
            "texts": self.texts,
            "tokens": self.tokens,
            "files": {
                name: {"dtype": dtype_of(name).descr, "shape": list(entry.shape), "sha256": entry.sha256}
                for name, entry in sorted(self.files.items())
            },
        }


def source_file(source_id: str, name: str) -> str:
    """Path of a source's file in the index. Raises ConfigError for an id that cannot be a folder's name."""
    if not _FOLDER_NAME.fullmatch(source_id):
        raise ConfigError(f"source {source_id!r}: an index can hold ids of a-z, 0-9, '_', '.' and '-' only")
    return f"{source_id}/{name}.npy"


def dtype_of(file: str) -> np.dtype[Any]:
    """Type of the entries of a file of the index."""
    path = Path(file)
    return (CORPUS_FILES if path.parent == Path() else SOURCE_FILES)[path.stem]


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
            made_of=MadeOf.read(content["made_of"]),
            texts=content["texts"],
            tokens=content["tokens"],
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
    lengths = {name: entry.shape[0] for name, entry in manifest.files.items()}
    expected = {f"{name}.npy" for name in CORPUS_FILES}
    fits = lengths[f"{TEXT_OFFSETS}.npy"] == manifest.texts + 1
    for source in manifest.sources:
        of = {name: lengths.get(source_file(source.id, name)) for name in SOURCE_FILES}
        of_neurons = ("firing", "firing_offsets", "window_places")
        leave_out = ("firing_bits",) if of["firing_bits"] is None else of_neurons
        expected |= {source_file(source.id, name) for name in SOURCE_FILES if name not in leave_out}
        per_feature = ("fires", "blocks", "texts", "means", "maxima")
        fits &= all(of[name] == source.n_features for name in per_feature)
        offsets = ("histogram", "coarse", "record", "sample", "near", "peak", "top", "sketch")
        fits &= all(of[f"{name}_offsets"] == source.n_features + 1 for name in offsets)
        windows = [of[name] for name in ("records", "samples", "near")]
        fits &= of["window_offsets"] == sum(one or 0 for one in windows) + 1
    return fits and lengths.keys() == expected


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
