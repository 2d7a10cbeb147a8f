"""Fail when the committed stubs no longer describe proto/, whichever generator wrote them.

What protoc makes of proto/ today is compared with the descriptor inside each stub, and comments with their own file.
"""

import argparse
import difflib
import importlib
import sys
import tempfile
from pathlib import Path

import grpc_tools
from contract_comments import COMMENTS, text_of
from google.protobuf import descriptor_pb2, text_format
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
STUBS = ROOT / "clients" / "python" / "src"


def describe(sources: list[str]) -> descriptor_pb2.FileDescriptorSet:
    """What protoc makes of these files."""
    builtin = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "descriptors")
        command = [
            "protoc",
            f"-I{PROTO}",
            f"-I{builtin}",
            f"--descriptor_set_out={out}",
            "--include_source_info",
            *sources,
        ]
        if protoc.main(command):
            sys.exit("proto/ does not compile")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def lines(file: descriptor_pb2.FileDescriptorProto) -> list[str]:
    """The descriptor as text without `json_name`, which protoc writes and the stubs leave out."""

    def clear(message: descriptor_pb2.DescriptorProto) -> None:
        for field in (*message.field, *message.extension):
            field.ClearField("json_name")
        for nested in message.nested_type:
            clear(nested)

    file.ClearField("source_code_info")
    for extension in file.extension:
        extension.ClearField("json_name")
    for message in file.message_type:
        clear(message)
    return text_format.MessageToString(file).splitlines()


def drift(source: str, wanted: descriptor_pb2.FileDescriptorProto) -> list[str]:
    """What is wrong with the stubs of one file: nothing, or lines for a person."""
    stem = source.removesuffix(".proto")
    suffixes = ["_pb2.py", "_pb2.pyi"] + (["_pb2_grpc.py", "_pb2_grpc.pyi"] if wanted.service else [])
    missing = [
        f"clients/python/src/{stem}{suffix} is missing"
        for suffix in suffixes
        if not (STUBS / f"{stem}{suffix}").exists()
    ]
    if missing:
        return missing
    stub = importlib.import_module(f"{stem.replace('/', '.')}_pb2")
    found = descriptor_pb2.FileDescriptorProto.FromString(stub.DESCRIPTOR.serialized_pb)
    return list(
        difflib.unified_diff(lines(found), lines(wanted), f"the stubs of {source}", f"proto/{source}", lineterm="", n=2)
    )


def main() -> None:
    """Exit with 1 and a description of the differences when the stubs have drifted."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    sources = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "saeserve").rglob("*.proto"))
    files = describe(sources)
    comments = text_of(files)  # before what is compared is rid of them
    described = {file.name: file for file in files.file}
    problems = [line for source in sources for line in drift(source, described[source])]
    if not COMMENTS.exists() or COMMENTS.read_text() != comments:
        problems.append(f"{COMMENTS.relative_to(ROOT)} has not the comments of proto/")
    if problems:
        print(*problems[:60], *(["…"] if len(problems) > 60 else []), sep="\n", file=sys.stderr)
        sys.exit("the stubs do not match proto/: run `make proto` and commit what it writes")
    print(f"stubs: {len(sources)} files match proto/")


if __name__ == "__main__":
    main()
