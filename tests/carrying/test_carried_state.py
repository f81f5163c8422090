"""Fingerprints and carried reports, as values."""

from pathlib import Path
from typing import Any

import pytest

from federation.carried_state import (
    LOG_BYTES_MAX,
    BadFingerprint,
    Carried,
    CarriedReport,
    check_typed_key,
    fingerprint,
    pinned,
    read_signed,
    seal_report,
    typed_fingerprint,
    verify_report,
)
from federation.documents import DOCUMENT_BYTES_MAX, ActualState, SignedDocument, encode
from federation.errors import BadSignature, Fork, Replay, UnknownKey, WrongDocument, WrongRecipient, WrongRoot
from federation.keys import PrivateKey, keyid_of
from federation.names import PeerId, digest_of
from federation.roots import first_root
from tests.carrying.side import Side

EDGE = PeerId("11111111-1111-4111-8111-111111111111")
KEY = PrivateKey(b"e" * 32)
ROOT = first_root("f", roots=[PrivateKey(b"r" * 32)], director=PrivateKey(b"d" * 32).public, now=1.0)
OTHER = first_root("g", roots=[PrivateKey(b"q" * 32)], director=PrivateKey(b"d" * 32).public, now=1.0)


def report(sequence: int = 1, *, reported: int = 100, **how: Any) -> CarriedReport:
    actual = ActualState(edge=EDGE, epoch=1, generation=2, mode="AUTONOMOUS", loaded=(), reported=reported)
    made = {"federation": "f", "edge": EDGE, "name": "E1", "sequence": sequence, "key": KEY.public, "actual": actual}
    return CarriedReport(**{**made, **how})


def verified(doc: SignedDocument, *, last: Carried | None = None, newest: int = 0) -> CarriedReport | None:
    return verify_report(doc, federation="f", edge=EDGE, key=KEY.public, last=last, newest=newest)


def test_a_fingerprint_is_typed_as_it_is_shown() -> None:
    shown = fingerprint(ROOT)
    assert len(shown.split()) == 16
    digits = digest_of(ROOT.payload).removeprefix("sha256:")
    for typed in (
        shown,
        shown.upper(),
        digits,
        f"sha256:{digits}",
        digits[:32],
        shown.replace(" ", "-"),
        f" {shown}\n",
    ):
        assert pinned([OTHER, ROOT], typed) == digest_of(ROOT.payload)


@pytest.mark.parametrize("typed", ["", "3f8a", "3" * 31, "3" * 65, "no hex " * 8])
def test_what_is_no_fingerprint_is_told(typed: str) -> None:
    with pytest.raises(BadFingerprint, match="expected 32 to 64 hexadecimal digits"):
        typed_fingerprint(typed)


def test_a_wrong_fingerprint_never_tells_the_right_one() -> None:
    with pytest.raises(WrongRoot) as raised:
        pinned([ROOT], fingerprint(OTHER))
    told = f"{raised.value.message} {raised.value.hint}"
    digits = digest_of(ROOT.payload).removeprefix("sha256:")
    assert digits[:8] not in told
    assert fingerprint(ROOT)[:9] not in told


def test_a_report_is_taken_once_and_in_order() -> None:
    doc = seal_report(report(5), KEY)
    taken = verified(doc)
    assert taken is not None
    last = Carried(5, digest_of(doc.payload))
    assert verified(doc, last=last) is None
    assert verified(seal_report(report(6), KEY), last=last) is not None
    with pytest.raises(Replay, match="expected a report after number 5, found 4"):
        verified(seal_report(report(4), KEY), last=last)
    with pytest.raises(Fork):
        verified(seal_report(report(5, reported=101), KEY), last=last)
    with pytest.raises(Replay, match="50 s older"):
        verified(doc, newest=150)


def test_a_report_of_somebody_else_is_refused() -> None:
    with pytest.raises(UnknownKey):
        verified(seal_report(report(), PrivateKey(b"x" * 32)))
    with pytest.raises(WrongRecipient, match="to federation f"):
        verified(seal_report(report(federation="g"), KEY))
    with pytest.raises(WrongRecipient, match="of edge"):
        verified(seal_report(report(edge=PeerId("other")), KEY))
    with pytest.raises(UnknownKey, match="names another key"):
        verified(seal_report(report(key=bytes(32)), KEY))
    doc = seal_report(report(), KEY)
    with pytest.raises(BadSignature):
        verified(SignedDocument(doc.payload.replace(b"E1", b"E2"), doc.payload_type, doc.signatures))
    with pytest.raises(WrongDocument):
        verified(SignedDocument(doc.payload, "application/json", doc.signatures))


def test_every_byte_of_a_report_counts() -> None:
    raw = encode(seal_report(report(), KEY))
    for at in range(0, len(raw), 3):
        changed = bytearray(raw)
        changed[at] ^= 1
        with pytest.raises((BadSignature, UnknownKey, WrongDocument)):
            verified(read_signed(bytes(changed)))


def test_a_long_log_is_cut_at_its_beginning() -> None:
    lines = tuple(f"{number} {'x' * 2000}" for number in range(1900))
    doc = seal_report(report(log=lines), KEY)
    taken = verified(doc)
    assert taken is not None
    assert taken.log[-1] == lines[-1]
    assert sum(map(len, taken.log)) <= LOG_BYTES_MAX
    assert len(encode(doc)) <= DOCUMENT_BYTES_MAX


def test_a_clock_that_was_put_back_loses_no_report(tmp_path: Path) -> None:
    """What is carried is ordered by its number; what the edge told by itself since, by its time."""
    side = Side(tmp_path)
    member = side.director.store.state.find_edge("E1")

    def taken(sequence: int, reported: int) -> bool:
        actual = ActualState(edge=member.uuid, epoch=1, generation=2, mode="AUTONOMOUS", loaded=(), reported=reported)
        federation = side.director.store.state.federation
        told = report(sequence, federation=federation, edge=member.uuid, name=member.name, actual=actual)
        document = encode(seal_report(told, KEY)).decode()
        side.clock.advance(60)
        return bool(side.functions.take_report(side.call(), document, keyid_of(KEY.public))["new"])

    day_ahead = int(side.clock.now()) + 86_400
    assert taken(1, day_ahead)
    assert taken(2, day_ahead - 80_000)  # the clock is right again
    with pytest.raises(Replay, match="after number 2"):
        taken(1, day_ahead)
    by_itself = ActualState(edge=member.uuid, epoch=1, generation=3, mode="ONLINE", loaded=(), reported=day_ahead)
    side.director.store.reports.put(member.uuid, encode(by_itself), now=side.clock.now() + 1)
    with pytest.raises(Replay, match="older than what the edge has told"):
        taken(3, day_ahead - 1)


def test_a_key_is_compared_by_enough_of_its_id() -> None:
    keyid = keyid_of(KEY.public)
    check_typed_key(KEY.public, keyid)
    check_typed_key(KEY.public, keyid[:32].upper())
    for typed in (keyid[:31], "0" * 64, ""):
        with pytest.raises(UnknownKey):
            check_typed_key(KEY.public, typed)
