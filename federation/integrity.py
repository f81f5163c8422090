"""What must hold in a home, and what is wrong where it does not: findings, and what would mend each.

Pure: bytes and rows in, findings out; whoever reads the disk is in :mod:`peers.home_checks` and its neighbours. A
finding names the thing, what was expected and what was found. Its remedy, where it has one, says how it can be mended
without inventing anything: from the log, from a signed document, or by dropping what is no evidence of anything. Where
it has none, ``advice`` says what a person can do.

Rules: a check never raises for what it checks; it goes on after a finding as far as that makes sense, so that one
damaged thing hides no other; no finding shows a key or a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from federation.documents import (
    DESIRED_TYPE,
    RELEASE_TYPE,
    ActualState,
    DesiredState,
    KeyId,
    ReleaseRecord,
    RootRecord,
    SignedDocument,
    decode,
)
from federation.errors import Untrusted
from federation.events import Change, decode_event
from federation.names import Digest, digest_of
from federation.roots import advance, pin_of, signing_keys, trust_chain
from federation.signing import verified
from federation.state import FederationState
from query.errors import Problem

FINDINGS_MAX: Final = 10_000  # of one home; a home with more is not mended by looking at each
SHOWN_LENGTH_MAX: Final = 200


# --- what mends a finding --------------------------------------------------------------------------------------------


class SetMode(Struct, frozen=True):
    path: str
    mode: int

    def __str__(self) -> str:
        return f"set its mode to {self.mode:o}"


class RemoveFile(Struct, frozen=True):
    path: str
    why: str

    def __str__(self) -> str:
        return f"remove it: {self.why}"


class RebuildTables(Struct, frozen=True):
    def __str__(self) -> str:
        return "rebuild the tables from the log"


class DropReport(Struct, frozen=True):
    row: int

    def __str__(self) -> str:
        return "drop the report: the edge's next one takes its place"


class RewriteRoots(Struct, frozen=True):
    def __str__(self) -> str:
        return "write the root records of the log"


class ListRelease(Struct, frozen=True):
    record: Digest

    def __str__(self) -> str:
        return "list it again, by its record in the log"


class UnlistManifest(Struct, frozen=True):
    repository: str
    manifest: Digest
    why: str

    def __str__(self) -> str:
        return f"take it off the list: {self.why}"


class RebuildList(Struct, frozen=True):
    def __str__(self) -> str:
        return "keep it aside, and list every release whose signed record is among the blobs"


Remedy: TypeAlias = (
    SetMode | RemoveFile | RebuildTables | DropReport | RewriteRoots | ListRelease | UnlistManifest | RebuildList
)


class Finding(Struct, frozen=True):
    """``kind`` is a word as ``damaged_blob``. ``advice`` is for what has no remedy, or is left after it."""

    kind: str
    thing: str
    expected: str
    found: str
    remedy: Remedy | None = None
    advice: str = ""

    def __str__(self) -> str:
        text = f"{self.kind}: {self.thing}: expected {self.expected}, found {self.found}"
        return text if len(text) <= 1000 else text[:997] + "..."

    def record(self) -> dict[str, Any]:
        """As JSON shows it: ``repair`` is null for what needs a person."""
        return {
            "class": self.kind,
            "thing": self.thing,
            "expected": self.expected,
            "found": self.found,
            "repair": None if self.remedy is None else str(self.remedy),
            "advice": self.advice or None,
        }


def brief(value: object) -> str:
    """A value that may be anything, short enough for a line."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_LENGTH_MAX else text[:SHOWN_LENGTH_MAX] + "…"


# --- the log ---------------------------------------------------------------------------------------------------------


class LogReading(Struct, frozen=True):
    """``state`` is what the log says, None when an event cannot be read or applied; ``last`` the last number."""

    findings: tuple[Finding, ...]
    state: FederationState | None
    last: int


_RESTORE: Final = "restore a backup: peerage restore"
_UNFIT: Final = (Problem, msgspec.MsgspecError, LookupError, ValueError, TypeError, AttributeError)


def check_log(rows: Iterable[tuple[Any, ...]]) -> LogReading:
    """The rows of the log in their order: ``(seq, time, caller, event)``, as SQLite has them."""
    findings: list[Finding] = []
    state: FederationState | None = FederationState()
    last = 0
    for row in rows:
        seq, time, caller, event = row
        if not isinstance(seq, int) or seq != last + 1:
            expected = f"the number {last + 1} after {last}"
            findings.append(Finding("gap_in_log", "changes", expected, brief(seq), advice=_RESTORE))
            state = None
            if not isinstance(seq, int):
                continue
        last = seq
        problem = _unreadable(time, caller, event)
        if problem is not None:
            findings.append(Finding("bad_event", f"change {seq}", "an event of this version", problem, advice=_RESTORE))
            state = None
        elif state is not None:
            try:
                state.apply(Change(seq, float(time), caller, decode_event(event.encode())))
            except _UNFIT as error:
                told = f"one that does not ({type(error).__name__}: {brief(str(error))})"
                wanted = "an event that fits what was before"
                findings.append(Finding("unfit_event", f"change {seq}", wanted, told, advice=_RESTORE))
                state = None
        if len(findings) >= FINDINGS_MAX:
            break
    return LogReading(tuple(findings), state, last)


