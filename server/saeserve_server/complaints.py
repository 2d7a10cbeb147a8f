"""What pydantic complains of, in our words: which key, what is expected of it, once, and what stands there.

What is expected is read off the field itself, so that every kind of mistake in one setting is answered the same way.
"""

from __future__ import annotations

import datetime
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from saeserve_server.errors import nearest, shown

PLAIN = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "Path": "a path"}
"""What is expected of a setting of a plain type, by its name."""


@dataclass(frozen=True, slots=True)
class Expected:
    """In a field's annotation: what it expects, where its type does not say it well."""

    words: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the settings a complaint is about: the deepest key that is one of ours."""

    location: tuple[int | str, ...]
    expected: str
    table: type[BaseModel] | None
    """The table that holds the key."""

    @property
    def key(self) -> str:
        """As it is written in messages: `sources[0].path`."""
        key = ""
        for part in self.location:
            key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
        return key


def explain(
    error: ValidationError,
    root: type[BaseModel],
    values: Mapping[str, Any],
    origin: Mapping[str, str],
    secret: Sequence[str],
) -> list[str]:
    """A line for each key that is wrong: `PLACE: KEY: expected …, got …`.

    `root` describes the whole of the settings, `values` are what was given, `origin` says by the first part of a key
    where it was given; what stands under the keys in `secret` is never repeated.
    """
    lines: dict[str, str] = {}
    elsewhere = next(iter(origin.values())) if len(set(origin.values())) == 1 else "configuration"
    for problem in error.errors(include_url=False):
        place = _place(problem["loc"], root)
        source = origin.get(str(place.location[0] if place.location else ""), elsewhere)
        got = _value(values, place.location)
        lines.setdefault(place.key, f"{source}: {place.key}: {_words(problem, place, got, root, secret)}")
    return list(lines.values())


def _words(problem: Any, place: _Place, got: Any, root: type[BaseModel], secret: Sequence[str]) -> str:
    kind = problem["type"]
    if kind == "extra_forbidden":
        return _unknown(place, root)
    if kind == "missing":
        return f"missing, expected {place.expected}"
    ours = str(problem["ctx"]["error"]) if kind == "value_error" else f"expected {place.expected}"
    if not ours.startswith("expected ") or ", got " in ours or place.key in secret:
        return ours
    near = _near(got, place) if isinstance(got, str) else ""
    table = isinstance(got, Mapping) and "headed" in ours
    return f"{ours}, got {f'a table headed [{place.key}]' if table else _written(got)}{near}"


def _unknown(place: _Place, root: type[BaseModel]) -> str:
    name, table = str(place.location[-1]), place.table or root
    if table is not root and name in root.model_fields:
        return f"unknown key here: {name} is a setting of the server, which stands above all tables"
    for key, field in root.model_fields.items() if table is root else ():
        if (held := _held(field.annotation)) is not None and name in held.model_fields:
            return f"unknown key here: {name} stands in a table {_headed(field, key)}"
    return f"unknown key{nearest(name, _keys(table), 1)}"


def _keys(table: type[BaseModel]) -> list[str]:
    """The keys that a file may have there."""
    return [name for name, field in table.model_fields.items() if not field.exclude]


def _near(got: str, place: _Place) -> str:
    """The word that was meant, of those that a setting takes."""
    field = place.table.model_fields.get(str(place.location[-1])) if place.table else None
    words = _choices(field.annotation) if field else []
    near = difflib.get_close_matches(got.casefold(), words, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _place(location: tuple[int | str, ...], root: type[BaseModel]) -> _Place:
    """Follows a location as far as it names keys: beyond, pydantic names the kinds that it tried."""
    table: type[BaseModel] | None = root
    inner: Any = root
    expected, kept = "", list[int | str]()
    for part in location:
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            table = inner
            field = inner.model_fields.get(str(part))
            kept.append(part)
            if field is None:
                return _Place(tuple(kept), expected, table)
            expected, inner = _expected(field, str(part)), field.annotation
            continue
        held = _held(inner)
        if held is None:
            break
        kept.append(part)
        expected = f"a table headed [[{kept[0]}]]" if isinstance(part, int) else f"a table headed [{kept[0]}.{part}]"
        inner = held
    return _Place(tuple(kept), expected, table)


def _held(annotation: Any) -> type[BaseModel] | None:
    """The table that a list or a mapping holds several of."""
    if typing.get_origin(annotation) not in (tuple, Mapping):
        return None
    tables = [one for one in typing.get_args(annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    return tables[0] if tables else None


def _expected(field: FieldInfo, name: str) -> str:
    words = next((one.words for one in field.metadata if isinstance(one, Expected)), None)
    if words is not None:
        return words
    held = _held(field.annotation)
    if held is not None:
        return f"tables, each {_headed(field, name)}"
    choices = _choices(field.annotation)
    if choices:
        listed = [repr(choice) for choice in choices]
        return f"{', '.join(listed[:-1])} or {listed[-1]}"
    if any(typing.get_origin(one) is tuple for one in _alternatives(field.annotation)):
        return "a list of texts"
    named = [PLAIN.get(getattr(one, "__name__", ""), "another value") for one in _alternatives(field.annotation)]
    return " or ".join(named) + _range(field)


def _headed(field: FieldInfo, name: str) -> str:
    is_list = typing.get_origin(field.annotation) is tuple
    return f"headed [[{name}]]" if is_list else f"headed [{name}.NAME]"


def _range(field: FieldInfo) -> str:
    bounds = {
        name: getattr(one, name) for one in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(one, name)
    }
    if any(getattr(one, "min_length", 0) for one in field.metadata):
        return " that is not empty"
    least = f" over {bounds['gt']}" if "gt" in bounds else f" of at least {bounds['ge']}" if "ge" in bounds else ""
    most = f"at most {bounds['le']}" if "le" in bounds else f"below {bounds['lt']}" if "lt" in bounds else ""
    if "ge" in bounds and "le" in bounds:
        return f" from {bounds['ge']} to {bounds['le']}"
    return least + (f", {most}" if least and most else f" of {most}" if most else "")


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, None left out."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = typing.get_args(annotation) if is_union else (annotation,)
    plain = (typing.get_args(one)[0] if typing.get_origin(one) is typing.Annotated else one for one in members)
    return [one for one in plain if one is not type(None)]


def _choices(annotation: Any) -> list[str]:
    """The words that a setting takes, where it takes certain ones only."""
    found = []
    for one in _alternatives(annotation):
        if typing.get_origin(one) is Literal:
            found += [str(word) for word in typing.get_args(one)]
    return found


def _value(values: Any, location: tuple[int | str, ...]) -> Any:
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _written(value: Any) -> str:
    """A value as the file has it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.date | datetime.time):
        return "a date or time"
    return shown(list(value) if isinstance(value, tuple) else value)
