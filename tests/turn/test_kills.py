"""Real processes killed with -9 at each labelled point come back to old or new, with all that was acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from federation.store import FederationStore
from peers.edge_store import EdgeStore
from peers.failpoints import POINTS
from tests.turn.processes import Federation

pytestmark = pytest.mark.timeout(300)

ON_THE_EDGE = tuple(POINTS)[: list(POINTS).index("key.made")]
ELSEWHERE = ("key.", "backup.", "restore.", "import.", "waits.")  # each beside the tests of what is killed there
ON_THE_NAMESERVER = tuple(label for label in tuple(POINTS)[len(ON_THE_EDGE) :] if not label.startswith(ELSEWHERE))


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """One federation that lives through all kills; ``m`` is assigned to every edge, ``n`` to a group."""
    made = Federation(tmp_path_factory.mktemp("kills"))
    try:
        made.found()
        for name in ("m", "n", "o"):
            made.write_model(name)
        for name, version in (("m", "1.0"), ("m", "2.0"), ("o", "1.0")):
            made.publish(name, version)
        made.assign("m", "1.0")
        made.ask("ns", 'edge:add_group("E1", "g")')
        made.start("E1")
        made.converged(lambda state: state["models:loaded"] == ["m@1.0"])
        made.stop("E1")
        yield made
    finally:
        made.close()


def other(version: str) -> str:
    return "2.0" if version == "1.0" else "1.0"


class Story:
    """What makes an edge pass each of its points, and how it must stand in the end."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        (models,) = federation.ask("ns", 'edge:group_models("all")')
        self.m = next(model["version"] for model in models if model["name"] == "m")

    def reassigned(self) -> list[str]:
        """Another version of a model, which is on disk already or not."""
        self.federation.assign("m", other(self.m))
        return [f"m@{other(self.m)}"]

    def added(self, version: str) -> list[str]:
        """A release that the edge never saw, so that it must be fetched and tried."""
        self.federation.publish("n", version)
        self.federation.assign("n", version, group="g")
        return [f"m@{self.m}", f"n@{version}"]

    def taken_away(self) -> list[str]:
        return [f"m@{self.m}"]

    def endorsed(self, name: str) -> list[str]:
        """A new root record."""
        self.federation.command("register", name, "--publisher", "--home", "ns-admin", "--out", f"{name}.bundle")
        self.federation.command("join", "--home", name, f"{name}.bundle")
        self.federation.command("keys", "endorse", name, "--root-home", "ns-root", "--home", "ns-admin")
        return [f"m@{self.m}"]


def without_n(federation: Federation) -> None:
    federation.ask("ns", 'edge:remove_group_models("g", ["n"])')


@pytest.mark.parametrize("label", ON_THE_EDGE)
def test_an_edge_killed_anywhere_comes_back(federation: Federation, label: str) -> None:
    story = Story(federation)
    federation.start("E1")
    federation.converged(lambda state: state["models:loaded"] == [f"m@{story.m}"])
    before = set(federation.actual()["models:loaded"])
    act: Callable[[], object] = lambda: None  # noqa: E731
    match label.partition(".")[0]:
        case "fetch" | "verify":
            federation.stop("E1")
            wanted = story.added(label)
        case "unload" | "prune":
            story.added(label)
            federation.converged(lambda state: f"n@{label}" in state["models:loaded"])
            before = set(federation.actual()["models:loaded"])
            federation.stop("E1")
            without_n(federation)
            wanted = story.taken_away()
        case "root":
            federation.stop("E1")
            wanted = story.endorsed(label.replace(".", "-"))
        case "manual":
            federation.stop("E1")
            wanted = [f"m@{story.m}", "o@1.0"]
            act = lambda: federation.attempt("E1", 'models:import("o", "1.0")')  # noqa: E731
        case _:
            federation.stop("E1")
            wanted = story.reassigned()
    federation.start("E1", fail_at=label)
    act()
    federation.killed("E1")
    assert on_disk(federation.folder / "E1") in (before, set(wanted), before | set(wanted))
    federation.start("E1")
    federation.converged(lambda state: state["models:loaded"] == wanted and not state["last_load_errors"])
    if label.startswith(("fetch", "verify")):
        without_n(federation)
        federation.converged(lambda state: state["models:loaded"] == [f"m@{story.m}"])
    if label == "manual.recorded":
        federation.ask("E1", 'models:unload("o")')
    federation.stop("E1")