def _unreadable(time: Any, caller: Any, event: Any) -> str | None:
    if not isinstance(time, int | float) or not isinstance(caller, str) or not isinstance(event, str):
        return f"columns of types {type(time).__name__}, {type(caller).__name__}, {type(event).__name__}"
    try:
        decode_event(event.encode())
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        return f"{brief(event[:60])} ({brief(str(error))})"
    return None


def check_tables(
    found: Mapping[str, Sequence[tuple[Any, ...]] | str], rebuilt: Mapping[str, Sequence[tuple[Any, ...]]]
) -> list[Finding]:
    """Projections as they stand against those made again from the log; a text in ``found`` is why one was not read."""
    findings = []
    for table, wanted in rebuilt.items():
        rows = found[table]
        if isinstance(rows, str):
            findings.append(Finding("wrong_table", table, "a table that can be read", rows, RebuildTables()))
            continue
        mine, theirs = {_row_key(row) for row in rows}, {_row_key(row) for row in wanted}
        if mine == theirs and len(rows) == len(wanted):
            continue
        lacking, more = theirs - mine, mine - theirs
        told = f"{len(rows)} rows, {len(more)} of them others than the log says, {len(lacking)} lacking"
        example = next(iter(sorted(more) or sorted(lacking)), "")
        findings.append(
            Finding(
                "wrong_table",
                table,
                f"the {len(wanted)} rows that the log makes",
                f"{told}: {brief(example)}",
                RebuildTables(),
            )
        )
    return findings


def _row_key(row: tuple[Any, ...]) -> str:
    return repr(row)


def check_reports(rows: Iterable[tuple[Any, ...]]) -> list[Finding]:
    """The rows of the reports: ``(id, edge, time, digest, body)``."""
    findings = []
    for row, edge, _time, digest, body in rows:
        thing = f"report {row} of edge {brief(edge)}"
        told = "" if isinstance(body, bytes) else f"a body of type {type(body).__name__}"
        if not told:
            try:
                actual = decode(body, ActualState)
            except msgspec.MsgspecError as error:
                told = f"{brief(repr(body[:40]))} ({brief(str(error))})"
            else:
                told = "" if actual.edge == edge else f"a report of edge {brief(actual.edge)}"
        if not told and not (isinstance(digest, str) and digest.startswith("sha256:")):
            told = f"the digest {brief(digest)}"
        if told:
            findings.append(Finding("bad_report", thing, "an actual state of that edge", told, DropReport(row)))
    return findings


# --- signed documents ------------------------------------------------------------------------------------------------


def check_chain(documents: Sequence[SignedDocument], where: str, *, advice: str) -> list[Finding]:
    """The root records of one home or log, version 1 first: each signed as the one before it asks."""
    if not documents:
        return [Finding("broken_chain", where, "at least one root record", "none", advice=advice)]
    try:
        trust_chain(documents, pin_of(documents[0]))
    except Untrusted as error:
        return [Finding("broken_chain", where, "root records that follow from the first", error.message, advice=advice)]
    return []


def sound_roots(documents: Sequence[SignedDocument]) -> tuple[RootRecord, ...]:
    """The root records of a chain, as far as it holds."""
    found: list[RootRecord] = []
    for document in documents:
        try:
            found.append(advance(found[-1], document) if found else trust_chain([document], pin_of(document)))
        except Untrusted:
            break
    return tuple(found)


def publisher_keys(roots: Sequence[RootRecord]) -> dict[KeyId, bytes]:
    """Every key that any of these root records knows as a publisher's, revoked ones too."""
    keys: dict[KeyId, bytes] = {}
    for root in roots:
        keys |= signing_keys(root)
    return keys


def check_record(
    document: SignedDocument, where: str, *, keys: Mapping[KeyId, bytes], digest: str | None = None, advice: str
) -> list[Finding]:
    """A signed release record: one of ``keys`` signed it, it can be read, and it has the digest that names it."""
    try:
        payload = verified(document, RELEASE_TYPE, keys)
        decode(payload, ReleaseRecord)
    except (Untrusted, msgspec.MsgspecError) as error:
        found = error.message if isinstance(error, Untrusted) else brief(str(error))
        return [Finding("bad_record", where, "a release record signed by a publisher", found, advice=advice)]
    if digest is not None and digest_of(payload) != digest:
        return [Finding("bad_record", where, f"the record {digest}", digest_of(payload), advice=advice)]
    return []


def check_desired(
    document: SignedDocument, *, roots: Sequence[RootRecord], edge: str, federation: str, where: str, advice: str
) -> list[Finding]:
    """The desired state that an edge keeps: signed by a director, and for this edge. Its age is no damage."""
    keys: dict[KeyId, bytes] = {}
    for root in roots:
        keys |= {keyid: key.key for keyid, key in root.directors.items()}
    try:
        desired = decode(verified(document, DESIRED_TYPE, keys), DesiredState)
    except (Untrusted, msgspec.MsgspecError) as error:
        found = error.message if isinstance(error, Untrusted) else brief(str(error))
        return [Finding("bad_desired_state", where, "a desired state signed by the director", found, advice=advice)]
    if (desired.edge, desired.federation) != (edge, federation):
        told = f"one for edge {desired.edge} of {brief(desired.federation)}"
        return [Finding("bad_desired_state", where, f"one for edge {edge} of {federation}", told, advice=advice)]
    return []
