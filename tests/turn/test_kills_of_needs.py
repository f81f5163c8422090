"""A real edge killed while releases that need each other change places: never one without what it needs, then all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from peers.edge_store import EdgeStore
from tests.turn.processes import Federation

pytestmark = pytest.mark.timeout(300)

SETS = {"1.0": ["base@1.0", "user@1.0"], "2.0": ["base@2.0", "user@2.0"]}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """``user`` needs ``base`` of its own version, so that both can change only together."""
    made = Federation(tmp_path_factory.mktemp("kills"))
    try:
        made.found()
        for name in ("base", "user"):
            made.write_model(name)
        description = made.folder / "ada" / "models" / "user" / "model.toml"
        plain = description.read_text()
        for version in SETS:
            made.publish("base", version)
            description.write_text(f'{plain}needs = {{base = "=={version}"}}\n')
            script = description.with_name("f.pql")
            script.write_text("create function user_answer() -> Number as base_answer() + 1;\n")
            made.publish("user", version)
        made.assign("user", "1.0")
        made.start("E1")
        made.converged(lambda state: state["models:loaded"] == SETS["1.0"])
        made.stop("E1")
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("label", ["poll.committed", "unload.done", "unload.recorded", "load.swapped", "load.recorded"])
def test_an_edge_killed_between_two_sets_comes_back_whole(federation: Federation, label: str) -> None:
    before = next(version for version in SETS if loaded_on_disk(federation) == set(SETS[version]))
    after = "2.0" if before == "1.0" else "1.0"
    federation.assign("user", after)
    federation.start("E1", fail_at=label)
    federation.killed("E1")
    noted = loaded_on_disk(federation)
    assert not any(user in noted and base not in noted for base, user in SETS.values())
    federation.start("E1")
    federation.converged(lambda state: state["models:loaded"] == SETS[after] and not state["last_load_errors"])
    assert federation.ask("E1", "user_answer()") == [43]
    federation.stop("E1")
    assert loaded_on_disk(federation) == set(SETS[after])


def loaded_on_disk(federation: Federation) -> set[str]:
    store = EdgeStore.open(federation.folder / "E1" / "state.db")
    try:
        return {entry.label for entry in store.read().saved.loaded.values()}
    finally:
        store.close()
