"""/docs: the calls for people, one page of HTML without any script, from the same data as /openapi.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field

from saeserve._version import __version__
from saeserve.web import contract
from saeserve.web.contract import comment

_TYPES = {
    Field.TYPE_DOUBLE: "number",
    Field.TYPE_FLOAT: "number",
    Field.TYPE_INT32: "integer",
    Field.TYPE_UINT32: "integer from 0",
    Field.TYPE_INT64: "text of an integer",
    Field.TYPE_UINT64: "text of an integer from 0",
    Field.TYPE_BOOL: "true or false",
    Field.TYPE_STRING: "text",
    Field.TYPE_BYTES: "base64",
}
_EVENTS = """\
event: item
id: 0
data: {"sequence": "0", "chunk": {"text": {…}, "rowStart": 0, "dense": {…}, "last": true}, "callInfo": {…}}

event: item
id: 1
data: {"sequence": "1", "error": {"code": 400, "reason": "TEXT_EMPTY", …}}

event: end
data: {"items": 2, "failed": 1}
"""


def page(url: str) -> str:
    """The page; `url` is the gateway's address, as whoever asks writes it."""
    return "".join(_parts(url))


def _parts(url: str) -> Iterator[str]:
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>saeserve: calls by HTTP</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="favicon.svg"><link rel="stylesheet" href="docs.css">'
        "</head><body><main><h1>Calls by HTTP</h1>"
    )
    yield _paragraphs(
        f"Of saeserve {__version__}. Every call is a `POST` of JSON, answered by JSON: the ProtoJSON of the contract. "
        "Names are `lowerCamelCase`, 64-bit integers and bytes (base64) are texts, the buffers of encode are arrays of "
        "numbers. Fields that are not optional stand in every answer; an empty body is an empty request."
    )
    yield '<p>For programs: <a href="openapi.json">openapi.json</a>. <a href="./">The page</a>.</p>'
    yield "<nav><h2>Calls</h2><ul>"
    for call in contract.calls():
        yield f'<li><a href="#{call.name}">{escape(call.path.rpartition("/")[2])}</a>: {_words(call.about)}</li>'
    yield "</ul></nav>"
    for call in contract.calls():
        yield from _call(call, url)
    yield from _around()
    yield "<h2>Types</h2>"
    for name, kind in sorted((contract.answered() | contract.asked()).items()):
        yield from _kind(name, kind)
    yield "</main></body></html>"


def _call(call: contract.Call, url: str) -> Iterator[str]:
    yield f'<section id="{call.name}"><h2><code>POST {escape(call.path)}</code></h2><p>{_words(call.about)}</p>'
    yield f"<pre>{escape(call.curl.replace('URL', url))}</pre>"
    if call.name in contract.STREAMED:
        config, item = contract.STREAMED[call.name]
        yield f"<p>Body: <code>config</code>, {_link(config)}, and <code>items</code>, each {_link(item)}.</p>"
    else:
        yield f"<p>Body: {_link(call.request)}.</p>"
        yield from _table(contract.asked()[call.request])
    if call.name == contract.EVENTS:
        yield _paragraphs(
            "With `Content-Type: application/x-ndjson` the body is lines: the configuration in the first, an item in "
            "each other, read as they are needed, however many there are. An item without a `sequence` has its place. "
            "The answer is server-sent events, items in any order; one that cannot be read, or encoded, fails alone."
        )
        yield f"<pre>{escape(_EVENTS)}</pre>"
    yield f"<p>Answer: {_link(call.response)}.</p></section>"


def _around() -> Iterator[str]:
    yield '<section id="head"><h2>Heads</h2>'
    heads = {"Authorization": "`Bearer TOKEN`, where the server asks for a token."} | contract.HEADERS
    yield _rows(("header", "what it says"), ((f"<code>{name}</code>", _words(words)) for name, words in heads.items()))
    yield '</section><section id="errors"><h2>Errors</h2>'
    said = {
        "code": 404,
        "status": "NOT_FOUND",
        "reason": "SOURCE_NOT_FOUND",
        "message": "source 'nope' is not served; known: 0-demo, 0, 1-demo, …",
        "fieldViolations": [],
        "requestId": "c62f0dff1f0f9436fc81aafc59d4ea3d",
    }
    yield f"<pre>{escape(json.dumps({'error': said}, indent=2, ensure_ascii=False))}</pre>"
    yield _paragraphs("`retryDelaySeconds` stands beside them where it is known, and `Retry-After` in the head.")
    yield _rows(("HTTP", "gRPC, and when"), ((str(code), _words(words)) for code, words in contract.ERRORS.items()))
    yield "</section>"


def _kind(name: str, kind: Any) -> Iterator[str]:
    yield f'<section id="{name}"><h3>{name}</h3><p>{_words(comment(kind.full_name))}</p>'
    if hasattr(kind, "values"):
        values = ((f"<code>{one.name}</code>", _words(comment(f"{kind.full_name}.{one.name}"))) for one in kind.values)
        yield _rows(("value", "what it means"), values)
    else:
        yield from _table(kind)
    yield "</section>"


def _table(kind: Any) -> Iterator[str]:
    if not kind.fields:
        return
    rows = (
        (f"<code>{field.json_name}</code>", _type(field), _words(comment(field.full_name))) for field in kind.fields
    )
    yield _rows(("field", "type", "what it is"), rows)


def _type(field: Any) -> str:
    if field.full_name in contract.ARRAYS:
        rows = field.full_name.startswith("saeserve.v1.Dense")
        return "array of rows, arrays of numbers" if rows else "array of numbers"
    if field.full_name == "saeserve.v1.EncodeStreamResponse.error":
        return '<a href="#errors">error</a>'
    if contract.is_map(field):
        return f"object of {_one(field.message_type.fields_by_name['value'])}"
    if field.is_repeated:
        return f"array of {_one(field)}"
    optional = field.has_presence and field.message_type is None and field.containing_oneof.name.startswith("_")
    return f"{_one(field)}{', optional' if optional else ''}"


def _one(field: Any) -> str:
    kind = field.message_type or field.enum_type
    return _link(kind.name) if kind is not None else _TYPES[field.type]


def _link(name: str) -> str:
    return f'<a href="#{name}">{name}</a>'


def _rows(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = "".join(f'<th scope="col">{one}</th>' for one in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _paragraphs(text: str) -> str:
    return f"<p>{_words(text)}</p>"


def _words(text: str) -> str:
    """A comment as HTML: what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
