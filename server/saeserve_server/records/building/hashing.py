"""Hashes that choose samples: of a place in the corpus, of a block's content. Whole numbers in, the same everywhere."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

HashArray = npt.NDArray[np.uint64]

SEED: Final = 0x5AE5E27E
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


def mixed(numbers: npt.NDArray[Any]) -> HashArray:
    """[n] uint64 whose bits all depend on all bits of the number: the finaliser of SplitMix64."""
    x = numbers.astype(np.uint64) + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def place_key(text: npt.NDArray[Any], position: npt.NDArray[Any]) -> HashArray:
    """[n] one number for a token of the corpus: ascending by text, then position."""
    return (text.astype(np.uint64) << np.uint64(32)) | position.astype(np.uint64)


def place_hash(text: npt.NDArray[Any], position: npt.NDArray[Any]) -> HashArray:
    """[n] hash of a token's place in the corpus."""
    return mixed(mixed(place_key(text, position)) ^ np.uint64(SEED))


def feature_hash(feature: npt.NDArray[Any], text: npt.NDArray[Any], block: npt.NDArray[Any]) -> HashArray:
    """[n] hash of a feature in a block, which begins at a position of a text: another sample for every feature."""
    return mixed(mixed(place_key(text, block)) ^ mixed(feature.astype(np.uint64) ^ np.uint64(SEED)))


def content_hash(ids: npt.NDArray[Any], begins: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """[blocks] hash of the token ids of each block, of which the first begin at `begins` [blocks + 1]."""
    place = np.arange(len(ids)) - np.repeat(begins[:-1], np.diff(begins))
    each = mixed(mixed(ids) + place.astype(np.uint64) * _GOLDEN)
    sums = np.add.reduceat(each, begins[:-1]) if len(begins) > 1 else np.zeros(0, np.uint64)
    return (mixed(sums) >> np.uint64(32)).astype(np.uint32)
