"""Bodies into fields: in camelCase and snake_case, each of its type, and what is wrong of them as FastAPI says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_MISSING = object()
_TOO_LARGE = 2.0**128 - 2.0**103
"""From here on float32 would be infinite."""


class Unprocessable(Exception):
    """A body that is not what the call takes: 422."""

    def __init__(self, details: list[dict[str, Any]]) -> None:
        super().__init__(f"{len(details)} fields")
        self.details = details


class Wrong(Exception):
    """A request that is well formed and asks for what cannot be: 400."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a request, by its snake_case name."""

    reads: Callable[[Any], bool]
    kind: str
    """As pydantic calls what is wrong of another value."""
    expected: str
    default: Any = _MISSING
    is_list: bool = False


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON may hold, is no character
        return False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """As float32 can hold: JSON's may have any number of digits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _TOO_LARGE


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


TEXT = Field(_is_text, "string_type", "Input should be a valid string")
WHOLE = Field(_is_whole, "int_type", "Input should be a valid integer")
FLAG = Field(_is_flag, "bool_type", "Input should be a valid boolean")
NUMBER = Field(_is_number, "float_type", "Input should be a valid number of 32 bits")


def several(of: Field, default: Any = _MISSING) -> Field:
    """A list of them."""
    return Field(of.reads, of.kind, of.expected, default, is_list=True)


def optional(of: Field, default: Any = None) -> Field:
    """One that may be left out, or null: then it is the default."""
    return Field(of.reads, of.kind, of.expected, default, of.is_list)


_ASKED = {"model": TEXT}
_ALL = _ASKED | {
    "source_set": TEXT,
    "selected_sources": several(TEXT),
    "sort_by_token_indexes": several(WHOLE),
    "ignore_bos": FLAG,
    "num_results": optional(WHOLE, 25),
}
_SINGLE = _ASKED | {
    "source": optional(TEXT),
    "index": optional(TEXT),
    "vector": optional(several(NUMBER)),
    "hook": optional(TEXT),
}
_TOP = _ASKED | {"source": TEXT, "top_k": optional(WHOLE, 5), "ignore_bos": FLAG}
_ONE, _MANY = {"prompt": TEXT}, {"prompts": several(TEXT)}

FEATURE = {"model": TEXT, "source": TEXT, "index": WHOLE}
FIELDS: Mapping[str, Mapping[str, Field]] = {
    "activation/all": _ONE | _ALL,
    "activation/all-batch": _MANY | _ALL,
    "activation/single": _ONE | _SINGLE,
    "activation/single-batch": _MANY | _SINGLE,
    "activation/topk-by-token": _ONE | _TOP,
    "activation/topk-by-token-batch": _MANY | _TOP,
    "activation/source": _MANY | _ASKED | {"source": TEXT},
    "tokenize": _ASKED | {"text": TEXT, "prepend_bos": optional(FLAG)},
    "util/sae-vector": FEATURE,
    "util/sae-topk-by-decoder-cossim": _ASKED
    | {"vector": optional(several(NUMBER)), "source": TEXT, "num_results": WHOLE},
}
"""By call: its fields. `feature` of the last is an object of its own."""


def read(call: str, body: Any) -> dict[str, Any]:
    """The fields of a call's body, all of them. Raises Unprocessable that names every one that is wrong."""
    details: list[dict[str, Any]] = []
    found = _fields(FIELDS[call], body, ("body",), details)
    if call == "util/sae-topk-by-decoder-cossim" and isinstance(body, dict):
        feature = body.get("feature")
        found["feature"] = None if feature is None else _fields(FEATURE, feature, ("body", "feature"), details)
    if details:
        raise Unprocessable(details)
    return found


def unreadable(message: str) -> Unprocessable:
    """Of a body that is no JSON."""
    return Unprocessable([{"type": "json_invalid", "loc": ["body"], "msg": message}])


def camel(name: str) -> str:
    """`source_set` is `sourceSet`."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _fields(
    fields: Mapping[str, Field], body: Any, at: tuple[str, ...], details: list[dict[str, Any]]
) -> dict[str, Any]:
    if not isinstance(body, dict):
        said = "Input should be a valid dictionary or object to extract fields from"
        details.append({"type": "model_attributes_type", "loc": list(at), "msg": said})
        return {}
    found = {}
    for name, field in fields.items():
        value = body.get(camel(name), body.get(name, _MISSING))
        where = [*at, camel(name)]
        if value is _MISSING or (value is None and field.default is not _MISSING):
            if field.default is _MISSING:
                details.append({"type": "missing", "loc": where, "msg": "Field required"})
            found[name] = field.default
        else:
            _check(field, value, where, details)
            found[name] = value
    return found


def _check(field: Field, value: Any, where: list[Any], details: list[dict[str, Any]]) -> None:
    if field.is_list and not isinstance(value, list):
        details.append({"type": "list_type", "loc": where, "msg": "Input should be a valid list"})
        return
    for place, one in enumerate(value if field.is_list else [value]):
        if not field.reads(one):
            loc = [*where, place] if field.is_list else where
            details.append({"type": field.kind, "loc": loc, "msg": field.expected})
            return
