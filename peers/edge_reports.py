"""The report that a device hands to whoever carries it to the nameserver: signed, numbered, with history and log.

Owns its making. The number is durable before the report exists, so that no two reports have the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from federation.carried_state import CarriedReport, seal_report
from federation.documents import REPORT_BYTES_MAX, ActualState, encode
from federation.keys import PrivateKey
from peers.edge_store import EdgeStore
from peers.homes import Membership, NotJoined


def make_report(
    membership: Membership,
    key: PrivateKey,
    actual: ActualState,
    *,
    store: EdgeStore,
    lines: Sequence[str],
    now: float,
) -> str:
    """The text of a signed report. Raises ``NotJoined`` for a device that belongs to no federation."""
    if not membership.uuid:
        raise NotJoined(
            "this device belongs to no federation yet: there is nobody to report to",
            hint='import what was exported for it: "peerage import FILE"',
        )
    told = replace(actual, reported=int(now))
    while len(encode(told)) > REPORT_BYTES_MAX and told.history:
        told = replace(told, history=told.history[len(told.history) // 2 + 1 :])
    report = CarriedReport(
        federation=membership.federation,
        edge=membership.uuid,
        name=membership.name,
        sequence=store.next_sequence(now),
        key=key.public,
        actual=told,
        log=tuple(lines),
    )
    return encode(seal_report(report, key)).decode("utf-8")
