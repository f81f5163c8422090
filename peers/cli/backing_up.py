"""The commands ``backup`` and ``restore``: a nameserver's home to a folder of snapshots, and back to a new home.

Both work on files, without asking any peer: a backup of a running nameserver is taken beside it, on its device.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from peers.cli.arguments import Commands, add_command, add_home, home_of
from peers.cli.console import DONE, FAILED, PARTIAL, Console, UsageProblem
from peers.homes import Home

if TYPE_CHECKING:
    from federation.snapshots import Lacking, Snapshot
    from peers.backup_folders import Backups
    from peers.restoring import Restored

PROGRESS_S = 2.0
LACKING_SHOWN = 10


def add_commands(commands: Commands) -> None:
    backup = add_command(
        commands,
        "backup",
        run=run_backup,
        summary="save a nameserver's home, also while it runs",
        description="Adds a snapshot to a folder: the log, the home's keys and files, and the repository, of which\n"
        "each content is kept once for all snapshots. A backup that broke off is gone on with by the same command.\n"
        "The folder is as secret as the home. Exit status 3: saved, but the repository itself lacks something.",
        examples="""\
peerage backup --home ns /media/backup/mine
peerage backup --home ns /media/backup/mine --keep 14
peerage backup --list /media/backup/mine
peerage backup --verify /media/backup/mine""",
        json="print the snapshot, or the list of them, as JSON",
    )
    backup.add_argument("folder", metavar="DIR", help="the backup folder; made when missing")
    backup.add_argument(
        "--without-keys", action="store_true", help="leave private keys out; restoring then needs them from elsewhere"
    )
    backup.add_argument(
        "--keep", metavar="N", type=int, help="then remove all but the newest N snapshots, and the newest with keys"
    )
    backup.add_argument("--list", action="store_true", help="show the snapshots of the folder and take none")
    backup.add_argument("--verify", action="store_true", help="read and hash all snapshots again and take none")
    add_home(backup, whose="the nameserver's home")
    restore = add_command(
        commands,
        "restore",
        run=run_restore,
        summary="make a nameserver's home from a backup",
        description="Everything is verified before the home is put in place, whole. It begins a new epoch: edges take\n"
        "what it says as new and keep the models that they have. Stop the old nameserver before starting this one.\n"
        "Exit status 3: restored, but a key or a release is missing.",
        examples="""\
