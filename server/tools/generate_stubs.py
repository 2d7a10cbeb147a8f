"""Generate the Python stubs of proto/ into clients/python/src, and the comments that they leave out.

Each generator has an environment of its own.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
OUT = ROOT / "clients" / "python" / "src"
ENVIRONMENTS = ROOT / "build" / "proto"
DESCRIPTORS = ENVIRONMENTS / "descriptors"

# Old on purpose: see README.md in this folder.
PROTOC_PACKAGES = ("grpcio-tools==1.71.2", "setuptools<81")
TYPES_PACKAGES = ("mypy-protobuf==5.1.0",)


def environment(name: str, packages: tuple[str, ...]) -> Path:
    """The folder of executables of a virtual environment with these packages, made if it is not there yet."""
    folder = ENVIRONMENTS / name
    complete = folder / ".complete"
    wanted = "\n".join(packages)
    if not complete.exists() or complete.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], check=True)
        complete.write_text(wanted)
    return folder / "bin"


def main() -> None:
    """Write the stubs; exit with the generator's status if it fails."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    protoc = environment("protoc", PROTOC_PACKAGES)
    types = environment("types", TYPES_PACKAGES)
    sources = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "saeserve").rglob("*.proto"))
    command = [
        str(protoc / "python"),
        *("-W", "ignore", "-m", "grpc_tools.protoc"),
        f"-I{PROTO}",
        f"--plugin=protoc-gen-mypy={types / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={types / 'protoc-gen-mypy_grpc'}",
        *(f"--{kind}_out={OUT}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")),
        *(f"--descriptor_set_out={DESCRIPTORS}", "--include_source_info"),
        *sources,
    ]
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(status)
    for source in sources:
        if "\nservice " not in (PROTO / source).read_text():  # the generator writes an empty file all the same
            for suffix in (".py", ".pyi"):
                (OUT / source).with_name(f"{Path(source).stem}_pb2_grpc{suffix}").unlink(missing_ok=True)
    subprocess.run([protoc / "python", Path(__file__).with_name("contract_comments.py"), DESCRIPTORS], check=True)
    print(f"{len(sources)} files of proto/ generated into {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
