"""What an edge keeps on disk: whole, bounded, owned by one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from federation.actual import Run, Saved, Verdict
from federation.documents import DESIRED_TYPE, RELEASE_TYPE, DesiredState, LoadedEntry, LoadError, encode
from federation.keys import PrivateKey
from federation.names import Digest, PeerId, digest_of
from federation.signing import SignedDocument, sign
from federation.verification import cursor_of
from peers.edge_store import EdgeStore, StateInUse, StoreDamaged, StoreFailed, StoreFull

KEY = PrivateKey(b"k" * 32)


def desired(generation: int) -> tuple[SignedDocument, DesiredState]:
    state = DesiredState(
        federation="f",
        edge=PeerId("e"),
        name="E1",
        epoch=1,
        generation=generation,
        window=1,
        not_before=0,
        expires=10,
        mode="ONLINE",
        poll_interval="60s",
        root_version=1,
        models=(),
    )
    return sign(encode(state), DESIRED_TYPE, KEY), state


def record(text: str) -> SignedDocument:
    return sign(text.encode(), RELEASE_TYPE, KEY)


SAVED = Saved(
    loaded={"m": LoadedEntry("m", "1", Digest("sha256:m"), "manual", 5)},
    goals={"n": Run("n", "2", Digest("sha256:n"), "group", attempts=3, retry_at=1.5)},
    verdicts={Digest("sha256:m"): Verdict(Digest("sha256:m"), "runtime", trial='{"peak":1}')},
    errors={"n@2": LoadError("n@2", "disk_full", "no room", 4)},
    previous={"m": Digest("sha256:before")},
    fetched=frozenset({Digest("sha256:m")}),
    alarms=("replay: x",),
    reported=Digest("sha256:r"),
)


def test_a_new_store_knows_nothing(tmp_path: Path) -> None:
    stored = EdgeStore.open(tmp_path / "state.db").read()
    assert (stored.desired, stored.cursor, stored.saved, stored.clock_offset_s) == (None, None, Saved(), None)


def test_state_and_cursor_come_back_together(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = EdgeStore.open(path)
    store.commit(SAVED, desired=desired(7), records=[record("a")])
    store.keep_clock_offset(-86_400.25)
    store.close()
    again = EdgeStore.open(path)
    stored = again.read()
    assert stored.saved == SAVED
    assert stored.desired == desired(7)[1]
    assert stored.cursor == cursor_of(*desired(7))
    assert stored.clock_offset_s == -86_400.25
    assert again.record(digest_of(b"a")) == record("a")
    assert again.record(digest_of(b"b")) is None


def test_records_that_nobody_needs_are_forgotten() -> None:
    store = EdgeStore.open()
    store.commit(SAVED, records=[record("a"), record("b")])
    store.commit(SAVED, records=[record("c")], keep=frozenset({digest_of(b"b")}))
    assert [store.record(digest_of(name)) is not None for name in (b"a", b"b", b"c")] == [False, True, True]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = EdgeStore.open(path, pages_max=20)
    store.commit(SAVED, desired=desired(1))
    with pytest.raises(StoreFull, match="no room to keep the edge's state"):
        store.commit(Saved(), desired=desired(2), records=[record("x" * 200_000)])
    assert store.read().saved == SAVED
    assert store.read().cursor == cursor_of(*desired(1))
    store.commit(Saved(), desired=desired(2))
    store.close()
    assert EdgeStore.open(path).read().cursor == cursor_of(*desired(2))


def test_a_second_process_is_told_who_is_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = EdgeStore.open(path)
    store.commit(SAVED)
    attempt = (
        "import sys; from pathlib import Path; from peers.edge_store import EdgeStore, StateInUse\n"
        "try: EdgeStore.open(Path(sys.argv[1]))\n"
        "except StateInUse as problem: print(problem.code)"
    )
    done = subprocess.run([sys.executable, "-c", attempt, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{StateInUse.code}\n"


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database at all, but long enough to have a header" * 100)
    with pytest.raises(StoreDamaged, match=r"state\.db is damaged"):
        EdgeStore.open(path)


def test_damage_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = EdgeStore.open(path)
    store.commit(SAVED)
    store._connection.execute("UPDATE saved SET document = ?", (b"{",))
    with pytest.raises(StoreDamaged, match=r"state\.db is damaged"):
        store.read()


def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="cannot open the edge's state"):
        EdgeStore.open(tmp_path / "nowhere" / "state.db")
