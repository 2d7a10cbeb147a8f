"""What a server holds while it is attacked: the memory of its front end, and its gauges."""

from __future__ import annotations

import math
import threading
from pathlib import Path

from loadtests.metrics import Page
from loadtests.processes import Address

COUNTED = ("_total", "_bucket", "_sum", "_count", "_created")
"""Ends of the names of samples that only grow; all others are gauges."""


class Watch:
    """Looks at the front end's memory 20 times a second, and at its gauges once."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._see_memory), threading.Thread(target=self._see_gauges)]
        self.before = self.peak = resident(address.pid)
        self.gauges: dict[str, float] = {}

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _see_memory(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, resident(self._address.pid))

    def _see_gauges(self) -> None:
        while not self._over.wait(1.0):
            try:
                page = self._address.page()
            except OSError:  # it does not answer just now, which the bystander measures
                continue
            for name, value in gauges(page or {}).items():
                self.gauges[name] = max(self.gauges.get(name, -math.inf), value)


def gauges(page: Page) -> dict[str, float]:
    """The service's gauges, by name with labels."""
    found = {}
    for (name, labels), value in page.items():
        if not name.endswith(COUNTED) and not name.startswith(("process_", "python_")):
            shown = ",".join(f"{key}={text}" for key, text in sorted(labels))
            found[f"{name}{{{shown}}}" if shown else name] = value
    return found


def resident(pid: int | None) -> int:
    """Resident bytes of a process; 0 where it is not known."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * 4096
