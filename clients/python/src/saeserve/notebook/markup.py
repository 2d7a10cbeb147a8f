"""HTML that cannot be broken by what stands in it: whatever is not markup made here is text, and is escaped.

Texts come from models, files and other people. What is not seen is spelled out (`\\u202e`), and each text stands in a
`<bdi>` of its own, so that its direction of writing does not reach what stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from saeserve.arguments.printable import printable


class Html(str):
    """Markup made here. Every other text is escaped where it is put into some."""

    __slots__ = ()


SPACE = Html("&ensp;")
"""A space that stays one, between things that stand in a row."""


def escaped(content: object) -> Html:
    """Markup as it is; anything else as a text of one line."""
    return content if isinstance(content, Html) else Html(escape(printable(str(content))))


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after another; `between` is a text too."""
    return Html(escaped(between).join(escaped(part) for part in parts))


def tag(name: str, *content: object, **attributes: str) -> Html:
    """An element. An attribute without a value is left out; `class_` and `aria_label` are written as HTML has them."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value != ""}
    written = "".join(f' {key}="{escape(printable(value))}"' for key, value in given.items())
    return Html(f"<{name}{written}>{joined(content)}</{name}>")


def isolated(text: object, **attributes: str) -> Html:
    """A text that somebody else wrote, in its own direction."""
    return tag("bdi", text, **attributes)
