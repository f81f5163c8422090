"""``peerage fsck`` and ``gc``: every kind of damage in a real home is found, named and, where promised, mended."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from federation.carried_state import Carried
from federation.documents import HistoryEntry
from federation.integrity import Finding
from federation.names import digest_of
from federation.store import FederationStore
from peers.examining import Examination, examine
from peers.homes import BadHome, Home
from peers.mending import mend
from query.declarations import silent
from tests.shell.running import Federation, federation
from tests.wire.living import living, publisher_in

HOMES = ("ns", "ns-admin", "ns-root", "ada", "e1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The homes of a federation that stopped: two releases, one of them assigned and run, one deleted."""
    folder = tmp_path_factory.mktemp("whole")
    asyncio.run(founded(folder))
    return folder


async def founded(folder: Path) -> None:
    async with living(folder, "e1") as made:
        home = await publisher_in(made)
        (home.models / "m").mkdir(parents=True)
        (home.models / "m" / "model.toml").write_text('name = "m"\nkind = "functions"\nfunctions = ["f.pql"]\n')
        (home.models / "m" / "f.pql").write_text("create function m_answer() -> Number as 42;\n")
        for version in ("1.0", "2.0", "3.0"):
            await made.value(f'models:create_release("m", "{version}")', home="ada")
            await made.value(f'models:publish("m", "{version}")', home="ada")
        await made.value('edge:set_group_models("all", [{"name": "m", "version": "1.0"}])')
        await made.until("//peer: e1\nmodels:loaded()", ["m@1.0"])
        await made.until('edge:status("E1")["models:loaded"]', ["m@1.0"])
        await made.value('//peer: nameserver\nmodels:delete("m", "3.0")')


@pytest.fixture
def homes(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "homes", symlinks=True)
    return tmp_path / "homes"


def look(home: Path) -> Examination:
    return examine(Home(home))


def kinds(found: Examination) -> set[str]:
    return {finding.kind for finding in found.findings}


def repaired(home: Path) -> Examination:
    """After the two rounds that ``--repair`` makes."""
    found = look(home)
    for _ in range(2):
        mend(found, progress=silent)
        found = look(home)
    return found


def blobs(home: Path) -> list[Path]:
    return sorted((home / "releases" / "blobs" / "sha256").iterdir())


def file_blob(home: Path) -> Path:
    """The blob of ``f.pql``."""
    return next(path for path in blobs(home) if path.read_bytes().startswith(b"create function"))


def flip(path: Path, at: int | None = None) -> None:
    raw = bytearray(path.read_bytes())
    position = len(raw) // 2 if at is None else at
    raw[position] ^= 0x40
    path.write_bytes(raw)


def statement(home: Path, sql: str, *values: Any) -> None:
    connection = sqlite3.connect(home / "state.db")
    with connection:
        connection.execute(sql, values)
    connection.close()


# --- whole homes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOMES)
def test_a_whole_home_is_whole_and_looking_changes_nothing(homes: Path, name: str) -> None:
    def listing() -> dict[str, tuple[int, float]]:
        return {str(path): (path.stat().st_size, path.stat().st_mtime) for path in (homes / name).rglob("*")}

    before = listing()
    found = look(homes / name)
    assert found.findings == []
    assert listing() == before
    assert found.kind == {"ns": "nameserver", "ns-root": "root", "e1": "edge"}.get(name, "client")


# --- each kind of damage ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """What is done to a home, the classes of findings that name it, and those that a repair leaves."""

    home: str
    do: Callable[[Path], object]
    found: set[str]
    left: frozenset[str] = frozenset()


def sql(text: str, *values: Any) -> Callable[[Path], object]:
    return lambda home: statement(home, text, *values)


def zero_page(home: Path) -> None:
    """A page in the middle of the store's file."""
    raw = bytearray((home / "state.db").read_bytes())
    connection = sqlite3.connect(home / "state.db")
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'members'").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    raw[(root - 1) * size : root * size] = bytes(size)
    (home / "state.db").write_bytes(raw)


def edit_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def do(home: Path) -> None:
        path = home / "releases" / "index.json"
        index = json.loads(path.read_text())
        change(index)
        path.write_text(json.dumps(index))

    return do


def unlisted(index: dict[str, Any]) -> None:
    index["manifests"] = [one for one in index["manifests"] if one["annotations"].get("peerage.release") != "m@2.0"]


def another_label(index: dict[str, Any]) -> None:
    for one in index["manifests"]:
        if one["annotations"].get("peerage.release") == "m@2.0":
            one["annotations"]["peerage.release"] = "m@7.0"


