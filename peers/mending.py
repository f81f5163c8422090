"""What is done about findings in a home: each remedy, carried out.

Owns the writing of ``peerage fsck --repair``. Refuses a home that a process runs in. Rules: nothing is invented: tables
come from the log, lists from signed records, and what is dropped is no evidence of anything; what is replaced whole is
kept aside first, as ``….damaged``. Whether it helped is for the next look to say.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, assert_never

from federation import histories, projections
from federation.attachments import fallback_subject
from federation.blobs import sync_folder
from federation.databases import database_on
from federation.documents import RELEASE_TYPE
from federation.integrity import (
    DropReport,
    Finding,
    ListRelease,
    RebuildList,
    RebuildTables,
    Remedy,
    RemoveFile,
    RewriteRoots,
    SetMode,
    UnlistManifest,
)
from federation.layout import ImageLayout
from federation.layout_index import RECORD, REPOSITORY, LayoutContents, annotations_of
from federation.manifest_store import INDEX_BYTES_MAX
from federation.manifests import MANIFEST_BYTES_MAX, REF_NAME, BadManifest, Descriptor, read_index, read_manifest
from federation.names import Digest
from federation.packing import record_digest
from federation.state import FederationState
from peers.examining import Examination
from peers.homes import Home
from peers.repository_tidying import listed
from peers.store_checks import reading
from query.declarations import Progress
from query.errors import Problem

_ORDER: Final = (
    SetMode,
    RemoveFile,
    RebuildTables,
    DropReport,
    RewriteRoots,
    RebuildList,
    UnlistManifest,
    ListRelease,
)


def mend(examination: Examination, *, progress: Progress) -> None:
    """Carry out every remedy of an examination. Raises ``HomeInUse``; what one remedy cannot do stops no other."""
    home = examination.home
    with home.occupy():
        remedies = {str(finding.remedy) + finding.thing: finding for finding in examination.findings if finding.remedy}
        todo = sorted(remedies.values(), key=lambda finding: _ORDER.index(type(finding.remedy)))
        done: set[Remedy] = set()
        for number, finding in enumerate(todo):
            progress("repair", number, len(todo), "findings")
            if finding.remedy is not None and finding.remedy not in done:
                done.add(finding.remedy)
                with contextlib.suppress(Problem, OSError, sqlite3.Error):  # the next look says what is left
                    _carry_out(home, finding.remedy, examination.state)
        if home.releases.is_dir():
            with contextlib.suppress(Problem):
                ImageLayout(home.releases)  # writes what marks a layout, when that is gone
        progress("repair", len(todo), len(todo), "findings")


def _carry_out(home: Home, remedy: Remedy, state: FederationState | None) -> None:
    match remedy:
        case SetMode(path, mode):
            Path(path).chmod(mode)
        case RemoveFile(path):
            Path(path).unlink(missing_ok=True)
        case RebuildTables():
            rewrite_store(home.state_db)
        case DropReport(row):
            _drop_report(home.state_db, row)
        case RewriteRoots():
            if state is not None:
                home.write_roots(state.root_documents)
        case RebuildList():
            _rebuild_list(home, state)
        case UnlistManifest(repository, manifest):
            ImageLayout(home.releases).remove_manifest(repository, manifest)
        case ListRelease(record):
            for release in () if state is None else state.releases():
                if release.digest == record:
                    listed(ImageLayout(home.releases), release)
        case _:
            assert_never(remedy)


# --- a nameserver's store --------------------------------------------------------------------------------------------


def rewrite_store(path: Path) -> None:
    """The log, the reports and the histories in a new file, and the tables made from the log; the old file is kept
    aside.
    """
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(fresh)
    try:
        db = database_on(connection)
        projections.create_tables(db)
        with reading(path) as old, db.atomic():
            changes = old.execute("SELECT seq, time, caller, event FROM changes ORDER BY seq").fetchall()
            connection.executemany("INSERT INTO changes VALUES (?, ?, ?, ?)", changes)
            connection.executemany("INSERT INTO reports VALUES (?, ?, ?, ?, ?)", _reports(old))
            histories.make_tables(db)
            for table, columns in histories.TABLES.items():  # what edges told of themselves is in no log of changes
                places = ", ".join("?" for _ in columns.split(","))
                connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({places})", _rows(old, table, columns))
            projections.rebuild(db)
    except BaseException:
        connection.close()
        fresh.unlink(missing_ok=True)
        raise
    connection.close()
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(path.with_name(path.name + ".damaged"))
    for beside in ("-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    fresh.replace(path)
    sync_folder(path.parent)


def _reports(old: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """The reports that can be read, one by one: a damaged page takes only those that lie on it."""
    try:
        (last,) = old.execute("SELECT coalesce(max(id), 0) FROM reports").fetchone()
    except sqlite3.DatabaseError:
        return
    for row in range(1, int(last) + 1):
        with contextlib.suppress(sqlite3.DatabaseError):
            found = old.execute("SELECT id, edge, time, digest, body FROM reports WHERE id = ?", [row]).fetchone()
            if found is not None and None not in found:
                yield found


def _rows(old: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a table up to what cannot be read; none of a table that an older store does not have."""
    with contextlib.suppress(sqlite3.DatabaseError):
        for row in old.execute(f"SELECT {columns} FROM {table} ORDER BY 1"):
            if None not in row:
                yield row


