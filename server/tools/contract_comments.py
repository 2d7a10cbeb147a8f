"""The comments of proto/, by the full names of what they explain, as the gateway's documents show them.

`make proto` writes them beside the stubs, which carry none: into `clients/python/src/saeserve/web/comments.json`.
Runs in the environment of the generator, which has protobuf.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

COMMENTS = Path(__file__).resolve().parents[2] / "clients" / "python" / "src" / "saeserve" / "web" / "comments.json"

# Numbers of fields in descriptor.proto, of which paths in a file are made.
FILE = {4: "message_type", 5: "enum_type", 6: "service"}
INNER = {
    "DescriptorProto": {2: "field", 3: "nested_type", 4: "enum_type"},
    "EnumDescriptorProto": {2: "value"},
    "ServiceDescriptorProto": {2: "method"},
}


def text_of(files: descriptor_pb2.FileDescriptorSet) -> str:
    """What the file of comments holds, for descriptors with their source."""
    found: dict[str, str] = {}
    for file in sorted(files.file, key=lambda file: file.name):
        for location in file.source_code_info.location:
            name = named(file, location.path)
            words = " ".join(location.leading_comments.split())
            if name and words and file.name.startswith("saeserve/"):
                found[name] = words
    return json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def named(file: descriptor_pb2.FileDescriptorProto, path: Sequence[int]) -> str:
    """The full name of what a path leads to; empty for what has none."""
    names = [file.package]
    at: Any = file
    steps = FILE
    for number, place in pairs(path):
        if number not in steps:
            return ""
        at = getattr(at, steps[number])[place]
        names.append(at.name)
        steps = INNER.get(type(at).__name__, {})
    # The values of an enum are named like what stands beside it; here by the enum, as a reader looks for them.
    return ".".join(names) if len(names) > 1 and len(path) % 2 == 0 else ""


def pairs(path: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(path[::2], path[1::2], strict=False)


def main() -> None:
    """`contract_comments.py DESCRIPTORS`: a file that protoc wrote with --include_source_info."""
    COMMENTS.write_text(text_of(descriptor_pb2.FileDescriptorSet.FromString(Path(sys.argv[1]).read_bytes())))


if __name__ == "__main__":
    main()