def replace_with(name: str, source: str) -> Callable[[Path], object]:
    return lambda home: shutil.copy(home.parent / source, home / name)


DAMAGES = {
    "a byte of a file of a release": Damage(
        "ns", lambda home: flip(file_blob(home)), {"damaged_blob", "missing_blob"}, frozenset({"missing_blob"})
    ),
    "a byte on an edge": Damage("e1", lambda home: flip(file_blob(home)), {"damaged_blob", "missing_blob"}),
    "a byte in a client's home": Damage("ada", lambda home: flip(file_blob(home)), {"damaged_blob", "missing_blob"}),
    "a blob cut short": Damage(
        "e1", lambda home: file_blob(home).write_bytes(b"create"), {"damaged_blob", "missing_blob"}
    ),
    "a blob that is gone": Damage(
        "ns", lambda home: file_blob(home).unlink(), {"missing_blob"}, frozenset({"missing_blob"})
    ),
    "a stray file among the blobs": Damage(
        "ns", lambda home: (blobs(home)[0].parent / "notes").write_text("x"), {"stray_file"}, frozenset({"stray_file"})
    ),
    "a list that is no list": Damage(
        "ns", lambda home: (home / "releases" / "index.json").write_text("{"), {"damaged_list"}
    ),
    "a list that is no list, on an edge": Damage(
        "e1", lambda home: flip(home / "releases" / "index.json", 0), {"damaged_list"}
    ),
    "a list that is gone": Damage("ns", lambda home: (home / "releases" / "index.json").unlink(), {"unlisted_release"}),
    "a release that is not listed": Damage("ns", edit_index(unlisted), {"unlisted_release"}),
    "an entry with another label": Damage("ada", edit_index(another_label), {"bad_entry"}),
    "a mark of the layout": Damage(
        "ns", lambda home: (home / "releases" / "oci-layout").write_text("?"), {"bad_layout"}
    ),
    "a staged file": Damage(
        "ns", lambda home: (home / "releases" / "staging" / "new-12").write_text("half"), {"left_over"}
    ),
    "a half-written file": Damage(
        "e1", lambda home: (home / ".roots.json.0123456789abcdef").write_text("["), {"left_over"}
    ),
    "a key that others may read": Damage("ns", lambda home: (home / "director.key").chmod(0o644), {"loose_mode"}),
    "a home that others may enter": Damage("e1", lambda home: home.chmod(0o755), {"loose_mode"}),
    "a key that is none": Damage(
        "ada", lambda home: (home / "publisher.key").write_text("x"), {"bad_key"}, frozenset({"bad_key"})
    ),
    "a key that is gone": Damage(
        "e1", lambda home: (home / "identity.key").unlink(), {"missing_file"}, frozenset({"missing_file"})
    ),
    "another peer's key": Damage(
        "e1", replace_with("identity.key", "ada/identity.key"), {"wrong_certificate"}, frozenset({"wrong_certificate"})
    ),
    "another director key": Damage(
        "ns", replace_with("director.key", "ada/publisher.key"), {"wrong_key"}, frozenset({"wrong_key"})
    ),
    "the root key in the wrong place": Damage(
        "ns", replace_with("root.key", "ns-root/root.key"), {"misplaced_key"}, frozenset({"misplaced_key"})
    ),
    "another peer's certificate": Damage(
        "e1", replace_with("identity.crt", "ada/identity.crt"), {"wrong_certificate"}, frozenset({"wrong_certificate"})
    ),
    "a certificate that is none": Damage(
        "e1", lambda home: (home / "identity.crt").write_text("x"), {"bad_certificate"}, frozenset({"bad_certificate"})
    ),
    "root records of a nameserver": Damage("ns", lambda home: (home / "roots.json").write_text("["), {"wrong_roots"}),
    "root records of an edge": Damage(
        "e1", lambda home: (home / "roots.json").write_text("["), {"bad_file"}, frozenset({"bad_file"})
    ),
    "who the peer is": Damage(
        "e1", lambda home: flip(home / "membership.json", 0), {"bad_file"}, frozenset({"bad_file"})
    ),
    "a row of a table": Damage("ns", sql("UPDATE assignments SET version = '2.0'"), {"wrong_table"}),
    "a table that is gone": Damage("ns", sql("DROP TABLE memberships"), {"wrong_table"}),
    "a row too many": Damage("ns", sql("INSERT INTO deleted_releases VALUES ('x', '1', 'sha256:0')"), {"wrong_table"}),
    "a change that is gone": Damage(
        "ns", sql("DELETE FROM changes WHERE seq = 3"), {"gap_in_log"}, frozenset({"gap_in_log"})
    ),
    "the last changes": Damage(
        "ns",
        sql("DELETE FROM changes WHERE seq >= (SELECT max(seq) - 1 FROM changes)"),
        {"lost_changes", "wrong_table"},
        frozenset({"lost_changes"}),
    ),
    "an event that is none": Damage(
        "ns", sql("UPDATE changes SET event = '{' WHERE seq = 4"), {"bad_event"}, frozenset({"bad_event"})
    ),
    "an event that does not fit": Damage(
        "ns",
        sql('UPDATE changes SET event = \'{"event":"removed","uuid":"x"}\' WHERE seq = 4'),
        {"unfit_event"},
        frozenset({"unfit_event"}),
    ),
    "a report": Damage(
        "ns", sql("UPDATE reports SET body = x'7b' WHERE id = (SELECT max(id) FROM reports)"), {"bad_report"}
    ),
    "a page of the store": Damage("ns", zero_page, {"damaged_store"}),
    "a store that is none": Damage(
        "ns",
        lambda home: (home / "state.db").write_bytes(b"not a database at all" * 99),
        {"damaged_store"},
        frozenset({"damaged_store"}),
    ),
    "a store that is gone": Damage(
        "ns", lambda home: (home / "state.db").unlink(), {"missing_file"}, frozenset({"missing_file"})
    ),
    "an edge's desired state": Damage(
        "e1",
        sql("UPDATE desired SET generation = generation + 1"),
        {"bad_desired_state"},
        frozenset({"bad_desired_state"}),
    ),
    "a record of an edge": Damage(
        "e1", sql("UPDATE records SET digest = 'sha256:0'"), {"bad_record"}, frozenset({"bad_record"})
    ),
    "an edge's own state": Damage(
        "e1", sql("UPDATE saved SET document = x'5b'"), {"bad_state"}, frozenset({"bad_state"})
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_named_and_mended_where_that_is_promised(homes: Path, name: str) -> None:
    damage = DAMAGES[name]
    home = homes / damage.home
    damage.do(home)
    found = look(home)
    assert damage.found <= kinds(found), found.findings
    for finding in found.findings:
        assert finding.thing
        assert finding.expected
        assert finding.found
        assert finding.remedy is not None or finding.advice, finding
    after = repaired(home)
    assert damage.left <= kinds(after), after.findings
    if not damage.left:
        assert after.findings == []
    assert [finding for finding in after.findings if finding.remedy is not None] == []


def test_an_edge_fetches_again_what_a_repair_dropped(homes: Path) -> None:
    flip(file_blob(homes / "e1"))
    assert repaired(homes / "e1").findings == []
    assert Home(homes / "e1").releases.exists()
    from federation.layout import ImageLayout

    assert ImageLayout(homes / "e1" / "releases").releases() == ()


def test_tables_are_those_of_the_log_again(homes: Path) -> None:
    store = FederationStore.open(homes / "ns" / "state.db")
    before = {table: store.rows(table) for table in ("releases", "assignments", "members", "deleted_releases")}
    reports = store.reports.page(limit=10)
    edge = next(iter(store.state.edges())).uuid
    store.histories.put(edge, (HistoryEntry(5, "loaded", "m@1.0"),), carried=True)
    store.histories.put_carried(edge, Carried(7, digest_of(b"report")), log=("a line",), now=9.0)
    store.close()
    for text in ("DELETE FROM releases", "UPDATE members SET name = 'x'", "DROP TABLE assignments"):
        statement(homes / "ns", text)
    assert repaired(homes / "ns").findings == []
    store = FederationStore.open(homes / "ns" / "state.db")
    assert {table: store.rows(table) for table in before} == before
    assert store.reports.page(limit=10) == reports
    assert [(told.event, told.carried) for told in store.histories.read(edge)] == [("loaded", True)]
    assert store.histories.last_carried(edge) == Carried(7, digest_of(b"report"), 9.0)
    assert store.histories.carried_log(edge) == ("a line",)
    assert store.restored is False
    store.close()
    assert (homes / "ns" / "state.db.damaged").exists()


def test_a_deleted_release_does_not_come_back(homes: Path) -> None:
    """Its blobs are claimed by a push that came before, and the list is made anew from them."""
    for path in blobs(homes / "ada"):
        target = homes / "ns" / "releases" / "blobs" / "sha256" / path.name
        if not target.exists():
            shutil.copy(path, target)
    (homes / "ns" / "releases" / "index.json").write_text("broken")
    assert repaired(homes / "ns").findings == []
    from federation.layout import ImageLayout

    assert [release.label for release in ImageLayout(homes / "ns" / "releases").releases()] == ["m@1.0", "m@2.0"]
    assert len(ImageLayout(homes / "ada" / "releases").releases()) == 3


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_never_breaks_fsck(homes: Path, seed: int) -> None:
    """A few bytes of any files, flipped, cut or gone: findings, never an exception, and no harm by a repair."""
    rng = random.Random(seed)
    home = homes / rng.choice(HOMES)
    files = sorted(path for path in home.rglob("*") if path.is_file() and path.stat().st_size)
    for path in rng.sample(files, k=min(len(files), rng.randrange(1, 5))):
        raw = bytearray(path.read_bytes())
        match rng.randrange(4):
            case 0:
                path.unlink()
            case 1:
                path.write_bytes(raw[: rng.randrange(len(raw))])
            case 2:
                path.write_bytes(rng.randbytes(rng.randrange(1, 4096)))
            case _:
                for _ in range(rng.randrange(1, 20)):
                    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
                path.write_bytes(raw)
    try:
        found = look(home)
    except BadHome:
        assert home.name == "ns-root"  # which holds two files, both gone
        return
    assert all(isinstance(finding, Finding) and len(str(finding)) <= 1000 for finding in found.findings)
    secrets = [path.read_text("latin-1") for path in home.glob("*.key") if path.stat().st_size > 60]
    after = repaired(home)
    told = "\n".join(map(str, [*found.findings, *after.findings]))
    assert not any(line in told for text in secrets for line in text.splitlines()[1:-1] if len(line) > 20)
    assert {finding.kind for finding in after.findings if finding.remedy is not None} == set(), after.findings


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path) as made:
        yield made


def test_fsck_of_a_running_nameserver_and_its_repair_only_when_stopped(running: Federation) -> None:
    ended = running.peerage("fsck", "--home", "ns")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("nameserver home: whole (")
    refused = running.peerage("fsck", "--home", "ns", "--repair")
    assert refused.status == 1
    assert "error(home_in_use)" in refused.err
    assert running.peerage("gc", "--home", "ns", "--json").facts == {
        "deleted": [],
        "deprecated_and_held": 0,
        "blobs": 0,
        "bytes": 0,
        "dry_run": False,
    }
    running.stop("ns")
    (running.folder / "ns" / "ca.key").chmod(0o640)
    statement(running.folder / "ns", "UPDATE members SET name = 'x' WHERE name = 'admin'")
    found = running.peerage("fsck", "--home", "ns")
    assert found.status == 1
    assert "loose_mode: " in found.out
    assert "--repair would set its mode to 600" in found.out
    assert "--repair would rebuild the tables from the log" in found.out
    as_json = [json.loads(line) for line in running.peerage("fsck", "--home", "ns", "--json").out.splitlines()]
    assert {line["class"] for line in as_json[:-1]} == {"loose_mode", "wrong_table"}
    assert (as_json[-1]["findings"], as_json[-1]["kind"]) == (2, "nameserver")
    mended = running.peerage("fsck", "--home", "ns", "--repair")
    assert mended.status == 0, mended.out
    assert "nameserver home: 2 repaired, whole" in mended.out
    running.start("ns", "nameserver", "--federation-host", "127.0.0.1", "--federation-port", "0")
    assert running.peerage("query", "--home", "ns", "peer:list()").status == 0


def test_gc_needs_a_peer_that_runs(running: Federation) -> None:
    running.stop("ns")
    ended = running.peerage("gc", "--home", "ns")
    assert ended.status == 1
    assert "error(not_running)" in ended.err
    assert running.peerage("gc", "--home", "ns", "--unnamed", "soon").status == 2
    assert running.peerage("fsck", "--home", "nowhere").status == 1
    other = running.folder / "documents"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    (other / "letter.txt").chmod(0o644)
    ended = running.peerage("fsck", "--home", "documents", "--repair")
    assert (ended.status, "error(bad_home)" in ended.err) == (1, True)
    assert (other / "letter.txt").stat().st_mode & 0o777 == 0o644
    assert running.peerage("gc", "--home", "ns-admin").out == "0 blobs of 0 bytes removed\n"
