"""Answers as ProtoJSON with default values printed; the buffers of Encode as arrays instead of base64."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from saeserve.answers import reading
from saeserve.answers.shortest import shortest
from saeserve.v1 import feature_service_pb2 as service


def as_json(answer: Message) -> dict[str, Any]:
    """What `json.dumps` takes. 64-bit integers are strings, as ProtoJSON has it; `piece` is base64."""
    printed: dict[str, Any] = json_format.MessageToDict(answer, always_print_fields_with_no_presence=True)
    if isinstance(answer, service.EncodeResponse):
        for block, message in zip(printed["sparse"], answer.sparse, strict=True):
            csr = reading.sparse(message)
            block.update(indptr=csr.indptr.tolist(), indices=csr.indices.tolist(), data=shortest(csr.data))
        if answer.HasField("dense"):
            printed["dense"]["data"] = [shortest(row) for row in reading.dense(answer.dense)]
    return printed
