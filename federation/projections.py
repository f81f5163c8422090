"""The tables of the nameserver's store: the log of changes and its projections, and how a change moves them.

Owns the schema and the SQL of the fold; :mod:`federation.store` owns the connection and the transactions. Rules:
``changes`` is the truth, every other table here can be made again from it (:func:`rebuild`, and a test compares);
each is updated in the transaction of its change, so that a start reads tables instead of replaying the log and other
tools can read them. Documents and lists are JSON text, keys are BLOBs, times are seconds since the epoch.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from sys import intern
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from federation.documents import Kind, Mode, ReleaseRecord, RoleName, SignedDocument, decode, encode
from federation.entries import ALL, Assignment, Facts, Group, Release
from federation.events import (
    Change,
    EdgeIntervalSet,
    EpochStarted,
    Founded,
    GroupDeleted,
    GroupIntervalSet,
    GroupJoined,
    GroupLeft,
    Joined,
    ModelsAssigned,
    ModelsUnassigned,
    ModeSet,
    PinnedRelease,
    PropertySet,
    PublisherKeyOffered,
    Registered,
    ReleaseDeleted,
    ReleaseDeprecated,
    ReleasePublished,
    Removed,
    Renewed,
    RootSet,
    TokenIssued,
    decode_event,
    encode_event,
)
from federation.intervals import DEFAULT_INTERVAL
from federation.members import Member
from federation.names import digest_of, fold
from federation.published import PublishedReleases
from federation.state import FederationState

if TYPE_CHECKING:
    from sqlite_utils import Database

SCHEMA_VERSION: Final = 3
OLDER_VERSIONS: Final = frozenset({1, 2})  # their logs are read; their tables are made again
PROJECTIONS: Final = (
    "facts",
    "members",
    "groups",
    "memberships",
    "assignments",
    "assigned_before",
    "releases",
    "deleted_releases",
    "roots",
)

_MEMBER_COLUMNS: Final[dict[str, type]] = {
    "uuid": str,
    "name": str,
    "kind": str,
    "role": str,
    "publisher": int,
    "key": bytes,
    "publisher_key": bytes,
    "token_hash": str,
    "token_expires": float,
    "registered": float,
    "joined": float,
    "removed": int,
    "tags": str,
    "properties": str,
    "mode": str,
    "poll_interval": str,
    "touched": int,
}


def create_tables(db: Database) -> None:
    """Make what a new store needs, and the tables of an older version anew. Nothing happens to a store that has all."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version in OLDER_VERSIONS:
        with db.atomic():
            rebuild(db)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return
    with db.atomic():
        changes = {"seq": int, "time": float, "caller": str, "event": str}
        db.table("changes").create(changes, pk="seq", not_null=set(changes))
        create_projections(db)
        report = {"id": int, "edge": str, "time": float, "digest": str, "body": bytes}
        db.table("reports").create(report, pk="id", not_null=set(report))
        db.table("reports").create_index(["edge", "id"])
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def create_projections(db: Database) -> None:
    db.table("facts").create({"federation": str, "poll_interval": str, "epoch": int, "seq": int, "shared": int})
    db.execute("INSERT INTO facts VALUES ('', ?, 0, 0, 0)", [DEFAULT_INTERVAL])
    db.table("members").create(_MEMBER_COLUMNS, pk="uuid")
    group = {"folded": str, "name": str, "touched": int, "interval": str, "interval_seq": int, "position": int}
    db.table("groups").create(group, pk="folded")
    db.execute("INSERT INTO groups VALUES (?, ?, 0, NULL, 0, 0)", [ALL, ALL])
    db.table("memberships").create({"edge": str, "folded": str, "seq": int}, pk=("edge", "folded"))
    db.table("memberships").create_index(["folded"])
    assignment = {"folded": str, "name": str, "version": str, "repo": str, "record": str}
    assigned = {**assignment, "seq": int, "time": float, "caller": str, "needs": str}
    db.table("assignments").create(assigned, pk=("folded", "name"))
    db.table("assigned_before").create(assigned, pk=("folded", "name"))
    release = {"name": str, "version": str, "record": str, "document": str, "seq": int, "time": float, "caller": str}
    db.table("releases").create({**release, "deprecated": str, "named_until": float}, pk=("name", "version"))
    db.table("releases").create_index(["record"])
    deleted = {"name": str, "version": str, "manifest": str}
    db.table("deleted_releases").create(deleted, pk=("name", "version"))
    db.table("roots").create({"seq": int, "document": str}, pk="seq")


