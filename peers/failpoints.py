"""The one table of places where a peer's process can be made to die, for tests of what a kill leaves behind.

``PEERAGE_FAIL_AT=load.swapped`` kills the process with SIGKILL when it reaches that point, ``load.swapped:3`` when it
reaches it for the third time. Nothing is flushed, closed or told, as with any kill -9. Without the variable a point
costs one comparison.

Rules: a label stands in ``POINTS`` or reaching it is an error of ours; a label in the variable that is not in the table
is an error at the first point reached, so that a misspelt test cannot pass.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from query.errors import InternalProblem, suggestion

VARIABLE: Final = "PEERAGE_FAIL_AT"

POINTS: Final = {
    # the edge
    "poll.verified": "a new desired state is verified, not yet on disk",
    "poll.committed": "state and cursor are on disk, nothing acted on",
    "root.verified": "a newer root record is verified, not yet on disk",
    "root.committed": "a newer root record is on disk",
    "fetch.begun": "a fetch is decided, no byte asked for",
    "fetch.done": "every file is on disk, not yet recorded as fetched",
    "fetch.recorded": "recorded as fetched",
    "verify.done": "the trial passed, the verdict is not on disk",
    "verify.recorded": "the verdict is on disk",
    "load.swapped": "the new version answers, the loaded set on disk still has the old one",
    "load.recorded": "the loaded set on disk has the new version",
    "unload.done": "out of memory, not yet recorded",
    "unload.recorded": "out of memory, recorded",
    "manual.recorded": "a person's request is on disk, nothing done",
    "report.sent": "the nameserver has the report, the edge has not noted it",
    "report.recorded": "the report is noted as sent",
    "prune.removed": "an old release is off disk, not yet recorded",
    # keys
    "key.made": "a new key is on disk, nobody knows of it",
    "key.named": "the root record names a new key, which is not in its place",
    "key.settled": "a new key is in the place of the old one",
    # the nameserver
    "change.decided": "a change is decided, not yet in the log",
    "change.durable": "a change is in the log, its caller not yet answered",
    "join.durable": "a peer has joined, its certificate not yet sent",
    "report.received": "a report has arrived, not yet durable",
    "report.durable": "a report is durable, not yet acknowledged",
    "publish.stored": "the files of a release are stored, the release not yet in the log",
    "publish.durable": "a release is in the log, its publisher not yet answered",
    "delete.durable": "the deletion of a release is in the log, its files not yet gone",
    "desired.signed": "a desired state is signed, not yet sent",
    # a backup and a restore
    "backup.log_copied": "the log is in the unfinished snapshot, no blob copied for it",
    "backup.blob_copied": "a blob is in the backup folder, others are not",
    "backup.written": "everything of a snapshot is on disk, it has no name yet",
    "backup.named": "a snapshot is finished, older ones are not yet removed",
    "backup.forgotten": "an old snapshot has lost its name, it and its blobs are still there",
    "restore.copied": "everything is verified and beside the new home, the log as it was",
    "restore.begun": "the new epoch is in the log, the home not in its place",
    "restore.placed": "the home is in its place, nobody told",
    # a file on a device without a network
    "import.checked": "a file's documents hold, none of its blobs is on disk",
    "import.rooted": "the root records of a new device are on disk, it is nobody yet",
    "import.attached": "a device has become an edge, nothing of its state is on disk",
    "import.staged": "every blob of a file is on disk, the state is as it was",
    "import.listed": "the state is on disk and its releases are listed, nobody told",
    # statements that wait, on the nameserver and on the edge
    "waits.kept": "a statement is on disk, who asked was told nothing",
    "waits.settled": "an answer is on disk, nobody was told",
    "waits.noted": "a statement is noted on the edge, nothing of it has run",
    "waits.run": "a statement has run on the edge, its answer is not on disk",
    "waits.answer_kept": "the answer is on the edge's disk, nobody has it",
}

_reached = 0


def reach(label: str) -> None:
    """Die here when the environment says so."""
    asked = os.environ.get(VARIABLE)
    if asked is not None:
        _reach(label, asked)


def _reach(label: str, asked: str) -> None:
    global _reached
    wanted, _, count = asked.partition(":")
    for name in (label, wanted):
        if name not in POINTS:
            raise InternalProblem(f'no fail point "{name}"{suggestion(name, POINTS)}')
    if label == wanted:
        _reached += 1
        if _reached == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
