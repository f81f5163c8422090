"""Records in JSON: the rows that a client sends, and the rows that it gets, with the columns that it asked for.

Owns the two directions of ``application/json; format=pandas-records`` and :class:`Selection`, which of an answer's
columns are given. Pure. Knows nothing of what a field should be: the pipeline checks that.

Reading: a JSON list with one object a row; an object alone is one row. Refused: what is not JSON or not UTF-8, text
behind the list, no rows, more than ``ROWS_MAX`` rows, nesting beyond what the decoder takes, and, before anything is
made of it, more than ``JSON_BYTES_MAX`` bytes or ``CONTAINERS_MAX`` opening brackets. The literals ``NaN``,
``Infinity`` and ``-Infinity``, which Python's writer makes, are read although they are not JSON; text with half a
surrogate pair is refused.

Writing: not-a-number and infinities are the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``: JSON has no numbers
for them, ``null`` would lose them, and whoever turns a column into floats reads these words.

Selecting: ``dataset`` and ``dataset_exclude`` name groups (``time in out out_<challenger> anomaly metadata``) or one
column of a group (``out.price``). Without ``dataset`` everything is given. ``*`` is everything but ``metadata``, which
must be asked for beside it. What ``dataset_exclude`` names is left out of that.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from engine.decimals import plain
from engine.errors import InputProblem
from engine.inferences import Inference
from engine.signature import Array
from query.errors import LimitExceeded, nearest

ROWS_MAX: Final = 65_536  # of one request
JSON_BYTES_MAX: Final = 16 * 1024 * 1024  # of one request: while it is read, nothing else runs
CONTAINERS_MAX: Final = 1_000_000  # opening brackets of one request
RECORD_TYPES_KEPT: Final = 256  # sets of names that rows were made of
SELECTED_MAX: Final = 64  # names in dataset and in dataset_exclude
FIXED_GROUPS: Final = ("time", "in", "out", "anomaly", "metadata")
METADATA: Final = ("last_model", "pipeline_version", "elapsed", "dropped", "partition")
_LITERALS: Final = (b"NaN", b"Infinity")


def decode_records(body: bytes) -> list[dict[str, Any]]:
    """The rows of a request. Raises ``InputProblem`` or ``LimitExceeded``."""
    if len(body) > JSON_BYTES_MAX:
        raise LimitExceeded(
            f"expected at most {JSON_BYTES_MAX} bytes of JSON, found {len(body)}",
            hint="send several requests, or Arrow",
        )
    containers = body.count(b"{") + body.count(b"[")
    if containers > CONTAINERS_MAX:
        raise LimitExceeded(f"expected at most {CONTAINERS_MAX} lists and objects, found {containers}")
    read = _decoded(body)
    rows = [read] if isinstance(read, dict) else read
    if not isinstance(rows, list):
        raise InputProblem(f"expected a JSON list of objects, one a row, found {_kind(read)}")
    if not rows:
        raise InputProblem("expected at least one row, found an empty list")
    if len(rows) > ROWS_MAX:
        raise LimitExceeded(f"expected at most {ROWS_MAX} rows, found {len(rows)}", hint="send several requests")
    for at, row in enumerate(rows):
        if row.__class__ is not dict:
            raise InputProblem(f"row {at + 1}: expected an object with the inputs by name, found {_kind(row)}")
    return rows


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise InputProblem("the body is nested too deep: expected a JSON list of objects, one a row") from None
    except UnicodeDecodeError as error:
        raise InputProblem(f"the body is not UTF-8: {error}") from None
    except msgspec.MsgspecError as error:
        if not any(literal in body for literal in _LITERALS):
            raise InputProblem(f"the body is not JSON: {error}") from None
    try:
        read = json.loads(body.decode())
        if b"\\u" in body:
            json.dumps(read, ensure_ascii=False).encode()  # half a surrogate pair could be sent nowhere
    except RecursionError:
        raise InputProblem("the body is nested too deep: expected a JSON list of objects, one a row") from None
    except UnicodeError as error:
        raise InputProblem(f"the body is not UTF-8: {error}") from None
    except ValueError as error:
        raise InputProblem(f"the body is not JSON: {error}") from None
    return read


def _kind(value: object) -> str:
    words = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")


class Query(Protocol):
    """The parameters of a request, of which each may come several times."""

    def __len__(self) -> int: ...

    def getall(self, key: str, default: tuple[()]) -> Iterable[str]: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Which columns of an answer are given; ``None`` for ``wanted``: all of them."""

    wanted: frozenset[str] | None = None
    unwanted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, dataset: Iterable[str], exclude: Iterable[str]) -> Selection:
        """From query parameters, each of which may be a comma list. Raises ``LimitExceeded``."""
        wanted, unwanted = _names("dataset", dataset), _names("dataset_exclude", exclude)
        return cls(wanted or None, unwanted)

    @classmethod
    def of_query(cls, query: Query) -> Selection:
        """From a request's query, where each parameter may also be written ``dataset[]``. Raises ``LimitExceeded``."""
        if not query:
            return EVERYTHING
        return cls.of(
            *([*query.getall(name, ()), *query.getall(f"{name}[]", ())] for name in ("dataset", "dataset_exclude"))
        )

    @property
    def named(self) -> frozenset[str]:
        """Every name that was asked for or left out."""
        return self.unwanted | (self.wanted or frozenset())

    @property
    def everything(self) -> bool:
        return self.wanted is None and not self.unwanted

    def check(self, columns: Mapping[str, Iterable[str] | None]) -> None:
        """``columns``: each group that an answer will have, with its columns; None: they are not known before it is
        there. Raises ``InputProblem`` for a name that is not among them.
        """
        for name in sorted(self.named):
            group, dot, column = name.partition(".")
            if name == "*":
                continue
            if group not in columns:
                close = nearest(group, columns)
                tail = f' — did you mean "{close}"?' if close else ""
                raise InputProblem(
                    f'dataset: an answer has no "{group[:80]}"{tail}', hint=f"expected * or of {', '.join(columns)}"
                )
            known = columns[group]
            if dot and known is not None and column not in set(known):
                raise InputProblem(
                    f'dataset: "{group}" has no "{column[:80]}"',
                    hint=f"expected one of {', '.join(f'{group}.{one}' for one in known)}",
                )

    def gives(self, group: str, column: str | None = None) -> bool:
        """Whether a column of a group is given; without ``column``, whether anything of the group may be."""
        if group in self.unwanted or (column is not None and f"{group}.{column}" in self.unwanted):
            return False
        wanted = self.wanted
        if wanted is None or group in wanted or ("*" in wanted and group != "metadata"):
            return True
        if column is None:
            return any(name.startswith(f"{group}.") for name in wanted)
        return f"{group}.{column}" in wanted

    def of_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with what is given of it."""
        given: dict[str, Any] = {}
        for group, content in row.items():
            if not self.gives(group):
                continue
            if isinstance(content, Mapping):
                content = {column: value for column, value in content.items() if self.gives(group, column)}  # noqa: PLW2901
            given[group] = content
        return given


EVERYTHING: Final = Selection()


def encode_rows(inference: Inference, selection: Selection = EVERYTHING) -> bytes:
    """The rows of an answer as a JSON list: what :meth:`~engine.inferences.Inference.rows` says, made by columns."""
    count = inference.count
    groups: dict[str, Iterable[Any]] = {"time": repeat(inference.time_ms, count)} if selection.gives("time") else {}
    told: dict[str, Mapping[str, Array]] = {"in": inference.inputs, "out": inference.outputs}
    told |= {f"out_{name}": outputs for name, outputs in inference.challengers.items()}
    for group, columns in told.items():
        if selection.gives(group):
            groups[group] = _records(
                {name: _told(column) for name, column in columns.items() if selection.gives(group, name)}, count
            )
    if selection.gives("anomaly"):
        flags = {name: column.tolist() for name, column in inference.anomalies.items()}
        counted = {"count": list(map(sum, zip(*flags.values(), strict=True))) if flags else [0] * count}
        chosen = {name: column for name, column in (counted | flags).items() if selection.gives("anomaly", name)}
        groups["anomaly"] = _records(chosen, count)
    if selection.gives("metadata"):
        texts = [_metadata(inference, model.as_text(), selection) for model in inference.models]
        texts = texts or [_metadata(inference, "", selection)]
        answered = inference.answered
        groups["metadata"] = repeat(texts[0], count) if answered is None else [texts[at] for at in answered.tolist()]
    if not groups:
        return msgspec.json.encode([{}] * count)
    rows = map(_record_type(tuple(groups)), *groups.values())
    return msgspec.json.encode(list(rows))


def _records(columns: Mapping[str, list[Any]], count: int) -> Iterable[Any]:
    """A record of each row."""
    if not columns:
        return repeat({}, count)
    return map(_record_type(tuple(columns)), *columns.values())


@functools.lru_cache(RECORD_TYPES_KEPT)
def _record_type(names: tuple[str, ...]) -> Callable[..., Any]:
    """What makes a record of these fields, from their values in order; quicker than a dictionary."""
    members = [f"m{at}" for at in range(len(names))]
    try:
        made: Callable[..., Any] = msgspec.defstruct(
            "Record", members, rename=dict(zip(members, names, strict=True)), gc=False
        )
    except ValueError:  # a name that JSON writes with an escape
        return lambda *values: dict(zip(names, values, strict=True))
    return made


def _told(column: Array) -> list[Any]:
    """A column's values as JSON can tell them."""
    values = plain(column)
    return values if _is_plain(column, values) else [worded(value) for value in values]


