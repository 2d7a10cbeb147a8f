"""Run `buf lint` on proto/ without a network.

proto/ imports google/rpc/status.proto, which is not ours and not here: a scratch workspace under build/ holds a copy of
proto/ and, as a second module that is not linted, that one file from googleapis-common-protos.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from google.rpc import status_pb2

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
WORKSPACE = ROOT / "build" / "buf"
BUF = Path(sys.executable).with_name("buf")


def workspace() -> None:
    """Make the scratch workspace anew. Its rules are those of proto/buf.yaml."""
    shutil.rmtree(WORKSPACE, ignore_errors=True)
    shutil.copytree(PROTO, WORKSPACE / "proto", ignore=shutil.ignore_patterns("buf.yaml"))
    imported = WORKSPACE / "google" / "google" / "rpc" / "status.proto"
    imported.parent.mkdir(parents=True)
    shutil.copyfile(Path(status_pb2.__file__).with_name("status.proto"), imported)
    version, rules = (PROTO / "buf.yaml").read_text().split("\n", 1)
    modules = "modules:\n  - path: proto\n  - path: google\n"
    (WORKSPACE / "buf.yaml").write_text(f"{version}\n{modules}{rules}")


def main() -> None:
    """Exit with buf's status; its findings name the files as they are called in the repository."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    workspace()
    status = subprocess.run([BUF, "lint", "proto"], cwd=WORKSPACE, check=False).returncode
    if status == 0:
        print("buf lint: proto/ is clean")
    sys.exit(status)


if __name__ == "__main__":
    main()