peerage restore /media/backup/mine --home ns --root-home ns-root --admin-home ns-admin
peerage restore /media/backup/mine --home ns --snapshot 20260131""",
        json="print what was restored as JSON",
    )
    restore.add_argument("folder", metavar="DIR", help="the backup folder")
    restore.add_argument("--snapshot", metavar="TIME", help="a snapshot, or how its name begins; default: the newest")
    restore.add_argument(
        "--root-home",
        metavar="DIR",
        help="folder with the root key: root records newer than the backup are taken from it",
    )
    restore.add_argument(
        "--admin-home", metavar="DIR", help="an admin's home: newer root records are taken from it too"
    )
    restore.add_argument("--keys", metavar="DIR", help="folder with the key files that a backup without keys lacks")
    restore.add_argument(
        "--allow-damaged", action="store_true", help="go on without contents of releases that are damaged in the backup"
    )
    add_home(restore, whose="the new home: an empty folder or a new name")


# --- backup ---------------------------------------------------------------------------------------------------------


def run_backup(arguments: argparse.Namespace, console: Console) -> int:
    from peers.backup_folders import Backups
    from peers.backups import take_backup

    folder = Path(arguments.folder)
    if arguments.list and arguments.verify:
        raise UsageProblem("--list and --verify are two things: expected one of them")
    if arguments.list:
        return _show_list(Backups(folder), arguments, console)
    if arguments.verify:
        return _verify(Backups(folder), arguments, console)
    if arguments.keep is not None and arguments.keep < 1:
        raise UsageProblem(f"--keep is {arguments.keep}: expected a number of snapshots from 1 on")
    taken = take_backup(
        home_of(arguments, console),
        folder,
        clock=time.time,
        with_keys=not arguments.without_keys,
        keep=arguments.keep,
        progress=_progress(console, "copied"),
    )
    if arguments.json:
        copied = {"blobs_copied": taken.blobs_copied, "bytes_copied": taken.bytes_copied}
        console.json({**_told(taken.name, taken.snapshot), **copied, "forgotten": taken.forgotten})
    else:
        console.data(f"{folder}: snapshot {taken.name} of federation {taken.snapshot.federation}")
        console.data(f"  {_counts(taken.snapshot)}, {taken.snapshot.bytes} bytes, {taken.bytes_copied} of them new")
        if taken.forgotten:
            console.tell(f"removed {', '.join(taken.forgotten)}")
        if taken.left_out:
            console.tell(f"not in the backup: {', '.join(taken.left_out)}")
        if arguments.without_keys:
            console.tell(f"keep these keys elsewhere: {', '.join(taken.snapshot.keys)}")
    return _status(console, taken.snapshot.lacking)


def _show_list(backups: Backups, arguments: argparse.Namespace, console: Console) -> int:
    snapshots = {name: backups.read(name) for name in backups.names()}
    if arguments.json:
        console.json([_told(name, snapshot) for name, snapshot in snapshots.items()])
        return DONE
    for name, snapshot in snapshots.items():
        keys = "" if snapshot.with_keys else ", without keys"
        console.data(f"{name}  {_counts(snapshot)}, {snapshot.bytes} bytes{keys}")
    if not snapshots:
        console.tell(f"no finished snapshot in {backups.path}")
    return DONE


def _verify(backups: Backups, arguments: argparse.Namespace, console: Console) -> int:
    from query.errors import Problem

    damage: dict[str, list[str]] = {}
    seen: set[Any] = set()
    with backups.reading():
        for name in backups.names():
            try:
                damage[name] = list(backups.damage(name, backups.read(name), seen=seen))
            except Problem as problem:
                damage[name] = [problem.message]
            if not arguments.json:
                console.data(f"{name}  {'whole' if not damage[name] else f'{len(damage[name])} damaged or missing'}")
                for line in damage[name]:
                    console.tell(f"  {line}")
    if arguments.json:
        console.json([{"snapshot": name, "damage": lines} for name, lines in damage.items()])
    elif not damage:
        console.tell(f"no finished snapshot in {backups.path}")
    return FAILED if any(damage.values()) else DONE


# --- restore --------------------------------------------------------------------------------------------------------


def run_restore(arguments: argparse.Namespace, console: Console) -> int:
    from peers.restoring import Wishes, restore

    roots = tuple(_existing(folder) for folder in (arguments.root_home, arguments.admin_home) if folder)
    wishes = Wishes(
        snapshot=arguments.snapshot,
        roots=roots,
        keys=Path(arguments.keys) if arguments.keys else None,
        allow_damaged=arguments.allow_damaged,
    )
    home = home_of(arguments, console)
    done = restore(Path(arguments.folder), home, wishes, clock=time.time, progress=_progress(console, "restored"))
    if arguments.json:
        console.json({**_restored_facts(done), "lost": _lost(done, roots), "missing": _missing(done)})
    else:
        _tell_restored(done, console, roots)
        admin = f" --admin-home {arguments.admin_home}" if arguments.admin_home else ""
        console.tell(f"start it: peerage nameserver --home {home}{admin}")
    return _status(console, done.lacking) if not _missing(done) else PARTIAL


def _tell_restored(done: Restored, console: Console, roots: tuple[Home, ...]) -> None:
    from peers.restoring import as_of

    console.data(f"{done.home} is nameserver of federation {done.federation} as of {as_of(done.taken)}")
    counts = f"{_number(done.edges, 'edge')}, {_number(done.releases, 'release')}"
    console.data(f"  {_number(done.members, 'member')}, {counts}; change {done.seq}")
    newer = f", {done.newer_roots} newer than the backup" if done.newer_roots else ""
    console.data(f"  epoch {done.epoch}, root record {done.root_version}{newer}")
    console.tell("what changed after that moment is lost:")
    for line in (*_lost(done, roots), *_missing(done)):
        console.tell(f"- {line}")


def _lost(done: Restored, roots: tuple[Home, ...]) -> list[str]:
    """What cannot be known after a restore, and how to check it."""
    lines = [
        "who joined later is refused as unknown_peer: register and join again",
        "who was removed later is a member again: look at peer:list() and edge:list(), and remove them again",
        "groups, assignments and releases are as they were: publish and assign again what came later",
        "a nameserver that still runs in the old home is refused by the edges that heard of this one, as old_epoch: "
        "stop it",
    ]
    if not roots:
        lines.append(
            "keys that were endorsed or revoked later are not known: give --root-home or --admin-home to take them up"
        )
    if done.ended_bundles:
        shown = ", ".join(done.ended_bundles[:LACKING_SHOWN])
        lines.append(
            f"{_number(len(done.ended_bundles), 'unused bundle')} may have been used since and ended ({shown}): "
            '"peerage register NAME" makes a new one'
        )
    return lines


def _missing(done: Restored) -> list[str]:
    """What a person has to do before the nameserver can work."""
    lines = [
        f"{name} is not in the backup: put the file of key {keyid[:16]} into {done.home}, mode 0600"
        for name, keyid in done.missing_keys.items()
    ]
    if done.director_replaced or "director.key" in done.missing_keys:
        why = "is of a director that was replaced after the backup" if done.director_replaced else "may be lost too"
        lines.append(
            f'director.key {why}: "peerage keys rotate director --home {done.home} --root-home DIR" makes a new one'
        )
    if done.clock_behind:
        lines.append("this device's clock is behind the backup: set it and restore again, or edges may not follow")
    return lines


# --- small parts ----------------------------------------------------------------------------------------------------


def _told(name: str, snapshot: Snapshot) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(snapshot)
    del facts["files"], facts["version"]
    return {"snapshot": name, **facts, "blobs": len(snapshot.blobs), "bytes": snapshot.bytes}


def _restored_facts(done: Restored) -> dict[str, Any]:
    names = ("federation", "snapshot", "taken", "epoch", "seq", "root_version", "newer_roots", "members", "edges")
    facts = {name: getattr(done, name) for name in (*names, "releases", "ended_bundles", "missing_keys")}
    return {"home": str(done.home), **facts, "lacking": msgspec.to_builtins(done.lacking)}


def _counts(snapshot: Snapshot) -> str:
    return f"change {snapshot.seq}, {_number(snapshot.edges, 'edge')}, {_number(snapshot.releases, 'release')}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _status(console: Console, lacking: tuple[Lacking, ...]) -> int:
    for entry in lacking[:LACKING_SHOWN]:
        of = f" of {entry.release}" if entry.release else ""
        console.tell(f"lacking: {entry.what}{of} {entry.reason}")
    if len(lacking) > LACKING_SHOWN:
        console.tell(f"lacking: {len(lacking) - LACKING_SHOWN} more")
    if lacking:
        console.tell("publish these releases again from where they are, to have them whole")
    return PARTIAL if lacking else DONE


def _existing(folder: str) -> Home:
    home = Home(Path(folder))
    if not home.roots():
        raise UsageProblem(f"{home} keeps no root records: expected a root folder or a joined home")
    return home


def _progress(console: Console, verb: str) -> Any:
    """Tells how far it is, every few seconds; nothing of what is done at once."""
    said = time.monotonic()

    def tell(copied: int, total: int) -> None:
        nonlocal said
        if total and time.monotonic() - said >= PROGRESS_S:
            said = time.monotonic()
            console.tell(f"{verb} {copied * 100 // total} % of {total} bytes")

    return tell
