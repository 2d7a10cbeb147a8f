"""The contract stands alone: other tools build it from its folder and nothing else, and other languages use it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grpc_tools
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from google.rpc import status_pb2

import saeserve
from saeserve.v1 import feature_service_pb2 as service

ROOT = Path(__file__).parents[2]
TEXT = "My favorite color is red."
OFFLINE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ENETUNREACH", "ETIMEDOUT")
NODE = [shutil.which(name) for name in ("node", "npm")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a copy of `proto`, and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copytree(ROOT / "proto", folder / "proto")
    return folder


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a program prints; its errors, if it fails."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        command, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_buf_builds_lints_and_compares_it(alone: Path) -> None:
    buf = Path(sys.executable).with_name("buf")
    run(buf, "build", "proto", "-o", "image.binpb", cwd=alone)
    run(buf, "lint", "proto", cwd=alone)
    against = ROOT / "server/tools/contract.binpb"
    run(buf, "breaking", "proto", "--against", against, cwd=alone)
    types = alone / "proto/saeserve/v1/types.proto"
    whole = types.read_text()
    try:
        types.write_text(re.sub(r"^  uint32 id = 1;", "  string id = 1;", whole, count=1, flags=re.MULTILINE))
        assert types.read_text() != whole
        with pytest.raises(AssertionError, match="changed type"):
            run(buf, "breaking", "proto", "--against", against, cwd=alone)
    finally:
        types.write_text(whole)


def test_protoc_builds_it_with_what_comes_with_protoc(alone: Path) -> None:
    builtin = Path(grpc_tools.__file__).parent / "_proto"
    protoc = (sys.executable, "-m", "grpc_tools.protoc")
    file = "saeserve/v1/feature_service.proto"
    run(*protoc, "-Iproto", f"-I{builtin}", "--include_imports", "--descriptor_set_out=image", file, cwd=alone)
    image = descriptor_pb2.FileDescriptorSet.FromString((alone / "image").read_bytes())
    built = {one.name: one for one in image.file}
    assert file in built
    # What lies beside the contract says the same as the stubs that Python has of it.
    ours, google = built["google/rpc/status.proto"], descriptor_pb2.FileDescriptorProto()
    status_pb2.DESCRIPTOR.CopyToProto(google)
    fields = [
        [(one.name, one.number, one.type, one.type_name) for one in each.message_type[0].field]
        for each in (ours, google)
    ]
    assert fields[0] == fields[1]
    assert (ours.package, len(ours.message_type)) == (google.package, len(google.message_type))


@pytest.mark.skipif(not all(NODE), reason="node and npm are not installed")
def test_node_reads_it_and_the_buffers_of_an_answer(alone: Path, demo: saeserve.Client) -> None:
    """The example of proto/README.md, against a running server."""
    (example,) = re.findall(r"```js\n(.*?)```", (ROOT / "proto/README.md").read_text(), re.DOTALL)
    (alone / "example.js").write_text(example)
    there = ROOT / "clients/node/node_modules"  # both packages, if the Node client is installed
    if (there / "@grpc/proto-loader").is_dir():
        (alone / "node_modules").symlink_to(there)
    else:
        install(alone, "@grpc/grpc-js@1", "@grpc/proto-loader@0.8")
    printed = run("node", "example.js", cwd=alone, SAESERVE_TARGET=demo.target)
    rows = demo.encode(TEXT, sources="0-demo").sparse["0-demo"].toarray()
    search, *found = [json.loads(line) for line in printed.splitlines()]
    assert search == [[str(hit.name), hit.value] for hit in demo.search(TEXT, limit=3)]
    assert len(found) == len(rows) == 7
    for fires, row in zip(found, rows, strict=True):
        assert dict(map(tuple, fires)) == {int(index): float(row[index]) for index in row.nonzero()[0]}


def install(folder: Path, *packages: str) -> None:
    quiet = ("--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=0")
    got = subprocess.run(
        ["npm", "install", *quiet, *packages], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    if any(code in got.stderr for code in OFFLINE):
        pytest.skip("npm's registry cannot be reached")
    assert got.returncode == 0, got.stderr


MAINS = {
    "rust": (
        ["rustc", "--edition=2021", "-o", "program", "program.rust"],
        'fn main() {{ println!("{{:?}}", floats(&[{bytes}][1..])); }}',
    ),
    "cpp": (
        ["g++", "-fsanitize=undefined", "-o", "program", "program.cpp"],
        "int main() {{ const unsigned char all[] = {{{bytes}}};"
        " for (float one : floats(std::string(all + 1, all + sizeof all))) std::cout << one << ' '; }}",
    ),
}


@pytest.mark.parametrize("language", MAINS)
def test_the_examples_of_other_languages_read_numbers_at_any_byte(tmp_path: Path, language: str) -> None:
    build, main = MAINS[language]
    if shutil.which(build[0]) is None:
        pytest.skip(f"{build[0]} is not installed")
    (example,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "proto/README.md").read_text(), re.DOTALL)
    includes = "".join(f"#include <{name}>\n" for name in ("cstring", "iostream", "string", "vector"))
    data = b"x" + np.array([1.5, -2.25, 1e10], "<f4").tobytes()
    program = f"{includes * (language == 'cpp')}{example}{main.format(bytes=', '.join(map(str, data)))}"
    (tmp_path / f"program.{language}").write_text(program)
    run(*build, cwd=tmp_path)
    printed = run(tmp_path / "program", cwd=tmp_path)
    assert [float(number) for number in re.findall(r"[-+.e\d]+", printed)] == [1.5, -2.25, 1e10]


def test_the_stubs_import_google_s_own() -> None:
    """Not a copy from beside the contract: two in one program do not go together."""
    assert service.EncodeStreamResponse.DESCRIPTOR.fields_by_name["error"].message_type is status_pb2.Status.DESCRIPTOR
    assert not (Path(saeserve.__file__).parent.parent / "google").exists()
