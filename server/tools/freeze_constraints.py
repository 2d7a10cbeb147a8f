"""Write constraints.txt: the newest release of all that the two distributions and their extras bring, torch first.

Installs into a throw-away environment under build/, with nothing pinned but torch.
"""

import argparse
import re
import shutil
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / "build" / "constraints"
OURS = {"saeserve", "saeserve-server"}
# A build of torch brings its own; a pin made with one build would break the other.
WITH_TORCH = re.compile(r"(nvidia-|cuda-|triton|pytorch-triton)")
HEADER = """\
# What `make setup` and the Dockerfile install: the two distributions with the extras `test`, `test-web` and `lint`.
# Written by `make constraints` (server/tools/freeze_constraints.py) in a throw-away environment: do not edit by hand.
# torch is first; which build of it (CPU, CUDA) is the installer's choice: see TORCH in the Makefile.
"""


def main() -> None:
    """Install everything, then write what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", default="torch==2.13.0", help="requirement, with options of pip if need be")
    arguments = parser.parse_args()
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    pip = ENVIRONMENT / "bin" / "pip"
    subprocess.run([pip, "install", "--quiet", *arguments.torch.split()], check=True)
    subprocess.run([pip, "install", "--quiet", "./clients/python", ".[test,test-web,lint]"], check=True, cwd=ROOT)
    frozen = subprocess.check_output([pip, "freeze"], text=True).splitlines()
    pins = sorted((parse(line) for line in frozen), key=lambda pin: (pin[0] != "torch", pin[0].lower()))
    kept = [
        f"{name}=={version}"
        for name, version in pins
        if name.replace("_", "-") not in OURS and not WITH_TORCH.match(name)
    ]
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(kept) + "\n")
    shutil.rmtree(ENVIRONMENT)
    print(f"constraints.txt: {len(kept)} pins")


def parse(line: str) -> tuple[str, str]:
    """Name and public version of a line of `pip freeze`; the build of torch (`+cpu`) is left out."""
    name, _, version = re.split(r" @ ", line)[0].partition("==")
    return name, version.partition("+")[0]


if __name__ == "__main__":
    main()
