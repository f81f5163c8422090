"""Every function says what it is, and every example in its declaration runs in a federation of the tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peers.catalogues import every_declaration
from peers.client import AsyncConnection
from peers.record_keys import GIVEN
from query.catalogue import Catalogue
from query.declarations import Declaration, Effect, Role
from query.functions import generic_declarations
from query.knowledge import key_paths
from query.parsing import parse
from query.resolution import resolve
from query.text_form import to_text
from tests.wire.living import Living, living, publisher_in

LANGUAGE = {declared.signature for declared in generic_declarations()}
OWN = [declared for declared in every_declaration() if declared.signature not in LANGUAGE]
CATALOGUE = Catalogue(every_declaration())

# What must be there before an example, and may have been taken away by the one before.
SCENE = """
edge:register("OLD-EDGE");
peer:register("OLD-CLIENT");
edge:add_group("MY-EDGE-1", "staging-area-edges");
edge:add_group("OLD-EDGE", "old-edges");
edge:set_group_models("staging-area-edges", [{"name": "my-sa-model", "version": "5.3"}]);
edge:set_mode("MY-EDGE-1", "INTERACTIVE")
"""

# The same for pipelines, in the home of who publishes.
PIPELINES = """
pipeline:create("old-pipeline");
pipeline:create("my-pipeline");
pipeline:clear("my-pipeline");
pipeline:add_model_step("my-pipeline", "my-model", "1.0");
pipeline:add_validation("my-pipeline", "too_hot", "out.fahrenheit > 212")
"""
NEEDS_A_PIPELINE_IN_MEMORY = ("pipeline:infer", "pipeline:undeploy")

# What changes nothing but the caller's own: its statements, and the key that it offers.
OF_ANYBODY = ("query:cancel", "keys:offer_publisher")
ASKED_MAX = 500

# Examples that show how a call looks and cannot succeed with what they name.
ENDS_WITH = {
    'query:cancel("q-000000000000")': "unknown_name",
    'query:results("q-000000000000")': "unknown_name",
    'peer:register("ada", {"role": "operator", "publisher": true})': "peer_name_taken",
    "keys:set_root(:document)": "unknown_name",
    "keys:offer_publisher(:key, :proof)": "unknown_name",
    "edge:take_report(:document)": "unknown_name",
    'edge:mode("AUTONOMOUS")': "wrong_home",  # the home that asks here is an admin's
    'edge:import("/media/stick/e1.tar")': "wrong_home",
    'edge:attach("/media/stick/e1.tar", "3f8a 1c22 …")': "wrong_home",
    "edge:make_report()": "wrong_home",
    'models:load_development("…")': "wrong_arguments",
    'models:delete("my-model", "0.9")': "unknown_name",
}


@pytest.mark.parametrize("declared", OWN, ids=lambda declared: declared.signature)
def test_every_function_says_what_it_is(declared: Declaration) -> None:
    assert declared.documentation
    assert declared.examples
    assert declared.effect is Effect.READS or declared.role >= Role.OPERATOR or declared.name in OF_ANYBODY
    for example in declared.examples:
        (statement,) = parse(example.text).statements
        assert resolve(statement, CATALOGUE, {"document": "", "key": "", "proof": ""})


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Living]:
    """Two edges that accept development releases, a publisher, and the models that the examples name."""
    async with living(tmp_path) as made:
        for edge in ("MY-EDGE-1", "E1"):
            await made.add_edge(edge, accept_development=True)
        home = await publisher_in(made)
        home.settings_toml.write_text("accept_development = true\n", "utf-8")
        for model, version in (
            ("my-sa-model", "5.3"),
            ("my-model", "1.0"),
            ("my-model", "1.1"),
            ("other-model", "1.0"),
        ):
            if model not in await made.value("models:list()", home="ada"):
                await made.value(f'models:create("{model}")', home="ada")
            await made.value(f'models:create_release("{model}", "{version}")', home="ada")
            await made.value(f'models:publish("{model}", "{version}")', home="ada")
        await made.ask(SCENE)
        state = '{"models:loaded":[\'my-sa-model@5.3\'],"last_load_errors":[],"edge_mode":\'INTERACTIVE\'}'
        await made.until('stringify(edge:actual_state("MY-EDGE-1"))', state)
        yield made


@pytest.mark.timeout(120)
async def test_every_example_runs(federation: Living) -> None:
    wrong = []
    given: dict[str, set[str]] = {}
    async with federation.connection() as admin, federation.connection("ada") as publisher:
        await publisher.query('models:load("my-model")')
        for declared in OWN:
            for example in declared.examples:
                await admin.query(SCENE)
                asked = publisher if declared.name.startswith(("models:", "pipeline:")) else admin
                if declared.name.startswith("pipeline:"):
                    await publisher.query(PIPELINES)
                if declared.name in NEEDS_A_PIPELINE_IN_MEMORY:
                    await publisher.query('pipeline:deploy("my-pipeline")')
                found = await answered(asked, example.text, given=given, name=declared.name)
                if declared.effect is Effect.READS and example.shows is not None:
                    found = await shown(asked, example.text, example.shows)
                if example.text == 'models:unload("my-model")':
                    await publisher.query('models:load("my-model")')
                wanted = ENDS_WITH.get(example.text)
                as_wanted = found.startswith(f"error({wanted})") if wanted else not found.startswith("error(")
                if not as_wanted or (example.shows is not None and found != example.shows):
                    wrong.append(f"{example.text}  →  {found}")
    assert wrong == []
    assert {path: keys - set(GIVEN[path]) for path, keys in given.items() if keys - set(GIVEN.get(path, keys))} == {}


async def shown(peer: AsyncConnection, text: str, wanted: str) -> str:
    """As :func:`answered`, asked again while an edge is still on its way to what the scene says."""
    for _ in range(ASKED_MAX):
        found = await answered(peer, text)
        if found == wanted:
            break
    return found


async def answered(
    peer: AsyncConnection, text: str, *, given: dict[str, set[str]] | None = None, name: str = ""
) -> str:
    """The rows as text, or the first error. ``given`` takes the keys of the records, by path; see query.knowledge."""
    answer = await peer.query(text)
    for row in answer.rows if given is not None else ():
        for path, keys in key_paths(name, row.value).items():
            given.setdefault(path, set()).update(keys)
    if answer.errors:
        return f"error({answer.errors[0].code}): {answer.errors[0].message}"
    return "\n".join(to_text(row.value) for row in answer.rows)