def rebuild(db: Database) -> None:
    """Make the projections again from the log, in one transaction of the caller's."""
    for table in PROJECTIONS:
        db.execute(f"DROP TABLE IF EXISTS {table}")
    create_projections(db)
    for change in read_changes(db.conn, 0):
        project(db.conn, change)


def read_changes(connection: sqlite3.Connection, after: int) -> Iterator[Change]:
    """The log after a sequence number, in order. Raises ``msgspec.MsgspecError`` on an event nobody knows."""
    rows = connection.execute("SELECT seq, time, caller, event FROM changes WHERE seq > ? ORDER BY seq", [after])
    for seq, time, caller, event in rows:
        yield Change(seq, time, caller, decode_event(event.encode()))


def write_change(connection: sqlite3.Connection, change: Change) -> None:
    """The log entry and what it does to the projections."""
    row = (change.seq, change.time, change.caller, encode_event(change.event).decode())
    connection.execute("INSERT INTO changes VALUES (?, ?, ?, ?)", row)
    project(connection, change)


def project(connection: sqlite3.Connection, change: Change) -> None:
    """What one change does to the tables; :meth:`FederationState.apply` is the same in memory."""
    run, seq = connection.execute, change.seq
    match change.event:
        case Founded(federation, poll_interval):
            run("UPDATE facts SET federation = ?, poll_interval = ?, shared = ?", (federation, poll_interval, seq))
        case EpochStarted(epoch):
            run("UPDATE facts SET epoch = ?", (epoch,))
        case RootSet(document):
            run("INSERT INTO roots VALUES (?, ?)", (seq, encode(document).decode()))
            run("UPDATE facts SET shared = ?", (seq,))
        case ReleasePublished(document):
            record = decode(document.payload, ReleaseRecord)
            stored = (record.name, record.version, digest_of(document.payload), encode(document).decode())
            run(
                "INSERT INTO releases VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (*stored, seq, change.time, change.caller),
            )
            run("DELETE FROM deleted_releases WHERE name = ? AND version = ?", (record.name, record.version))
        case ReleaseDeprecated(name, version, reason):
            run("UPDATE releases SET deprecated = ? WHERE name = ? AND version = ?", (reason, name, version))
        case ReleaseDeleted(name, version, manifest):
            run("DELETE FROM releases WHERE name = ? AND version = ?", (name, version))
            run("INSERT INTO deleted_releases VALUES (?, ?, ?)", (name, version, manifest))
        case ModelsAssigned() | ModelsUnassigned() | GroupIntervalSet() | GroupDeleted():
            _project_group(connection, change, change.event)
        case _:
            _project_member(connection, change)
    run("UPDATE facts SET seq = ?", (seq,))


def _project_group(
    connection: sqlite3.Connection,
    change: Change,
    event: ModelsAssigned | ModelsUnassigned | GroupIntervalSet | GroupDeleted,
) -> None:
    run, seq, folded = connection.execute, change.seq, fold(event.group)
    match event:
        case ModelsAssigned(models=models):
            for model in models:
                _end(connection, change, folded, model.name, unless=model.record)
                told = (folded, model.name, model.version, model.repo, model.record, seq, change.time, change.caller)
                run(
                    "INSERT INTO assignments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (folded, name) DO UPDATE"
                    " SET version = excluded.version, repo = excluded.repo, record = excluded.record,"
                    " seq = excluded.seq, time = excluded.time, caller = excluded.caller, needs = excluded.needs",
                    (*told, msgspec.json.encode(model.needs).decode()),
                )
        case ModelsUnassigned(names=names):
            for name in names:
                _end(connection, change, folded, name)
                run("DELETE FROM assignments WHERE folded = ? AND name = ?", (folded, name))
        case GroupIntervalSet(interval=interval):
            run("UPDATE groups SET interval = ?, interval_seq = ? WHERE folded = ?", (interval, seq, folded))
        case GroupDeleted():
            members = "SELECT edge FROM memberships WHERE folded = ?"
            run(f"UPDATE members SET touched = ? WHERE uuid IN ({members})", (seq, folded))
            run("DELETE FROM memberships WHERE folded = ?", (folded,))
            _let_go(connection, change.time, "folded = ?", (folded,))
            run("DELETE FROM assignments WHERE folded = ?", (folded,))
            run("DELETE FROM assigned_before WHERE folded = ?", (folded,))
            run("DELETE FROM groups WHERE folded = ?", (folded,))
    run("UPDATE groups SET touched = ? WHERE folded = ?", (seq, folded))
    if folded == ALL:
        run("UPDATE facts SET shared = ?", (seq,))


