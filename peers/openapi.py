"""The OpenAPI document of the application face, made from a table of operations and from structures.

Owns the form of a document of version 3.1 (https://spec.openapis.org/oas/v3.1.0) and the translation of msgspec's JSON
schemas into its components. What the operations are stands in :mod:`peers.openapi_operations`. Pure.

Rules: a schema is made from the structure that reads a request or stands for an answer, never written by hand; the
document says nothing of one peer, so that the one that is served and the one in the documentation are the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec

VERSION: Final = "3.1.0"
JSON_TYPE: Final = "application/json"
_REFERENCE: Final = "#/components/schemas/{name}"
_SCHEME: Final = "token"

Kind: TypeAlias = Any
"""A type that msgspec knows; or a JSON schema itself, for what is no JSON."""


@dataclass(frozen=True, slots=True)
class Body:
    """``kinds``: media type → type. ``says``: what it is, for people."""

    says: str
    kinds: Mapping[str, Kind]
    headers: Mapping[str, str] = field(default_factory=dict)
    example: Any = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """``place``: ``path``, ``query`` or ``header``."""

    name: str
    place: str
    says: str
    kind: Kind = str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``answers``: status → body. ``errors``: statuses that have the face's usual error."""

    method: str
    path: str
    name: str
    group: str
    says: str
    answers: Mapping[int, Body]
    errors: tuple[int, ...] = ()
    error: Kind = None
    request: Body | None = None
    required: bool = False
    parameters: tuple[Parameter, ...] = ()
    token: bool = False


def document(operations: Iterable[Operation], *, title: str, says: str, version: str, error: Kind) -> dict[str, Any]:
    """The document. ``error``: the structure of every error that an operation does not say otherwise."""
    told = tuple(operations)
    kinds = [kind for one in told for kind in _kinds(one, error)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    known = dict(zip(map(id, kinds), schemas, strict=True))

    def schema(kind: Kind) -> Any:
        return kind if isinstance(kind, dict) else known[id(kind)]

    paths: dict[str, dict[str, Any]] = {}
    for one in told:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, error, schema)
    return {
        "openapi": VERSION,
        "info": {"title": title, "description": says, "version": version, "license": {"name": "Apache-2.0"}},
        "tags": [{"name": group} for group in dict.fromkeys(one.group for one in told)],
        "paths": paths,
        "components": {
            "responses": _failures(told, error, schema),
            "schemas": {name: _clean(one) for name, one in sorted(components.items())},
            "securitySchemes": {
                _SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The content of the file `token` in the peer's home.",
                }
            },
        },
    }


def encode_document(found: Mapping[str, Any]) -> bytes:
    """The one text of a document."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"


def _kinds(one: Operation, error: Kind) -> list[Kind]:
    bodies = [*one.answers.values(), *([one.request] if one.request else [])]
    kinds = [kind for body in bodies for kind in body.kinds.values()]
    kinds += [parameter.kind for parameter in one.parameters]
    kinds.append(one.error or error)
    return [kind for kind in kinds if not isinstance(kind, dict)]


def _failure(error: Kind, status: int) -> str:
    return f"{error.__name__}{status}"


def _failures(operations: Iterable[Operation], error: Kind, schema: Any) -> dict[str, Any]:
    """The answers that many operations share, by their name in the components."""
    told: dict[str, Any] = {}
    for one in operations:
        for status in one.errors:
            body = Body(_MEANINGS[status], {JSON_TYPE: one.error or error}, _HEADERS.get(status, {}))
            told[_failure(one.error or error, status)] = _answer(body, schema)
    return dict(sorted(told.items()))


def _operation(one: Operation, error: Kind, schema: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"operationId": one.name, "tags": [one.group], "summary": one.says}
    if one.parameters:
        told["parameters"] = [_parameter(parameter, schema) for parameter in one.parameters]
    if one.request is not None:
        told["requestBody"] = {
            "description": one.request.says,
            "required": one.required,
            "content": _content(one.request, schema),
        }
    answers = {str(status): _answer(body, schema) for status, body in one.answers.items()}
    for status in one.errors:
        answers.setdefault(str(status), {"$ref": f"#/components/responses/{_failure(one.error or error, status)}"})
    told["responses"] = dict(sorted(answers.items()))
    told["security"] = [{_SCHEME: []}] if one.token else [{}, {_SCHEME: []}]
    return told


_MEANINGS: Final = {
    400: "the request is not as it should be; `error` says what was expected and found",
    401: "no token, or not this peer's, on an address beyond this device",
    403: "refused: `Host` or `Origin` name another device, no token where one is needed, or a release that may not run",
    404: "unknown, or not loaded here",
    405: "a known path with another method",
    408: "the body did not end in time",
    409: "a verified release that does not load; what ran before still runs",
    413: "over a limit of size, rows or elements",
    415: "a Content-Encoding or a format that this peer does not read",
    429: "too many requests at once",
    500: "a failure of this peer; its log has the cause under `incident`",
    503: "busy, loading or short of memory; may pass",
    504: "the time limit passed",
}
_HEADERS: Final = {
    405: {"Allow": "the methods that it has"},
    429: {"Retry-After": "seconds after which to ask again"},
    503: {"Retry-After": "seconds after which to ask again"},
}


def _parameter(one: Parameter, schema: Any) -> dict[str, Any]:
    told = {"name": one.name, "in": one.place, "description": one.says, "schema": _clean(schema(one.kind))}
    return told | {"required": True} if one.place == "path" else told


def _answer(body: Body, schema: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"description": body.says, "content": _content(body, schema)}
    if body.headers:
        told["headers"] = {
            name: {"description": says, "schema": {"type": "string"}} for name, says in body.headers.items()
        }
    if not body.kinds:
        del told["content"]
    return told


def _content(body: Body, schema: Any) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {"schema": _clean(schema(of))} for kind, of in body.kinds.items()}
    if body.example is not None and JSON_TYPE in content:
        content[JSON_TYPE]["example"] = body.example
    return content


def _clean(schema: Any) -> Any:
    """A schema for readers who do not know our source: texts without its marks, members without what is refused."""
    if isinstance(schema, list):
        return [_clean(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    told: dict[str, Any] = {}
    for name, one in schema.items():
        if name == "description" and isinstance(one, str):
            text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", " ".join(one.split()))
            told[name] = text.replace("``", "`")
        elif name == "properties":
            told[name] = {key: _clean(value) for key, value in one.items() if not _refused(key)}
        else:
            told[name] = _clean(one)
    return told


def _refused(member: str) -> bool:
    """Members of a request that are read only to be refused."""
    return member.startswith("shared_memory_") or member == "classification"