def _metadata(inference: Inference, last_model: str, selection: Selection) -> msgspec.Raw:
    """The text that all rows of one model share."""
    whole = {
        "last_model": last_model,
        "pipeline_version": inference.version,
        "elapsed": inference.elapsed_ns,
        "dropped": inference.dropped,
        "partition": inference.partition,
    }
    return msgspec.Raw(
        msgspec.json.encode({name: value for name, value in whole.items() if selection.gives("metadata", name)})
    )


def worded(value: Any) -> Any:
    """A plain value in which numbers that JSON does not have are words."""
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case dict():
            return {key if isinstance(key, str) else str(key): worded(inner) for key, inner in value.items()}
        case list() | tuple():
            return [worded(inner) for inner in value]
        case _:
            return value


def _is_plain(column: Array, values: list[Any]) -> bool:
    """Whether JSON has a word for every value."""
    kind = column.dtype.kind
    if kind == "f":
        return bool(np.isfinite(column).all())
    return kind != "O" or all(value.__class__ is str for value in values)


def _names(parameter: str, texts: Iterable[str]) -> frozenset[str]:
    names = frozenset(name.strip() for text in texts for name in text.split(",") if name.strip())
    if len(names) > SELECTED_MAX:
        raise LimitExceeded(f"{parameter}: expected at most {SELECTED_MAX} names, found {len(names)}")
    return names