def _end(connection: sqlite3.Connection, change: Change, folded: str, name: str, *, unless: str = "") -> None:
    """A group's assignment of a model ends: it becomes what the group had before."""
    _let_go(connection, change.time, "folded = ? AND name = ?", (folded, name))
    connection.execute(
        "INSERT OR REPLACE INTO assigned_before SELECT * FROM assignments"
        " WHERE folded = ? AND name = ? AND record <> ?",
        (folded, name, unless),
    )


def _let_go(connection: sqlite3.Connection, time: float, which: str, names: tuple[str, ...]) -> None:
    """Note of each release that some assignments name or need that they did so until now."""
    needed = f"SELECT json_extract(value, '$.record') FROM assignments, json_each(needs) WHERE {which}"
    connection.execute(
        "UPDATE releases SET named_until = max(coalesce(named_until, 0.0), ?)"
        f" WHERE record IN (SELECT record FROM assignments WHERE {which} UNION {needed})",
        (time, *names, *names),
    )


def _project_member(connection: sqlite3.Connection, change: Change) -> None:
    run, seq = connection.execute, change.seq
    match change.event:
        case Registered() as event:
            row = {
                "uuid": event.uuid,
                "name": event.name,
                "kind": event.kind,
                "role": event.role,
                "publisher": int(event.publisher),
                "token_hash": event.token_hash,
                "token_expires": event.token_expires,
                "registered": change.time,
                "removed": 0,
                "tags": json.dumps(event.tags),
                "properties": "{}",
                "mode": "INTERACTIVE",
                "touched": seq,
            }
            _insert(connection, "members", row)
        case TokenIssued(uuid, token_hash, expires):
            _update_member(connection, uuid, {"token_hash": token_hash, "token_expires": expires, "touched": seq})
        case Joined(uuid, key, publisher_key):
            joined = {"key": key, "publisher_key": publisher_key, "joined": change.time, "touched": seq}
            _update_member(connection, uuid, joined)
        case Renewed(uuid):
            run(
                "UPDATE members SET token_hash = NULL, token_expires = NULL WHERE uuid = ? AND token_expires <= ?",
                (uuid, change.time),
            )
        case Removed(uuid):
            run("DELETE FROM memberships WHERE edge = ?", (uuid,))
            _update_member(connection, uuid, {"removed": 1, "touched": seq})
        case GroupJoined(uuid, group):
            folded = fold(group)
            run(
                "INSERT INTO groups VALUES (?, ?, ?, NULL, 0, ?) ON CONFLICT (folded) DO NOTHING",
                (folded, group, seq, seq),
            )
            run("INSERT INTO memberships VALUES (?, ?, ?)", (uuid, folded, seq))
            _update_member(connection, uuid, {"touched": seq})
        case GroupLeft(uuid, group):
            run("DELETE FROM memberships WHERE edge = ? AND folded = ?", (uuid, fold(group)))
            _update_member(connection, uuid, {"touched": seq})
        case PublisherKeyOffered(uuid, key):
            _update_member(connection, uuid, {"publisher_key": key, "touched": seq})
        case ModeSet(uuid, mode):
            _update_member(connection, uuid, {"mode": mode, "touched": seq})
        case EdgeIntervalSet(uuid, interval):
            _update_member(connection, uuid, {"poll_interval": interval, "touched": seq})
        case PropertySet(uuid, key, value):
            _project_property(connection, uuid, key, value, seq=seq)


