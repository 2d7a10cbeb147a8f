"""/openapi.json: the calls for programs, OpenAPI 3.1 made from the contract."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field

from saeserve._version import __version__
from saeserve.web import contract
from saeserve.web.contract import comment

_SCALARS: dict[int, dict[str, Any]] = {
    Field.TYPE_DOUBLE: {"type": "number", "format": "double"},
    Field.TYPE_FLOAT: {"type": "number", "format": "float"},
    Field.TYPE_INT32: {"type": "integer", "format": "int32"},
    Field.TYPE_UINT32: {"type": "integer", "format": "uint32", "minimum": 0},
    Field.TYPE_INT64: {"type": "string", "format": "int64"},
    Field.TYPE_UINT64: {"type": "string", "format": "uint64"},
    Field.TYPE_BOOL: {"type": "boolean"},
    Field.TYPE_STRING: {"type": "string"},
    Field.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}


def document() -> dict[str, Any]:
    """The whole document."""
    asked, answered = contract.asked(), contract.answered()
    schemas = {name: _schema(kind, always=name not in asked) for name, kind in (answered | asked).items()}
    schemas |= _error_schemas()
    for rpc, (config, item) in contract.STREAMED.items():
        schemas[f"{rpc}Body"] = {
            "type": "object",
            "description": f"The messages of {rpc} in one body.",
            "properties": {"config": _ref(config), "items": {"type": "array", "items": _ref(item)}},
            "additionalProperties": False,
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "saeserve",
            "version": __version__,
            "summary": "What a language model's features respond to.",
            "description": "ProtoJSON of saeserve.v1. Names are lowerCamelCase, 64-bit integers and bytes (base64) "
            "are texts, the buffers of encode are arrays of numbers. Fields that are not optional are in every answer.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}],
        "paths": {call.path: {"post": _operation(call)} for call in contract.calls()},
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": {"Error": _error("Why there is no answer.")}
            | {f"Error{code}": _error(words) for code, words in contract.ERRORS.items()},
            "parameters": {name: _header(name, words) for name, words in contract.HEADERS.items()},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The server's token, where it asks for one.",
                }
            },
        },
    }


def _operation(call: contract.Call) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": _events() if call.name == contract.EVENTS else _answer(call)}
    responses |= {str(code): {"$ref": f"#/components/responses/Error{code}"} for code in contract.ERRORS}
    body: dict[str, Any] = {"application/json": {"schema": _ref(call.request), "example": call.example}}
    if call.name == contract.EVENTS:
        body["application/x-ndjson"] = {
            "schema": {"type": "string", "description": "The configuration in the first line, an item in each other."}
        }
    return {
        "operationId": call.name[0].lower() + call.name[1:],
        "summary": call.about.partition("? ")[0].partition(". ")[0],
        "description": call.about,
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in contract.HEADERS],
        "requestBody": {"required": False, "content": body},
        "responses": responses | {"default": {"$ref": "#/components/responses/Error"}},
    }


def _answer(call: contract.Call) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(call.response)}}
    return {"description": "The answer.", "headers": _id_header(), "content": content}


def _events() -> dict[str, Any]:
    words = (
        "Server-sent events. `item`: an EncodeStreamResponse, whose `error` is that of an Error; those of one item "
        "follow each other. `end`: all items are answered. `error`: an Error, after which nothing comes."
    )
    return {
        "description": words,
        "headers": _id_header(),
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }


def _id_header() -> dict[str, Any]:
    return {"X-Request-Id": {"description": "Names the call.", "schema": {"type": "string"}}}


def _error(words: str) -> dict[str, Any]:
    retry = {"description": "Seconds until a retry may succeed.", "schema": {"type": "integer"}}
    return {
        "description": words,
        "headers": _id_header() | {"Retry-After": retry},
        "content": {"application/json": {"schema": _ref("Error")}},
    }


def _header(name: str, words: str) -> dict[str, Any]:
    kind = {"type": "number", "exclusiveMinimum": 0} if name.endswith("Timeout") else {"type": "string"}
    return {"name": name, "in": "header", "description": words, "required": False, "schema": kind}


def _schema(kind: Any, always: bool) -> dict[str, Any]:
    """A message or an enum. `always`: it stands in answers only, where fields without a presence are always printed."""
    if hasattr(kind, "values"):
        values = "; ".join(f"{one.name}: {comment(f'{kind.full_name}.{one.name}')}" for one in kind.values)
        return {"type": "string", "description": f"{comment(kind.full_name)} {values}", "enum": [*kind.values_by_name]}
    made: dict[str, Any] = {
        "type": "object",
        "description": comment(kind.full_name),
        "properties": {field.json_name: _field(field) for field in kind.fields},
    }
    if not always:
        made["additionalProperties"] = False
    required = [field.json_name for field in kind.fields if always and (field.is_repeated or not field.has_presence)]
    if required:
        made["required"] = required
    choices = {field.containing_oneof.name for field in kind.fields if field.containing_oneof is not None}
    real = [one for one in kind.oneofs if one.name in choices and not one.name.startswith("_")]
    for one in real:
        names = [field.json_name for field in one.fields]
        made["description"] += f" At most one of {', '.join(names)}."
    return made


def _field(field: Any) -> dict[str, Any]:
    about = {"description": comment(field.full_name)} if comment(field.full_name) else {}
    if field.full_name in contract.ARRAYS:
        return contract.ARRAYS[field.full_name] | about
    if contract.is_map(field):
        value = _one(field.message_type.fields_by_name["value"])
        return {"type": "object", "additionalProperties": value} | about
    one = _one(field)
    return ({"type": "array", "items": one} if field.is_repeated else one) | about


def _one(field: Any) -> dict[str, Any]:
    if field.full_name == "saeserve.v1.EncodeStreamResponse.error":
        return _ref("ErrorBody")
    kind = field.message_type or field.enum_type
    return _ref(kind.name) if kind is not None else dict(_SCALARS[field.type])


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _error_schemas() -> dict[str, Any]:
    text = {"type": "string"}
    violation = {
        "type": "object",
        "required": ["field", "description"],
        "properties": {
            "field": text | {"description": "Its path, for example `filter.include.sources[1]`."},
            "description": text | {"description": "What was expected."},
        },
    }
    body = {
        "type": "object",
        "description": "What was refused, or failed.",
        "required": ["code", "status", "reason", "message", "fieldViolations", "requestId"],
        "properties": {
            "code": {"type": "integer", "description": "The HTTP status."},
            "status": text | {"description": "The gRPC status, for example `INVALID_ARGUMENT`."},
            "reason": text | {"description": "Name of the cause, `SOURCE_NOT_FOUND` say; empty where none is known."},
            "message": text | {"description": "What went wrong, in words."},
            "fieldViolations": {"type": "array", "items": violation, "description": "The fields at fault."},
            "retryDelaySeconds": {
                "type": "number",
                "description": "After which a retry may succeed; missing where unknown.",
            },
            "requestId": text | {"description": "Names the call in the server's log."},
        },
    }
    error = {"type": "object", "required": ["error"], "properties": {"error": _ref("ErrorBody")}}
    return {"Error": error, "ErrorBody": body}
