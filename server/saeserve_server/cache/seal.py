"""What a value in the shared tier says of itself: that it is ours, for which question, undamaged, and from whom.

Without a key a checksum finds what is damaged. With one, values are signed (HMAC-SHA-256 over header and payload), and
what is not signed with one of this server's keys is no answer: whoever else can write to Redis cannot answer for us.
"""

from __future__ import annotations

import hmac
import logging
import struct
from hashlib import blake2b
from pathlib import Path
from typing import Final

from saeserve_server.errors import ConfigError
from saeserve_server.metrics import SharedFault
from saeserve_server.watched import Watch, read_named

log = logging.getLogger(__name__)

LARGEST_PAYLOAD: Final = 2**20
"""Larger answers are not shared."""
LEAST_KEY: Final = 16
"""Characters of a key: fewer can be guessed."""
MOST_KEYS: Final = 8

_HEAD: Final = struct.Struct(">8sB32s")  # magic, format, key of the question
_MAGIC: Final = b"saeserve"
_PLAIN: Final = 1
_SIGNED: Final = 2
_PROOF_BYTES: Final = {_PLAIN: 16, _SIGNED: 32}
"""What follows the head, by format: the payload's checksum, or the MAC of head and payload. Then comes the payload."""
_LARGEST: Final = _HEAD.size + max(_PROOF_BYTES.values()) + LARGEST_PAYLOAD
_SIGNING: Final = "cache_key_file"


class KeyFile:
    """The keys of this server: the first signs, all are accepted. They are never logged, and never in an error."""

    def __init__(self, path: Path) -> None:
        """Reads the file. Raises ConfigError."""
        self._path = path
        self._watch = Watch([path])
        self._keys = self._read()

    def keys(self) -> tuple[bytes, ...]:
        """The keys as the file has them now; those before where it cannot be used."""
        if self._watch.changed():
            try:
                self._keys = self._read()
            except ConfigError as error:
                log.warning("the cache keys before stay in force: %s", error)
            else:
                log.info("the cache keys were read anew")
        return self._keys

    def _read(self) -> tuple[bytes, ...]:
        keys = tuple(line.strip() for line in read_named(_SIGNING, self._path).splitlines() if line.strip())
        if not 1 <= len(keys) <= MOST_KEYS:
            raise ConfigError(f"{_SIGNING}: {self._path}: {len(keys)} keys, expected 1 to {MOST_KEYS}, one a line")
        for number, key in enumerate(keys, 1):
            if len(key) < LEAST_KEY or any(not 0x21 <= byte <= 0x7E for byte in key):
                raise ConfigError(
                    f"{_SIGNING}: {self._path}: key {number}: expected one word of printable ASCII, "
                    f"at least {LEAST_KEY} characters"
                )
        return keys


class Seal:
    """Seals payloads, and opens what it or another server with one of the same keys has sealed."""

    def __init__(self, keys: KeyFile | None = None) -> None:
        self._keys = keys

    def close(self, key: bytes, payload: bytes) -> bytes:
        """The value to be kept under the key, 32 bytes."""
        form = _PLAIN if self._keys is None else _SIGNED
        head = _HEAD.pack(_MAGIC, form, key)
        if self._keys is None:
            return head + _checksum(payload) + payload
        return head + _mac(self._keys.keys()[0], head, payload) + payload

    def open(self, key: bytes, value: object) -> bytes | SharedFault:
        """The payload of a value that was sealed for this key, undamaged, by this version and with a key of ours."""
        if not isinstance(value, bytes) or not _HEAD.size <= len(value) <= _LARGEST:
            return SharedFault.INVALID
        head, form = value[: _HEAD.size], value[len(_MAGIC)]
        begin = _HEAD.size + _PROOF_BYTES.get(form, 0)
        if form not in _PROOF_BYTES or head != _HEAD.pack(_MAGIC, form, key) or len(value) < begin:
            return SharedFault.INVALID
        proof, payload = value[_HEAD.size : begin], value[begin:]
        if form == _PLAIN and proof != _checksum(payload):
            return SharedFault.INVALID
        if (form == _SIGNED) != (self._keys is not None):
            return SharedFault.UNSIGNED
        if self._keys is not None:
            ours = self._keys.keys()
            if not any(hmac.compare_digest(proof, _mac(one, head, payload)) for one in ours):
                return SharedFault.UNSIGNED
        return payload


def _checksum(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=_PROOF_BYTES[_PLAIN]).digest()


def _mac(key: bytes, head: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, head + payload, "sha256")
