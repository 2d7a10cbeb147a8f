"""What is too large for one answer is refused, as early as that can be known."""

from __future__ import annotations

from saeserve_server.errors import InvalidArgument
from saeserve_server.serving.serving import Serving


def refuse_large_answer(serving: Serving, size: int, otherwise: str = "") -> None:
    """Raises InvalidArgument for an answer of `size` bytes, if that is more than one message may hold; `otherwise` says
    what else the caller can do."""
    most = serving.limits.max_answer_bytes
    if size > most:
        raise InvalidArgument(
            f"the answer would take {size} bytes; at most {most} fit into one: ask for less{otherwise}",
            reason="ANSWER_TOO_LARGE",
            metadata={"max_answer_bytes": str(most), "answer_bytes": str(size)},
        )
