"""Pipelines from the language, in a real federation in one loop: a nameserver, an edge, and the homes of people."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from engine.errors import OverMemory
from federation.errors import KeyRevoked
from federation.layout import ImageLayout
from federation.pipelines import STEPS_MAX, BadPipeline
from federation.record_shape import NameOfAnother
from federation.retention import ReleaseHeld
from peers.examining import examine
from peers.homes import Home
from peers.joining import join
from peers.pipeline_deployment import PartlyDeployed
from peers.pipeline_drafts import BadPipelineFile
from peers.pipeline_models import StepMissing
from peers.publisher_keys import NotAPublisher
from query.errors import Forbidden, LimitExceeded, UnknownName, WrongArguments
from query.quantities import BadQuantity
from tests.models.making import growing, scaling
from tests.wire.living import Living, living, publish, publisher_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = '{"x": [[1, 2, 3, 4]]}'


def write_model(home: Home, name: str, factor: float) -> None:
    """x[-1,4] → y = factor * x, with a test vector."""
    folder = home.models / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(f'name = "{name}"\nvectors = "vectors.json"\n')
    (folder / "model.onnx").write_bytes(scaling(factor))
    answer = {"input": {"x": [[1, 2, 3, 4]]}, "output": {"y": [[factor * x for x in (1, 2, 3, 4)]]}}
    (folder / "vectors.json").write_text(json.dumps([answer]))


async def released(federation: Living, *models: tuple[str, str, float], home: str = "ada") -> None:
    for name, version, factor in models:
        write_model(federation.home(home), name, factor)
        await publish(federation, name, version, home=home)


async def person(federation: Living, name: str, role: str) -> None:
    bundle = await federation.value(
        "peer:register(:name, :options)", params={"name": name, "options": {"role": role, "publisher": False}}
    )
    await join(federation.home(name), bundle)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    """Ada publishes; Otto is an operator, Vera a viewer; e1 is in the group "lab"."""
    async with living(tmp_path_factory.mktemp("pipelines"), "e1") as federation:
        await publisher_in(federation)
        await person(federation, "otto", "operator")
        await person(federation, "vera", "viewer")
        await federation.value('edge:add_group("e1", "lab")')
        await released(federation, ("double", "1.0", 2.0), ("double", "2.0", 20.0), ("triple", "1.0", 3.0))
        yield federation


async def ada(federation: Living, text: str, **params: Any) -> Any:
    return await federation.value(text, home="ada", params=params or None)


async def on_edge(federation: Living, text: str) -> Any:
    return await federation.value(f"//peer: e1\n{text}")


async def standing(federation: Living, name: str, *wanted: str, edges: Mapping[str, Any] = {}) -> dict[str, Any]:
    """The status once it is one of ``wanted``, with this in its first edge."""
    async with asyncio.timeout(20), federation.connection("ns-admin") as admin:
        while True:
            told: dict[str, Any] = await admin.value(f'pipeline:status("{name}")')
            first = told["edges"][0] if told["edges"] else {}
            if told["status"] in wanted and all(first.get(key) == value for key, value in edges.items()):
                return told
            await asyncio.sleep(0.05)  # a poll of a real process, bounded above


# --- the way --------------------------------------------------------------------------------------------------------


async def test_a_pipeline_is_made_deployed_swapped_taken_back_and_undeployed(federation: Living) -> None:
    assert await ada(federation, 'pipeline:create("way")') == "way"
    assert await ada(federation, 'pipeline:create("way")') == "way"
    steps = await ada(federation, 'pipeline:add_model_step("way", "double", "1.0")')
    assert steps == [{"step": 1, "kind": "model", "model": "double@1.0"}]
    assert await ada(federation, 'pipeline:add_validation("way", "high", "out.y[1] > 100")') == {
        "high": "out.y[1] > 100"
    }
    made = await ada(federation, 'pipeline:make_version("way")')
    first = made["version"]
    assert made["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert (await ada(federation, 'pipeline:deploy("way", {"group": "lab"})'))["version"] == first
    told = await standing(federation, "way", "Running")
    assert {key: told["edges"][0][key] for key in ("edge", "status", "version", "wanted", "group", "reason")} == {
        "edge": "E1",
        "status": "Running",
        "version": first,
        "wanted": first,
        "group": "lab",
        "reason": None,
    }
    assert (await on_edge(federation, f'models:infer("way", {ROWS})'))["y"].tolist() == [[2, 4, 6, 8]]
    assert (await on_edge(federation, 'pipeline:status("way")'))["status"] == "Running"
    row = await on_edge(federation, 'pipeline:infer("way", {"x": [1, 2, 3, 4]})')
    assert (row["out"], row["anomaly"], row["metadata"]["partition"], row["metadata"]["pipeline_version"]) == (
        {"y": [2, 4, 6, 8]},
        {"count": 0, "high": False},
        "e1",
        first,
    )
    told = await federation.value(f'//peer: nameserver\nmodels:info("way", "{first}")')
    assert [model["model"] for model in told["models"]] == ["double@1.0"]

    await ada(federation, 'pipeline:replace_model_step("way", 1, "triple", "1.0")')
    second = (await ada(federation, 'pipeline:deploy("way", {"group": "lab"})'))["version"]
    assert second != first
    await standing(federation, "way", "Running", edges={"version": second})
    assert (await on_edge(federation, f'models:infer("way", {ROWS})'))["y"].tolist() == [[3, 6, 9, 12]]
    assert [
        (one["version"], one["models"], one["released"], one["current"])
        for one in await ada(federation, 'pipeline:versions("way")')
    ] == [(first, ["double@1.0"], True, False), (second, ["triple@1.0"], True, True)]

    back = await ada(federation, f'pipeline:deploy("way", {{"group": "lab", "version": "{first}"}})')
    assert (back["version"], back["groups"][0]["overtaken"][0]["model"]) == (first, f"way@{second}")
    await standing(federation, "way", "Running", edges={"version": first})
    with pytest.raises(ReleaseHeld, match="group lab has it"):
        await federation.value(f'//peer: nameserver\nmodels:delete("way", "{first}")')
    assert await ada(federation, 'pipeline:undeploy("way", {"group": "lab"})') is True
    await standing(federation, "way", "Undeployed")
    assert (await ada(federation, 'pipeline:steps("way")'))[0]["model"] == "triple@1.0"


async def test_no_request_fails_while_versions_swap(federation: Living) -> None:
    """Each answer is one version's or the other's."""
    await ada(federation, 'pipeline:create("swaps")')
    await ada(federation, 'pipeline:add_model_step("swaps", "double", "1.0")')
    versions = [(await ada(federation, 'pipeline:deploy("swaps", {"group": "lab"})'))["version"]]
    await standing(federation, "swaps", "Running")
    await ada(federation, 'pipeline:replace_model_step("swaps", 1, "double", "2.0")')
    answers: set[float] = set()
    stop = asyncio.Event()

    async def ask() -> None:
        async with federation.connection("e1") as edge:
            while not stop.is_set():
                answers.add((await edge.value(f'models:infer("swaps", {ROWS})'))["y"].tolist()[0][0])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(ask())
        versions.append((await ada(federation, 'pipeline:deploy("swaps", {"group": "lab"})'))["version"])
        await standing(federation, "swaps", "Running", edges={"version": versions[1]})
        for version in (versions[0], versions[1]):
            await ada(federation, f'pipeline:deploy("swaps", {{"group": "lab", "version": "{version}"}})')
            await standing(federation, "swaps", "Running", edges={"version": version})
        stop.set()
    assert answers == {2.0, 20.0}
    await ada(federation, 'pipeline:undeploy("swaps", {"group": "lab"})')


async def test_what_a_pipeline_may_take_is_part_of_its_version_and_kept(federation: Living) -> None:
    await ada(federation, 'pipeline:create("sized")')
    await ada(federation, 'pipeline:add_model_step("sized", "double", "1.0")')
    plain = (await ada(federation, 'pipeline:deploy("sized", {"group": "lab"})'))["version"]
    options = '{"groups": ["lab"], "cpus": 1.5, "memory": "512Mi", "batch": true, "log": {"sample": 0.5}}'
    sized = (await ada(federation, f'pipeline:deploy("sized", {options})'))["version"]
    assert (await ada(federation, 'pipeline:deploy("sized", {"group": "LAB"})'))["version"] == sized != plain
    told = await ada(federation, 'pipeline:definition("sized")')
    assert {key: told[key] for key in ("cpus", "memory", "replicas", "batch", "log")} == {
        "cpus": 1.5,
        "memory": 512 << 20,
        "replicas": 0,
        "batch": {"enabled": True, "rows_max": 64},
        "log": {"sample": 0.5, "columns": []},
    }
    assert (await ada(federation, f'pipeline:definition("sized", "{plain}")'))["memory"] is None
    back = '{"group": "lab", "cpus": null, "memory": null, "batch": null, "log": null}'
    assert (await ada(federation, f'pipeline:deploy("sized", {back})'))["version"] == plain
    await standing(federation, "sized", "Running", edges={"version": plain})
    await ada(federation, 'pipeline:undeploy("sized", {"group": "lab"})')


async def test_resources_that_were_not_enough_are_told(federation: Living) -> None:
    home = federation.home("ada")
    write_model(home, "growing", 1.0)
    (home.models / "growing" / "model.onnx").write_bytes(growing())
    await publish(federation, "growing", "1.0")
    await ada(federation, 'pipeline:create("held")')
    await ada(federation, 'pipeline:add_model_step("held", "growing", "1.0")')
    options = '{"group": "lab", "replicas": 1, "memory": "64Mi"}'
    await ada(federation, f'pipeline:deploy("held", {options})')
    await standing(federation, "held", "Running", edges={"exceeded": []})
    ask = 'pipeline:infer("held", {{"x": [{most}, 1, 1, 1]}})'
    assert (await on_edge(federation, ask.format(most=8)))["out"] == {"y": [8, 1, 1, 1]}
    with pytest.raises(OverMemory):
        await on_edge(federation, ask.format(most=10_000_000))
    assert (await on_edge(federation, ask.format(most=8)))["out"] == {"y": [8, 1, 1, 1]}
    assert (await on_edge(federation, 'pipeline:status("held")'))["edges"][0]["exceeded"] == ["memory"]
    await standing(federation, "held", "Running", edges={"exceeded": ["memory"]})
    (limit,) = (await on_edge(federation, 'models:info("held")'))["exceeded"]
    assert (limit["resource"], limit["count"]) == ("memory", 1)
    await ada(federation, 'pipeline:undeploy("held", {"group": "lab"})')


async def test_every_kind_of_step(federation: Living) -> None:
    await ada(federation, 'pipeline:create("kinds")')
    split = '[{"weight": 1, "model": "double@1.0"}, {"weight": 3, "name": "double", "version": "2.0"}]'
    await ada(federation, f'pipeline:add_random_split("kinds", {split})')
    await ada(federation, 'pipeline:add_pql_step("kinds", \'{"x": y, "kind": "a"}\')')
    await ada(federation, 'pipeline:add_key_split("kinds", "double@1.0", "kind", {"a": "triple@1.0"})')
    await ada(federation, 'pipeline:add_pql_step("kinds", \'{"x": y}\')')
    shown = await ada(federation, 'pipeline:add_shadow("kinds", "double@1.0", ["triple@1.0"])')
    assert shown == [
        {
            "step": 1,
            "kind": "random_split",
            "choices": [{"weight": 1.0, "model": "double@1.0"}, {"weight": 3.0, "model": "double@2.0"}],
            "hash_key": None,
        },
        {"step": 2, "kind": "pql", "expression": '{"x": y, "kind": "a"}'},
        {
            "step": 3,
            "kind": "key_split",
            "key": "kind",
            "default": "double@1.0",
            "choices": {"a": "triple@1.0"},
        },
        {"step": 4, "kind": "pql", "expression": '{"x": y}'},
        {"step": 5, "kind": "shadow", "champion": "double@1.0", "challengers": ["triple@1.0"]},
    ]
    assert await ada(federation, 'pipeline:steps("kinds")') == shown
    assert len(await ada(federation, 'pipeline:remove_step("kinds", 5)')) == 4
    await ada(federation, 'pipeline:add_validation("kinds", "a", "true")')
    assert await ada(federation, 'pipeline:remove_validation("kinds", "a")') == {}
    assert await ada(federation, 'pipeline:clear("kinds")') is True
    assert await ada(federation, 'pipeline:steps("kinds")') == []
    assert "kinds" in await ada(federation, "pipeline:list()")
    assert await ada(federation, 'pipeline:remove("kinds")') is True
    assert "kinds" not in await ada(federation, "pipeline:list()")


async def test_in_this_peers_own_memory(federation: Living) -> None:
    async with federation.connection("ada") as here:
        await here.value('pipeline:create("mine")')
        await here.value('pipeline:add_model_step("mine", "double", "1.0")')
        version = (await here.value('pipeline:deploy("mine")'))["version"]
        assert await here.value("models:loaded()") == [f"mine@{version}"]
        assert (await here.value(f'models:infer("mine", {ROWS})'))["y"].tolist() == [[2, 4, 6, 8]]
        told = await here.value('pipeline:status("mine")')
        assert (told["status"], told["here"], told["edges"]) == ("Running", version, [])
        await here.value('pipeline:replace_model_step("mine", 1, "triple", "1.0")')
        assert (await here.value('pipeline:deploy("mine")'))["version"] != version
        assert (await here.value(f'models:infer("mine", {ROWS})'))["y"].tolist() == [[3, 6, 9, 12]]
        assert (await here.value(f'pipeline:deploy("mine", {{"version": "{version}"}})'))["version"] == version
        assert (await here.value(f'models:infer("mine", {ROWS})'))["y"].tolist() == [[2, 4, 6, 8]]
        assert await here.value('pipeline:undeploy("mine")') is True
        with pytest.raises(UnknownName, match='no pipeline "mine" in this peer\'s memory') as caught:
            await here.value('pipeline:undeploy("mine")')
        assert "takes it from a group" in str(caught.value.hint)
        assert (await here.value('pipeline:status("mine")'))["status"] == "Undeployed"


async def test_an_edge_runs_its_pipeline_again_after_a_restart_from_its_own_disk(federation: Living) -> None:
    await ada(federation, 'pipeline:create("stays")')
    await ada(federation, 'pipeline:add_model_step("stays", "double", "1.0")')
    version = (await ada(federation, 'pipeline:deploy("stays", {"group": "lab"})'))["version"]
    await standing(federation, "stays", "Running")
    await federation.stop("e1")
    await federation.start_edge("e1")
    assert f"stays@{version}" in await federation.value("models:loaded()", home="e1")
    assert (await federation.value(f'models:infer("stays", {ROWS})', home="e1"))["y"].tolist() == [[2, 4, 6, 8]]

    await federation.stop("e1")  # a model's file vanishes from its disk, and is fetched again
    layout = ImageLayout(federation.home("e1").releases)
    record = layout.packed(layout.installed("stays", version)).record
    layout.blobs.path(next(entry.digest for entry in record.files if entry.kind == "weight")).unlink()
    await federation.start_edge("e1")
    await standing(federation, "stays", "Running")
    await federation.until("models:loaded()", [f"stays@{version}"], home="e1")
    assert (await federation.value(f'models:infer("stays", {ROWS})', home="e1"))["y"].tolist() == [[2, 4, 6, 8]]
    await ada(federation, 'pipeline:undeploy("stays", {"group": "lab"})')
    await standing(federation, "stays", "Undeployed")


async def test_an_edge_that_cannot_load_a_version_says_why_and_answers_with_the_one_before(federation: Living) -> None:
    await ada(federation, 'pipeline:create("tight")')
    await ada(federation, 'pipeline:add_model_step("tight", "double", "1.0")')
    first = (await ada(federation, 'pipeline:deploy("tight", {"group": "lab"})'))["version"]
    await standing(federation, "tight", "Running")
    second = (await ada(federation, 'pipeline:deploy("tight", {"group": "lab", "memory": "1Ki"})'))["version"]
    told = await standing(federation, "tight", "Error")
    edge = told["edges"][0]
    assert (edge["version"], edge["wanted"], edge["code"]) == (first, second, "over_memory")
    assert "its deployment allows 1024" in edge["reason"]
    assert (await on_edge(federation, f'models:infer("tight", {ROWS})'))["y"].tolist() == [[2, 4, 6, 8]]
    await ada(federation, 'pipeline:undeploy("tight", {"group": "lab"})')


# --- who may --------------------------------------------------------------------------------------------------------


async def test_an_operator_without_a_publishers_key_deploys_what_is_published_and_makes_nothing(
    federation: Living,
) -> None:
    await ada(federation, 'pipeline:create("shared")')
    await ada(federation, 'pipeline:add_model_step("shared", "double", "1.0")')
    version = (await ada(federation, 'pipeline:deploy("shared", {"group": "lab"})'))["version"]
    await ada(federation, 'pipeline:undeploy("shared", {"group": "lab"})')
    deploy = f'pipeline:deploy("shared", {{"group": "lab", "version": "{version}"}})'
    assert (await federation.value(deploy, home="otto"))["version"] == version
    await standing(federation, "shared", "Running", edges={"version": version})
    assert await federation.value('pipeline:undeploy("shared", {"group": "lab"})', home="otto") is True
    with pytest.raises(UnknownName, match="no version"):
        await federation.value(deploy.replace(version, "00000000-0000-5000-8000-000000000000"), home="otto")

    await federation.value('pipeline:create("own")', home="otto")
    await federation.value('pipeline:add_model_step("own", "double", "1.0")', home="otto")
    await federation.value('pipeline:make_version("own")', home="otto")
    with pytest.raises(NotAPublisher, match="has no publisher key") as caught:
        await federation.value('pipeline:deploy("own", {"group": "lab"})', home="otto")
    assert "--publisher" in str(caught.value.hint)
    with pytest.raises(NotAPublisher) as caught:
        await federation.value('pipeline:deploy("own")', home="otto")
    assert "accept_development = true" in str(caught.value.hint)

    with pytest.raises(Forbidden):
        await federation.value(deploy, home="vera")


async def test_where_development_is_accepted_a_home_without_a_key_tries_its_pipeline(federation: Living) -> None:
    (federation.home("otto").path / "peerage.toml").write_text("accept_development = true\n")
    async with federation.connection("otto") as here:
        await here.value('pipeline:create("tried")')
        await here.value('pipeline:add_model_step("tried", "double", "1.0")')
        kept = (await here.value('pipeline:make_version("tried")'))["version"]
        made = await here.value('pipeline:deploy("tried")')
        assert made["version"] == f"dev+{kept[:8]}"
        assert (await here.value(f'models:infer("tried", {ROWS})'))["y"].tolist() == [[2, 4, 6, 8]]
        with pytest.raises(NotAPublisher):
            await here.value('pipeline:deploy("tried", {"group": "lab"})')


async def test_a_pipeline_that_is_tried_on_an_edge_itself_comes_back_with_it(federation: Living) -> None:
    await federation.add_edge("bench", accept_development=True)
    async with federation.connection("bench") as edge:
        await edge.value('pipeline:create("tried")')
        await edge.value('pipeline:add_model_step("tried", "triple", "1.0")')
        version = (await edge.value('pipeline:deploy("tried")'))["version"]
        told = await edge.value('pipeline:status("tried")')
        assert [(one["edge"], one["version"], one["wanted"]) for one in told["edges"]] == [("BENCH", version, None)]
    await federation.stop("bench")
    await federation.start_edge("bench", accept_development=True)
    async with federation.connection("bench") as edge:
        assert await edge.value("models:loaded()") == [f"tried@{version}"]
        assert (await edge.value('pipeline:infer("tried", {"x": [1, 2, 3, 4]})'))["out"]["y"] == [3, 6, 9, 12]
        assert await edge.value('pipeline:undeploy("tried")') is True
    await federation.stop("bench")


async def test_a_publishers_key_that_is_gone(federation: Living) -> None:
    await ada(federation, 'pipeline:create("keyless")')
    await ada(federation, 'pipeline:add_model_step("keyless", "double", "1.0")')
    key = federation.home("ada").publisher_key
    kept = key.read_bytes()
    key.unlink()
    try:
        with pytest.raises(NotAPublisher, match="has no publisher key"):
            await ada(federation, 'pipeline:deploy("keyless", {"group": "lab"})')
    finally:
        key.write_bytes(kept)
        key.chmod(0o600)
    assert (await ada(federation, 'pipeline:status("keyless")'))["status"] == "Undeployed"


async def test_groups_that_took_a_change_and_one_that_did_not_are_both_named(federation: Living) -> None:
    await ada(federation, 'pipeline:create("partly")')
    await ada(federation, 'pipeline:add_model_step("partly", "double", "1.0")')
    made = await ada(federation, 'pipeline:deploy("partly", {"groups": ["lab"]})')
    assert [one["group"] for one in made["groups"]] == ["lab"]
    with pytest.raises(PartlyDeployed, match=r'group "all" could not be changed: .*; changed: lab'):
        await ada(federation, 'pipeline:undeploy("partly", {"groups": ["lab", "all"]})')
    await standing(federation, "partly", "Undeployed")


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem", "said"),
    [
        ('pipeline:create("double")', NameOfAnother, "it names a model, double@"),
        ('pipeline:create("Bad Name")', Exception, "cannot name a model"),
        ('pipeline:steps("nothing")', UnknownName, 'no pipeline "nothing"'),
        ('pipeline:add_model_step("bad", "dubble", "1.0")', UnknownName, 'no version "1.0" of model "dubble"'),
        ('pipeline:add_model_step("bad", "double", "9.9")', UnknownName, 'no version "9.9" of model "double"'),
        ('pipeline:replace_model_step("bad", 0, "double", "1.0")', WrongArguments, "has no step 0: expected none"),
        ('pipeline:remove_step("bad", 1)', WrongArguments, "has no step 1"),
        ('pipeline:add_random_split("bad", [])', WrongArguments, "expected 1 to 16 models"),
        ('pipeline:add_random_split("bad", [{"weight": 0, "model": "double@1.0"}])', BadPipeline, "sum to more than 0"),
        ('pipeline:add_random_split("bad", [{"weight": -1, "model": "double@1.0"}])', BadPipeline, "found -1.0"),
        ('pipeline:add_random_split("bad", [{"weight": true, "model": "double@1.0"}])', WrongArguments, "choice 1"),
        ('pipeline:add_random_split("bad", ["double@1.0"])', WrongArguments, "choice 1: expected a record"),
        (
            'pipeline:add_random_split("bad", [{"weight": 1, "model": "double@1.0"}, '
            '{"weight": 1, "model": "double@1.0"}])',
            BadPipeline,
            "double@1.0 stands twice",
        ),
        ('pipeline:add_key_split("bad", "double", "k", {"a": "double@1.0"})', WrongArguments, "expected a model as"),
        ('pipeline:add_shadow("bad", "double@1.0", [])', WrongArguments, "found 0"),
        ('pipeline:add_shadow("bad", "double@1.0", ["double@1.0"])', BadPipeline, "stands twice"),
        ('pipeline:add_validation("bad", "count", "true")', BadPipeline, '"count" of pipeline "bad" is reserved'),
        ('pipeline:add_validation("bad", "a b", "true")', BadPipeline, "cannot name a validation: expected letters"),
        ('pipeline:add_validation("bad", "a", "")', BadPipeline, "expected text of length >= 1"),
        ('pipeline:remove_validation("bad", "a")', UnknownName, 'no validation "a"'),
        ('pipeline:make_version("bad")', BadPipeline, "has no steps"),
        ('pipeline:deploy("bad", {"group": "lab"})', BadPipeline, "has no steps"),
        ('pipeline:deploy("bad", {"group": "nowhere"})', UnknownName, 'no group "nowhere"'),
        ('pipeline:deploy("bad", {"groups": []})', WrongArguments, "at least one group"),
        ('pipeline:deploy("bad", {"group": "lab", "groups": ["lab"]})', WrongArguments, "found both"),
        ('pipeline:deploy("bad", {"grup": "lab"})', WrongArguments, 'no option "grup" — did you mean "group"'),
        ('pipeline:deploy("bad", {"cpus": 0})', WrongArguments, 'option "cpus": expected'),
        ('pipeline:deploy("bad", {"replicas": 1.5})', WrongArguments, 'option "replicas": expected a whole number'),
        ('pipeline:deploy("bad", {"memory": "lots"})', BadQuantity, '"lots" is no amount of bytes'),
        ('pipeline:deploy("bad", {"memory": -1})', BadQuantity, "-1"),
        ('pipeline:deploy("bad", {"batch": {"rows": 3}})', WrongArguments, 'option "batch": unknown field "rows"'),
        ('pipeline:deploy("bad", {"log": 3})', WrongArguments, 'option "log": expected a record'),
        ('pipeline:deploy("bad", {"version": "1.0"})', WrongArguments, "a UUID, found '1.0'"),
        (
            'pipeline:deploy("bad", {"version": "00000000-0000-5000-8000-000000000000", "cpus": 1})',
            WrongArguments,
            'a version has its own "cpus"',
        ),
        (
            'pipeline:deploy("bad", {"group": "lab", "version": "00000000-0000-5000-8000-000000000000"})',
            UnknownName,
            'no version "00000000-0000-5000-8000-000000000000" of model "bad"',
        ),
        (
            'pipeline:definition("bad", "00000000-0000-5000-8000-000000000000")',
            UnknownName,
            'no version of pipeline "bad" "00000000',
        ),
        ('pipeline:undeploy("bad", {"group": "lab"})', UnknownName, "bad"),
        ('pipeline:undeploy("bad")', UnknownName, "in this peer's memory"),
        ('pipeline:status("nothing")', UnknownName, 'no pipeline "nothing"'),
    ],
)
async def test_bad_input_is_named_and_changes_nothing(
    text: str, problem: type[Exception], said: str, federation: Living
) -> None:
    await ada(federation, 'pipeline:create("bad")')
    with pytest.raises(problem, match=said.replace("(", r"\(").replace("[", r"\[")) as caught:
        await ada(federation, text)
    assert str(caught.value)
    assert await ada(federation, 'pipeline:steps("bad")') == []


async def test_a_validation_stands_once(federation: Living) -> None:
    await ada(federation, 'pipeline:create("twice")')
    await ada(federation, 'pipeline:add_validation("twice", "a", "true")')
    with pytest.raises(BadPipeline, match='validation "a" of pipeline "twice" stands twice'):
        await ada(federation, 'pipeline:add_validation("twice", "a", "false")')
    assert await ada(federation, 'pipeline:validations("twice")') == {"a": "true"}


async def test_steps_that_do_not_fit_are_told_when_a_version_is_made(federation: Living) -> None:
    await ada(federation, 'pipeline:create("misfit")')
    await ada(federation, 'pipeline:add_model_step("misfit", "double", "1.0")')
    await ada(federation, 'pipeline:add_model_step("misfit", "triple", "1.0")')
    for text in ('pipeline:make_version("misfit")', 'pipeline:deploy("misfit", {"group": "lab"})'):
        with pytest.raises(BadPipeline, match=r'step 2: input "x" of triple@1.0: expected FP32\[-1,4\], found no such'):
            await ada(federation, text)
    assert await ada(federation, 'pipeline:versions("misfit")') == []


async def test_steps_are_bounded(federation: Living) -> None:
    await ada(federation, 'pipeline:create("long")')
    async with federation.connection("ada") as here:
        for _ in range(STEPS_MAX):
            await here.value("pipeline:add_pql_step(\"long\", '{}')")
        with pytest.raises(LimitExceeded, match=f"has {STEPS_MAX} steps"):
            await here.value("pipeline:add_pql_step(\"long\", '{}')")


async def test_a_damaged_definition_names_its_file_and_can_be_removed(federation: Living) -> None:
    await ada(federation, 'pipeline:create("damaged")')
    path = federation.home("ada").pipelines / "damaged" / "draft.json"
    path.write_text('{"name": "damaged", "steps": 5}')
    for text in ('pipeline:steps("damaged")', 'pipeline:deploy("damaged")', 'pipeline:clear("damaged")'):
        with pytest.raises(BadPipelineFile, match=r"draft\.json is no definition of a pipeline") as caught:
            await ada(federation, text)
        assert 'pipeline:remove("damaged")' in str(caught.value.hint)
    assert await ada(federation, 'pipeline:remove("damaged")') is True


async def test_a_name_of_a_folder_or_of_a_pipeline_is_taken_for_the_other_kind(federation: Living) -> None:
    write_model(federation.home("ada"), "draft-model", 2.0)
    with pytest.raises(NameOfAnother, match="the folder models/draft-model"):
        await ada(federation, 'pipeline:create("draft-model")')
    await ada(federation, 'pipeline:create("taken")')
    await ada(federation, 'pipeline:add_model_step("taken", "double", "1.0")')
    await ada(federation, 'pipeline:deploy("taken", {"group": "lab"})')
    await ada(federation, 'pipeline:undeploy("taken", {"group": "lab"})')
    write_model(federation.home("ada"), "taken", 2.0)
    with pytest.raises(NameOfAnother, match='"taken" cannot be a model: it names a pipeline'):
        await ada(federation, 'models:create_release("taken", "1.0")')


async def test_a_name_that_another_home_gave_to_a_model_is_refused_by_the_nameserver(federation: Living) -> None:
    await publisher_in(federation, "bea")
    await federation.value('pipeline:create("triple")', home="bea")
    await federation.value('pipeline:add_model_step("triple", "double", "1.0")', home="bea")
    with pytest.raises(NameOfAnother, match=r'"triple" cannot be a pipeline: it names a model, triple@1\.0'):
        await federation.value('pipeline:deploy("triple", {"group": "lab"})', home="bea")
    assert await federation.value("models:installed()", home="bea") == ["double@1.0"]


# --- steps that vanish ----------------------------------------------------------------------------------------------


async def test_a_step_that_vanished_is_named_and_what_was_released_goes_on(federation: Living) -> None:
    await released(federation, ("gone", "1.0", 7.0))
    await ada(federation, 'pipeline:create("lasting")')
    await ada(federation, 'pipeline:add_model_step("lasting", "gone", "1.0")')
    version = (await ada(federation, 'pipeline:deploy("lasting", {"group": "lab"})'))["version"]
    await standing(federation, "lasting", "Running")
    await federation.value('//peer: nameserver\nmodels:delete("gone", "1.0")')
    await ada(federation, 'models:delete("gone", "1.0")')
    with pytest.raises(StepMissing, match=r'step 1 of pipeline "lasting" needs gone@1\.0: no version') as caught:
        await ada(federation, 'pipeline:make_version("lasting")')
    assert 'pipeline:replace_model_step("lasting", 1' in str(caught.value.hint)
    # The release holds its models: it is swapped, fetched by others and taken back as before.
    await ada(federation, 'pipeline:undeploy("lasting", {"group": "lab"})')
    await standing(federation, "lasting", "Undeployed")
    await ada(federation, f'pipeline:deploy("lasting", {{"group": "lab", "version": "{version}"}})')
    await standing(federation, "lasting", "Running", edges={"version": version})
    assert (await on_edge(federation, f'models:infer("lasting", {ROWS})'))["y"].tolist() == [[7, 14, 21, 28]]
    await ada(federation, 'pipeline:undeploy("lasting", {"group": "lab"})')


async def test_a_model_that_is_not_installed_is_fetched_for_the_version(federation: Living) -> None:
    await federation.value('pipeline:create("fetched")', home="bea")
    await federation.value('pipeline:add_model_step("fetched", "double", "2.0")', home="bea")
    assert "double@2.0" not in await federation.value("models:installed()", home="bea")
    await federation.value('pipeline:deploy("fetched", {"group": "lab"})', home="bea")
    assert "double@2.0" in await federation.value("models:installed()", home="bea")
    told = await standing(federation, "fetched", "Running")
    info = await federation.value(f'//peer: nameserver\nmodels:info("fetched", "{told["edges"][0]["version"]}")')
    assert (info["kind"], info["signer"]) == ("pipeline", "bea")
    await federation.value('pipeline:undeploy("fetched", {"group": "lab"})', home="bea")


async def test_a_model_whose_file_is_gone_from_the_repository(federation: Living) -> None:
    await released(federation, ("lost", "1.0", 8.0))
    await ada(federation, 'pipeline:create("broken")')
    await ada(federation, 'pipeline:add_model_step("broken", "lost", "1.0")')
    layout = ImageLayout(federation.home("ada").releases)
    record = layout.packed(layout.installed("lost", "1.0")).record
    weight = next(entry.digest for entry in record.files if entry.kind == "weight")
    layout.blobs.path(weight).unlink()
    await ada(federation, 'pipeline:deploy("broken", {"group": "lab"})')  # the nameserver has it
    await standing(federation, "broken", "Running")
    await ada(federation, 'pipeline:undeploy("broken", {"group": "lab"})')


async def test_models_may_share_files_and_pipelines_their_content(federation: Living) -> None:
    """The same bytes under two models are one blob, sent once; the same steps in another home the same version."""
    await released(federation, ("twin-a", "1.0", 6.0), ("twin-b", "1.0", 6.0))
    versions = []
    for home in ("ada", "bea"):
        split = '[{"weight": 1, "model": "twin-a@1.0"}, {"weight": 1, "model": "twin-b@1.0"}]'
        await federation.value('pipeline:create("twins")', home=home)
        await federation.value(f'pipeline:add_random_split("twins", {split})', home=home)
        versions.append((await federation.value('pipeline:deploy("twins", {"group": "lab"})', home=home))["version"])
        await standing(federation, "twins", "Running")
    assert versions[0] == versions[1]
    row = await on_edge(federation, 'pipeline:infer("twins", {"x": [1, 2, 3, 4]})')
    assert row["out"]["y"] == [6, 12, 18, 24]
    assert json.loads(row["out"]["_model_split"][0])["name"] in ("twin-a", "twin-b")
    await ada(federation, 'pipeline:undeploy("twins", {"group": "lab"})')


# --- keys -----------------------------------------------------------------------------------------------------------


async def test_a_revoked_publisher_of_a_model_stops_every_pipeline_that_holds_it(federation: Living) -> None:
    await publisher_in(federation, "cleo")
    await released(federation, ("bad-model", "1.0", 9.0), home="cleo")
    await ada(federation, 'pipeline:create("infected")')
    await ada(federation, 'pipeline:add_model_step("infected", "bad-model", "1.0")')
    version = (await ada(federation, 'pipeline:deploy("infected", {"group": "lab"})'))["version"]
    await standing(federation, "infected", "Running")
    await revoke_publisher(federation, "cleo")
    told = await standing(federation, "infected", "Error")
    assert told["edges"][0]["code"] == "revoked_key"
    assert f'publisher "cleo", which signed a model in infected@{version}, was revoked' in told["edges"][0]["reason"]
    assert f"infected@{version}" not in await federation.value("models:loaded()", home="e1")
    with pytest.raises(KeyRevoked, match=r"bad-model@1\.0 .*was revoked"):
        await ada(federation, f'pipeline:deploy("infected", {{"group": "lab", "version": "{version}"}})')
    await ada(federation, 'pipeline:undeploy("infected", {"group": "lab"})')


async def revoke_publisher(federation: Living, name: str) -> None:
    from federation.documents import RootRecord, SignedDocument, decode, encode
    from federation.keys import read_key
    from federation.revocation import publisher_keys, revoke, sign_following

    documents = await federation.ask("keys:root_documents()")
    root = decode(decode(documents.rows[-1].value.encode(), SignedDocument).payload, RootRecord)
    following = revoke(root, publisher_keys(root, name), running="stop", now=root.created + 1.0)
    signed = sign_following(root, following, [read_key(federation.home("ns-root").root_key)])
    await federation.value("keys:set_root(:document)", params={"document": encode(signed).decode()})


# --- afterwards -----------------------------------------------------------------------------------------------------


async def test_nothing_of_it_looks_like_damage(federation: Living) -> None:
    """Runs last: every home is whole, and what is collected as garbage is nothing that a pipeline needs."""
    await federation.value('//peer: nameserver\nmodels:collect_garbage({"unnamed_s": 0})')
    labels = await federation.value("//peer: nameserver\nmodels:installed()")
    assert any(label.startswith("lasting@") for label in labels)
    await federation.stop("e1")
    with contextlib.suppress(KeyError):
        for name in ("ns", "e1", "bea"):
            if name == "ns":
                await federation.stop("ns")
            found = await asyncio.to_thread(examine, federation.home(name))
            assert [str(finding) for finding in found.findings] == [], name
