"""The quick part of the suite is what it says."""

import re
from pathlib import Path

from tests.slow import LONG, SLOW, is_slow

TESTS = Path(__file__).parent


def test_what_is_called_slow_is_there() -> None:
    for entry in SLOW + LONG:
        file, _, name = entry.partition("::")
        assert not name or f"def {name}" in (TESTS / file).read_text()
        assert (TESTS / file).is_file(), entry


def test_every_folder_has_a_quick_part() -> None:
    for folder in sorted({file.parent for file in TESTS.glob("*/test_*.py")}):
        quick = [
            file
            for file in folder.glob("test_*.py")
            if not is_slow(f"{folder.name}/{file.name}")
            and not re.search(r"^pytestmark = pytest\.mark\.slow", file.read_text(), re.MULTILINE)
        ]
        assert quick, folder.name
