"""The example programs run on the demo and print what their page quotes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "clients" / "python" / "examples"
NUMBER = re.compile(r"\d+\.\d+|\d+(?=%)")


def quoted(name):
    """What the page says that a program prints."""
    page = (EXAMPLES / "README.md").read_text()
    return re.search(rf"^\$ python clients/python/examples/{name}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]


@pytest.mark.parametrize("name", ["separate.py", "probe.py"])
def test_an_example_prints_what_its_page_quotes(demo, name):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), "--target", demo.target],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = quoted(name)
    # Activations move by about 1e-5 with the machine and what else is computed: so may a last digit.
    assert NUMBER.sub("#", done.stdout) == NUMBER.sub("#", said)
    for ours, theirs in zip(NUMBER.findall(done.stdout), NUMBER.findall(said), strict=True):
        assert float(ours) == pytest.approx(float(theirs), abs=0.011 if "." in ours else 2)


def test_the_account_runs_to_its_end(demo):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "account.py"), "--target", demo.target],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "It goes on with 0-DEMO:1633: the first that usually fires on this token" in done.stdout
    assert re.search(r"^## Triplets: latents of three layers", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ["separate.py", "probe.py"])
def test_an_example_without_a_server_says_so_in_a_line(name):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), "--target", "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{name}: UNAVAILABLE CONNECTION_REFUSED: ")