def _drop_report(path: Path, row: int) -> None:
    connection = sqlite3.connect(path)
    try:
        with connection:
            connection.execute("DELETE FROM reports WHERE id = ?", [row])
    finally:
        connection.close()


# --- a repository ----------------------------------------------------------------------------------------------------


def _rebuild_list(home: Home, state: FederationState | None) -> None:
    """List again what was listed and can be read, and every release whose signed record is among the blobs.

    On a nameserver, only what the log has: a release that it deleted does not come back.
    """
    path = home.releases / "index.json"
    before = _listed_before(path)
    if path.exists():
        path.replace(path.with_name("index.json.damaged"))
    layout = ImageLayout(home.releases)
    for entry in before:
        with contextlib.suppress(Problem, KeyError, ValueError):
            _list_again(layout, entry)
    wanted = None if state is None else {release.digest for release in state.releases()}
    for digest in list(layout.blobs.digests()):
        if (layout.blobs.size(digest) or 0) <= MANIFEST_BYTES_MAX:
            with contextlib.suppress(Problem):
                _attach_again(layout, digest, wanted)


def _listed_before(path: Path) -> Sequence[Descriptor]:
    try:
        return LayoutContents.of(read_index(path.read_bytes(), bytes_max=INDEX_BYTES_MAX).manifests).entries
    except (OSError, BadManifest, KeyError):
        return ()


def _list_again(layout: ImageLayout, entry: Descriptor) -> None:
    told = annotations_of(entry)
    repository, name = told[REPOSITORY], told.get(REF_NAME)
    raw = layout.blobs.read(Digest(entry.digest), bytes_max=MANIFEST_BYTES_MAX)
    tag = None if name is None else name.removeprefix(f"{repository}:")
    subject = None if tag is None else fallback_subject(tag)
    if subject is not None:
        layout.put_fallback(repository, raw, subject)
    else:
        layout.put_manifest(repository, raw, media_type=entry.media_type, tag=tag, pending=RECORD not in told)


def _attach_again(layout: ImageLayout, digest: Digest, wanted: set[Digest] | None) -> None:
    manifest = read_manifest(layout.blobs.read(digest, bytes_max=MANIFEST_BYTES_MAX))
    if manifest.artifact_type != RELEASE_TYPE:
        return
    signed, record = layout.attached_record(manifest)
    if wanted is None or record.development or record_digest(signed) in wanted:
        layout.attach(signed)


def left(findings: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Findings that a repair would mend, and those that need a person."""
    return [f for f in findings if f.remedy is not None], [f for f in findings if f.remedy is None]