def _project_property(connection: sqlite3.Connection, uuid: str, key: str, value: Any, *, seq: int) -> None:
    (stored,) = connection.execute("SELECT properties FROM members WHERE uuid = ?", (uuid,)).fetchone()
    properties = {known: kept for known, kept in json.loads(stored).items() if known != key}
    if value is not None:
        properties[key] = value
    _update_member(connection, uuid, {"properties": json.dumps(properties), "touched": seq})


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    names, places = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", tuple(row.values()))


def _update_member(connection: sqlite3.Connection, uuid: str, columns: dict[str, Any]) -> None:
    assignments = ", ".join(f"{column} = ?" for column in columns)
    connection.execute(f"UPDATE members SET {assignments} WHERE uuid = ?", (*columns.values(), uuid))


# --- reading ---------------------------------------------------------------------------------------------------------


def load_state(connection: sqlite3.Connection) -> FederationState:
    """The state as the projections have it; a hundred thousand edges in about a second."""
    run = connection.execute
    facts = Facts(*run("SELECT federation, poll_interval, epoch, seq, shared FROM facts").fetchone())
    documents = msgspec.json.Decoder(SignedDocument)
    columns = "folded, name, version, repo, record, seq, time, caller, needs"
    assignment_rows = run(f"SELECT {columns} FROM assignments ORDER BY rowid")
    group_rows = run("SELECT name, touched, interval, interval_seq FROM groups ORDER BY position")
    release_rows = run("SELECT record, document, seq, time, caller, deprecated, named_until FROM releases ORDER BY seq")
    pinned = msgspec.json.Decoder(tuple[PinnedRelease, ...])
    groups = {fold(n): Group(n, touched=t, interval=i, interval_seq=s) for n, t, i, s in group_rows}
    for folded, *before, needs in run(f"SELECT {columns} FROM assigned_before ORDER BY rowid"):
        groups[folded].before[before[0]] = _assigned(folded, before, pinned.decode(needs))[1]
    return FederationState.restored(
        facts,
        members=_members(connection),
        groups=groups.values(),
        memberships=run("SELECT edge, folded FROM memberships ORDER BY seq"),
        assignments=[_assigned(folded, row, pinned.decode(needs)) for folded, *row, needs in assignment_rows],
        published_releases=PublishedReleases(
            (_release(documents.decode(document), digest, *rest) for digest, document, *rest in release_rows),
            run("SELECT name, version, manifest FROM deleted_releases"),
        ),
        roots=[documents.decode(document) for (document,) in run("SELECT document FROM roots ORDER BY seq")],
    )


def _assigned(folded: str, row: list[Any], needs: tuple[PinnedRelease, ...]) -> tuple[str, Assignment]:
    name, version, repo, record, seq, time, by = row
    return folded, Assignment(name, version, repo, record, seq, time, by, needs)


def _release(document: SignedDocument, digest: Any, *rest: Any) -> Release:
    return Release(decode(document.payload, ReleaseRecord), digest, document, *rest)


def _members(connection: sqlite3.Connection) -> Iterator[tuple[Member, int]]:
    names = ", ".join(_MEMBER_COLUMNS)
    for row in connection.execute(f"SELECT {names} FROM members ORDER BY rowid"):
        (uuid, name, kind, role, publisher, key, publisher_key, token_hash, token_expires) = row[:9]
        (registered, joined, removed, tags, properties, mode, poll_interval, touched) = row[9:]
        yield (
            Member(
                uuid=uuid,
                name=name,
                kind=cast(Kind, intern(kind)),
                role=cast(RoleName, intern(role)),
                publisher=bool(publisher),
                key=key,
                publisher_key=publisher_key,
                token_hash=token_hash,
                token_expires=token_expires,
                registered=registered,
                joined=joined,
                removed=bool(removed),
                tags=() if tags == "[]" else tuple(json.loads(tags)),
                properties={} if properties == "{}" else json.loads(properties),
                mode=cast(Mode, intern(mode)),
                poll_interval=poll_interval,
            ),
            touched,
        )
