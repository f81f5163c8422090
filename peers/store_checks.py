"""Whether the stores of a home hold: the nameserver's log, tables and reports, and an edge's state.

Reads alone, over a connection that cannot write, in one transaction: a nameserver that runs goes on, and what is seen
is of one moment. An edge that runs has its file to itself; then it is not looked at, which is told. The tables are made
again from the log in memory and compared.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

from federation import projections
from federation.actual import Saved
from federation.databases import database_on
from federation.documents import KeyId, RootRecord, SignedDocument, decode
from federation.integrity import (
    FINDINGS_MAX,
    Finding,
    RebuildTables,
    brief,
    check_chain,
    check_desired,
    check_log,
    check_record,
    check_reports,
    check_tables,
    publisher_keys,
    sound_roots,
)
from federation.projections import PROJECTIONS
from federation.state import FederationState
from federation.store import read_mark
from federation.verification import cursor_of
from peers.edge_store import FORM
from query.declarations import Progress

BUSY_S: Final = 2.0
INTEGRITY_ERRORS_MAX: Final = 20

_RESTORE: Final = "restore a backup: peerage restore"
_ANEW: Final = "move the file away: the edge asks for everything again, and manual loads are forgotten"


@dataclass(slots=True)
class StoreChecks:
    """``state`` is what a nameserver's log says, where it holds; ``notes`` what was not looked at."""

    findings: list[Finding] = field(default_factory=list)
    state: FederationState | None = None
    changes: int = 0
    notes: list[str] = field(default_factory=list)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, inside one transaction. A file that nobody uses is not even locked."""
    ahead = path.with_name(path.name + "-wal")
    quiet = not ahead.exists() or ahead.stat().st_size == 0
    options = "immutable=1" if quiet else "mode=ro"
    connection = sqlite3.connect(f"file:{quote(str(path))}?{options}", uri=True, isolation_level=None, timeout=BUSY_S)
    try:
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.execute("BEGIN")
        yield connection
    finally:
        connection.close()


def check_nameserver_store(path: Path, *, progress: Progress) -> StoreChecks:
    """The log, what follows from it, and the reports."""
    found = StoreChecks()
    if not path.exists():
        found.findings.append(
            Finding("missing_file", str(path), "the federation's log", "no such file", advice=_RESTORE)
        )
        return found
    mark = read_mark(path)  # before the log, to which a running nameserver adds
    try:
        with reading(path) as connection:
            _check_nameserver(connection, path, found, mark=mark, progress=progress)
    except sqlite3.DatabaseError as error:
        if _busy(error):
            found.notes.append(f"{path} is busy: look again")
        else:
            found.findings.append(_damaged(path, error, _RESTORE))
    return found


def _check_nameserver(
    connection: sqlite3.Connection, path: Path, found: StoreChecks, *, mark: tuple[int, int], progress: Progress
) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (projections.SCHEMA_VERSION, *projections.OLDER_VERSIONS):
        expected = f"tables of version {projections.SCHEMA_VERSION}"
        found.findings.append(Finding("bad_store", str(path), expected, f"version {version}", advice=_RESTORE))
        return
    damage = _integrity(connection, path)
    rows = _rows(connection, "SELECT seq, time, caller, event FROM changes ORDER BY seq")
    if isinstance(rows, str):
        found.findings += [*damage, Finding("bad_store", "changes", "a log that can be read", rows, advice=_RESTORE)]
        return
    progress("read the log", 0, len(rows), "changes")
    log = check_log(rows)
    progress("read the log", len(rows), len(rows), "changes")
    found.changes = len(rows)
    found.findings += log.findings
    found.state = log.state
    _check_mark(path, mark, (log.state.epoch, log.last) if log.state else mark, found)
    reports = _rows(connection, "SELECT id, edge, time, digest, body FROM reports")
    if isinstance(reports, str):
        damage = damage or [Finding("bad_store", "reports", "reports that can be read", reports, RebuildTables())]
    else:
        found.findings += check_reports(reports)[:FINDINGS_MAX]
    whole = log.state is not None
    if damage and whole:
        remedy = RebuildTables()
        damage = [Finding(one.kind, one.thing, one.expected, one.found, remedy) for one in damage]
    found.findings += damage
    if log.state is None:
        return
    if version == projections.SCHEMA_VERSION:
        tables = {table: _rows(connection, f"SELECT * FROM {table} ORDER BY 1, 2") for table in PROJECTIONS}
        found.findings += check_tables(tables, _rebuilt(rows))
    _check_signatures(log.state, found)


def _check_mark(path: Path, mark: tuple[int, int], last: tuple[int, int], found: StoreChecks) -> None:
    """The mark beside the store is never ahead of it, unless changes were lost. Both are an epoch and a number."""
    if mark > last:
        expected = f"change {mark[1]} of epoch {mark[0]}, as the mark beside it says"
        advice = "restore a newer backup; a nameserver that starts as it is begins a new epoch"
        told = f"change {last[1]} of epoch {last[0]}"
        found.findings.append(Finding("lost_changes", str(path), expected, told, advice=advice))


def _check_signatures(state: FederationState, found: StoreChecks) -> None:
    documents = state.root_documents
    found.findings += check_chain(documents, "root records in the log", advice=_RESTORE)
    keys = publisher_keys(sound_roots(documents))
    for release in state.releases():
        where = f"{release.record.label} in the log"
        found.findings += check_record(release.document, where, keys=keys, digest=release.digest, advice=_RESTORE)


def _rebuilt(rows: Sequence[tuple[Any, ...]]) -> dict[str, list[tuple[Any, ...]]]:
    """The tables that a log makes, in memory."""
    connection = sqlite3.connect(":memory:")
    try:
        db = database_on(connection)
        projections.create_tables(db)
        with db.atomic():
            connection.executemany("INSERT INTO changes VALUES (?, ?, ?, ?)", rows)
            projections.rebuild(db)
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in PROJECTIONS}
    finally:
        connection.close()


# --- an edge's -------------------------------------------------------------------------------------------------------


def check_edge_store(
    path: Path, *, edge: str, federation: str, roots: Sequence[RootRecord], own_key: tuple[KeyId, bytes] | None
) -> StoreChecks:
    """The desired state, the records and what is noted of memory. ``own_key`` signs development releases here."""
    found = StoreChecks()
    if not path.exists():
        return found  # it did not start yet
    try:
        with reading(path) as connection:
            found.findings += _integrity(connection, path)
            _check_edge(connection, path, found, edge=edge, federation=federation, roots=roots, own_key=own_key)
    except sqlite3.DatabaseError as error:
        if _busy(error):
            found.notes.append(f"{path} is in use by the edge that runs: stop it to have it looked at")
        else:
            found.findings.append(_damaged(path, error, _ANEW))
    return found


def _check_edge(
    connection: sqlite3.Connection,
    path: Path,
    found: StoreChecks,
    *,
    edge: str,
    federation: str,
    roots: Sequence[RootRecord],
    own_key: tuple[KeyId, bytes] | None,
) -> None:
    form = connection.execute("SELECT value FROM facts WHERE name = 'form'").fetchone()
    if form is None or form[0] != FORM:
        told = "none" if form is None else brief(form[0])
        found.findings.append(Finding("bad_store", str(path), f"the form {FORM}", told, advice=_ANEW))
    row = connection.execute("SELECT document, epoch, generation, window, digest FROM desired").fetchone()
    if row is not None:
        found.findings += _check_desired_row(row, path, edge=edge, federation=federation, roots=roots)
    keys = publisher_keys(roots) | (dict([own_key]) if own_key else {})
    for digest, raw in connection.execute("SELECT digest, document FROM records ORDER BY digest"):
        where = f"record {brief(digest)} in {path.name}"
        document = _document(raw)
        if document is None:
            found.findings.append(Finding("bad_record", where, "a signed record", brief(repr(raw[:40])), advice=_ANEW))
        else:
            found.findings += check_record(document, where, keys=keys, digest=digest, advice=_ANEW)
    saved = connection.execute("SELECT document FROM saved").fetchone()
    if saved is not None:
        try:
            msgspec.json.decode(saved[0], type=Saved)
        except (ValueError, TypeError, RecursionError) as error:  # msgspec's errors are ValueErrors
            expected = "what was loaded and is to be done"
            found.findings.append(Finding("bad_state", str(path), expected, brief(str(error)), advice=_ANEW))


def _check_desired_row(
    row: tuple[Any, ...], path: Path, *, edge: str, federation: str, roots: Sequence[RootRecord]
) -> list[Finding]:
    from federation.documents import DesiredState

    where = f"desired state in {path.name}"
    document = _document(row[0])
    if document is None:
        told = brief(repr(row[0][:40])) if isinstance(row[0], bytes) else type(row[0]).__name__
        return [Finding("bad_desired_state", where, "a signed desired state", told, advice=_ANEW)]
    problems = check_desired(document, roots=roots, edge=edge, federation=federation, where=where, advice=_ANEW)
    if problems:
        return problems
    cursor = tuple(cursor_of(document, decode(document.payload, DesiredState)))
    if cursor != tuple(row[1:]):
        return [Finding("bad_desired_state", where, f"the cursor {cursor}", f"{tuple(row[1:])}", advice=_ANEW)]
    return []


def _document(raw: Any) -> SignedDocument | None:
    try:
        return decode(raw, SignedDocument)
    except (msgspec.MsgspecError, TypeError):
        return None


# --- both ------------------------------------------------------------------------------------------------------------


def _integrity(connection: sqlite3.Connection, path: Path) -> list[Finding]:
    """What SQLite says of its own file."""
    rows = _rows(connection, f"PRAGMA integrity_check({INTEGRITY_ERRORS_MAX})")
    told = [rows] if isinstance(rows, str) else [str(row[0]) for row in rows]
    if told == ["ok"]:
        return []
    return [Finding("damaged_store", str(path), "a sound SQLite file", brief("; ".join(told)), advice=_RESTORE)]


def _damaged(path: Path, error: sqlite3.DatabaseError, advice: str) -> Finding:
    return Finding("damaged_store", str(path), "a sound SQLite file", brief(str(error)), advice=advice)


def _rows(connection: sqlite3.Connection, query: str) -> list[tuple[Any, ...]] | str:
    """The rows of a query, or why they cannot be read. Raises for a file that somebody else has to himself."""
    try:
        return connection.execute(query).fetchall()
    except sqlite3.DatabaseError as error:
        if _busy(error):
            raise
        return brief(str(error))


def _busy(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
