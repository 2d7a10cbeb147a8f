"""Page tokens: where the next page of one feature's records begins, in one revision of the index.

A token is base64url text without padding over: format byte, digest of the index's revision, digest of the feature,
digest of which of its records were asked for, offset, checksum. The checksum finds what was mistyped or cut; it is no
secret, and a token grants nothing.
"""

from __future__ import annotations

import base64
import struct
from hashlib import blake2b
from typing import Final

from saeserve_server.errors import Aborted, InvalidArgument

_FORMAT: Final = 2
_BODY: Final = struct.Struct(">B8s8s6sI")
_CHECKSUM: Final = 5  # with it a token is 32 bytes


def encode_page_token(revision: str, source_id: str, index: int, asked: str, offset: int) -> str:
    """The token of the page that begins at the `offset`-th, below 2^32, of the records of feature `source_id:index`.

    `asked` says which records: whatever else of a request decides which there are, and in which order.
    """
    body = _BODY.pack(_FORMAT, _digest(revision, 8), _digest(f"{source_id}:{index}", 8), _digest(asked, 6), offset)
    return _seal(body)


def decode_page_token(token: str, revision: str, source_id: str, index: int, asked: str) -> int:
    """The offset at which the page begins; 0 for an empty token.

    Raises InvalidArgument (INVALID_PAGE_TOKEN) for what is not a page token or belongs to another feature or other
    records of it, and Aborted (STORE_CHANGED) for one of another index.
    """
    if not token:
        return 0
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:  # binascii.Error is one
        raw = b""
    body = raw[: _BODY.size]
    if len(body) != _BODY.size or token != _seal(body) or body[0] != _FORMAT:
        raise _invalid("not a page token; expected `next_page_token` of an earlier answer")
    _, of_revision, of_feature, of_records, offset = _BODY.unpack(body)
    if of_feature != _digest(f"{source_id}:{index}", 8):
        raise _invalid("belongs to another feature")
    if of_records != _digest(asked, 6):
        raise _invalid(
            "belongs to other records of the feature; group, diversity, threshold and origin are to be those of the "
            "answer that gave it"
        )
    if of_revision != _digest(revision, 8):
        raise Aborted(
            "the index of top activations has changed since the page before: start again without a page token",
            reason="STORE_CHANGED",
        )
    return int(offset)


def _seal(body: bytes) -> str:
    return base64.urlsafe_b64encode(body + _digest(body, _CHECKSUM)).rstrip(b"=").decode()


def _invalid(description: str) -> InvalidArgument:
    return InvalidArgument.field("page_token", description, reason="INVALID_PAGE_TOKEN")


def _digest(value: str | bytes, size: int) -> bytes:
    return blake2b(value.encode() if isinstance(value, str) else value, digest_size=size).digest()