def on_disk(home: Path) -> set[str]:
    """The labels of what a killed edge has noted as loaded; whole documents, with the records that they name."""
    store = EdgeStore.open(home / "state.db")
    try:
        stored = store.read()
        assert stored.desired is not None
        assert stored.cursor is not None
        assert all(store.record(model.record) is not None for model in stored.desired.models)
        return {entry.label for entry in stored.saved.loaded.values()}
    finally:
        store.close()


@pytest.mark.parametrize("label", ON_THE_NAMESERVER)
def test_a_nameserver_killed_anywhere_loses_nothing_acknowledged(federation: Federation, label: str) -> None:
    group = label.replace(".", "-")
    name = group.replace("-", "")
    if not federation.runs("ns"):
        federation.start("ns")
    federation.ask("ns", f'edge:add_group("E1", "{group}-acknowledged")')
    match label.partition(".")[0]:
        case "join":
            federation.command("register", group, "--home", "ns-admin", "--out", f"{group}.bundle")
        case "report" | "desired":
            federation.ask("ns", 'edge:set_property("E1", "reason", :reason)', reason=label)
        case "delete":
            federation.write_model(name)
            federation.publish(name, "1.0")
        case "publish":
            federation.write_model(name)
    federation.stop("ns")
    log = length_of_log(federation)
    federation.start("ns", fail_at=label)
    match label.partition(".")[0]:
        case "change":
            assert federation.attempt("ns", f'edge:add_group("E1", "{group}")') is not None
        case "join":
            with pytest.raises(AssertionError):
                federation.command("join", "--home", group, f"{group}.bundle")
        case "report" | "desired":
            federation.start("E1")
        case "delete":
            assert federation.attempt("ns", f'models:delete("{name}", "1.0")') is not None
        case _:
            with pytest.raises(Exception, match=r".+"):
                federation.publish(name, "1.0")
    federation.killed("ns")
    assert length_of_log(federation) >= log
    federation.start("ns")
    (groups,) = federation.ask("ns", 'edge:groups("E1")')
    assert f"{group}-acknowledged" in groups
    match label.partition(".")[0]:
        case "change":
            assert (group in groups) == (label == "change.durable")
            federation.ask("ns", f'edge:add_group("E1", "{group}")')
        case "join":
            federation.command("join", "--home", group, f"{group}.bundle")
        case "report" | "desired":
            story = Story(federation)
            federation.converged(lambda state: state["models:loaded"] == [f"m@{story.m}"])
            federation.stop("E1")
        case "delete":
            (installed,) = federation.ask("ns", "models:installed()")  # what the log deleted left at the start
            assert f"{name}@1.0" not in installed
            federation.ask("ada", f'models:publish("{name}", "1.0")')
            (installed,) = federation.ask("ns", "models:installed()")
            assert f"{name}@1.0" in installed
        case _:
            (installed,) = federation.ask("ns", "models:installed()")  # what is in the log was listed at the start
            assert (f"{name}@1.0" in installed) == (label == "publish.durable")
            federation.ask("ada", f'models:publish("{name}", "1.0")')
            (installed,) = federation.ask("ns", "models:installed()")
            assert f"{name}@1.0" in installed


def length_of_log(federation: Federation) -> int:
    """Of a nameserver that does not run; opening it also checks that log and tables agree."""
    store = FederationStore.open(federation.folder / "ns" / "state.db")
    try:
        return store.state.seq
    finally:
        store.close()
