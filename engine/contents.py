"""What a verified release brings to an engine, taken out of its files: graph, test vectors, labels, functions.

Light to import, and read in the serving process, so everything here is small and bounded before it is parsed; the
graph and the vectors stay bytes until a trial has seen them. Refuses a labels file that is no list of texts
(:class:`BadLabels`), test vectors over ``VECTORS_BYTES_MAX`` (:class:`BadVectors`), and scripts that hold anything but
functions (:class:`BadFunctions`).

A labels file (layer kind ``weight.config``, ``*.json``) is a JSON list of texts, or an object whose ``labels`` is one;
another object is a model's own settings and none of our business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from engine.errors import BadFunctions, BadLabels, BadVectors
from query.errors import Problem

if TYPE_CHECKING:
    from federation.verification import VerifiedRelease
    from query.syntax import CreateFunction

VECTORS_BYTES_MAX: Final = 64 * 1024 * 1024
LABELS_BYTES_MAX: Final = 4 * 1024 * 1024
FUNCTIONS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Contents:
    """``graph`` is None for a model of functions alone. ``scripts``: path → text, as they were released."""

    graph: bytes | None
    vector_files: tuple[bytes, ...]
    labels: tuple[str, ...]
    functions: tuple[CreateFunction, ...]
    scripts: dict[str, str]


def contents_of(release: VerifiedRelease) -> Contents:
    """Raises ``BadLabels``, ``BadVectors``, ``BadFunctions``. A pipeline's are in the releases of its models."""
    if release.record.kind == "pipeline":
        return Contents(None, (), (), (), {})
    graph: bytes | None = None
    vector_files: list[bytes] = []
    labels: tuple[str, ...] = ()
    scripts: dict[str, str] = {}
    functions: list[CreateFunction] = []
    for entry in release.record.files:
        content = release.files[entry.path]
        match entry.kind:
            case "weight":
                graph = content
            case "dataset":
                vector_files.append(content)
            case "weight.config" if entry.path.endswith(".json"):
                labels = labels or _labels(entry.path, content)
            case "code" if entry.path.endswith(".pql"):
                scripts[entry.path] = _script(entry.path, content)
                functions.extend(_functions(entry.path, scripts[entry.path]))
    if sum(map(len, vector_files)) > VECTORS_BYTES_MAX:
        raise BadVectors(
            f"test vectors: expected at most {VECTORS_BYTES_MAX} bytes, found {sum(map(len, vector_files))}"
        )
    if len(functions) > FUNCTIONS_MAX:
        raise BadFunctions(f"expected at most {FUNCTIONS_MAX} functions, found {len(functions)}")
    return Contents(graph, tuple(vector_files), labels, tuple(functions), scripts)


def _labels(path: str, content: bytes) -> tuple[str, ...]:
    if len(content) > LABELS_BYTES_MAX:
        raise BadLabels(f"{path}: expected at most {LABELS_BYTES_MAX} bytes, found {len(content)}")
    try:
        read: Any = msgspec.json.decode(content)
        if isinstance(read, dict):
            read = read.get("labels", [])
        return msgspec.convert(read, tuple[str, ...])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadLabels(f"{path}: expected a JSON list of texts: {error}") from error


def _script(path: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadFunctions(f"{path}: expected UTF-8 text: {error}") from error


def _functions(path: str, text: str) -> list[CreateFunction]:
    from query.parsing import parse
    from query.syntax import CreateFunction

    try:
        statements = parse(text).statements
    except Problem as problem:
        place = f", line {problem.span.line}" if problem.span else ""
        raise BadFunctions(f"{path}{place}: {problem.message}") from problem
    functions = []
    for statement in statements:
        if not isinstance(statement.body, CreateFunction):
            raise BadFunctions(f"{path}: expected create function statements only, found another")
        functions.append(statement.body)
    return functions
