"""Pipelines from Python, with and without an event loop of the program's own, in a real federation."""

import asyncio
from pathlib import Path

import pytest

import peers
from federation.pipelines import BadPipeline
from peers.pipeline_client import Deployed, PipelineNotRunning
from query.errors import UnknownName
from tests.pipelines.test_functions import released
from tests.wire.living import living, publisher_in


async def test_the_same_calls_with_and_without_await(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        home = await publisher_in(federation)
        await federation.value('edge:add_group("e1", "lab")')
        await released(federation, ("double", "1.0", 2.0), ("triple", "1.0", 3.0))

        async with peers.connect_async(home.path) as connection:
            price = connection.pipeline("price")
            assert await (await price.add_model_step("double", "1.0")).add_validation("high", "out.y[1] > 4") is price
            made = await price.deploy(group="lab", cpus=2, memory="256Mi", log={"sample": 1.0})
            assert made == Deployed("price", made.version, ("lab",))
            told = await price.wait(timeout_s=20)
            assert [(edge.edge, edge.version, edge.group) for edge in told.edges] == [("E1", made.version, "lab")]
            assert await price.make_version() == made.version
            assert [(one.version, one.models) for one in await price.versions()] == [(made.version, ("double@1.0",))]

        await asyncio.to_thread(synchronously, home.path, made.version)


def synchronously(home: Path, first: str) -> None:
    with peers.connect(home) as connection:
        price = connection.pipeline("price")
        second = price.replace_model_step(1, "triple", "1.0").deploy(groups=["lab"], cpus=None).version
        assert second != first
        assert price.wait(timeout_s=20).edges[0].version == second
        assert [one.current for one in price.versions()] == [False, True]
        assert price.deploy(version=first, group="lab").version == first
        assert price.wait(timeout_s=20).edges[0].version == first

        assert price.deploy().groups == ()
        (row,) = price.infer({"x": [1, 2, 3, 4]})
        assert (row["out"], row["anomaly"]) == ({"y": [3, 6, 9, 12]}, {"count": 0, "high": False})
        assert [row["anomaly"]["high"] for row in price.infer([{"x": [1, 0, 0, 0]}, {"x": [2, 0, 0, 0]}])] == [
            False,
            True,
        ]
        assert price.status().here == second
        price.undeploy()

        price.undeploy(group="lab")
        with pytest.raises(PipelineNotRunning, match='pipeline "price" does not run') as caught:
            price.wait(timeout_s=20)
        assert caught.value.status is not None

        other = connection.pipeline("other")
        with pytest.raises(UnknownName, match='no pipeline "other"'):
            other.steps()
        steps = (
            other.add_random_split([(1, "double@1.0"), (2, ("triple", "1.0"))], hash_key="id")
            .add_pql_step('{"x": y}')
            .add_key_split("double@1.0", "kind", {"a": "triple@1.0"})
            .add_shadow("double@1.0", ["triple@1.0"])
            .remove_step(2)
            .steps()
        )
        assert [step["kind"] for step in steps] == ["random_split", "key_split", "shadow"]
        assert other.add_validation("a", "true").remove_validation("a").validations() == {}
        with pytest.raises(BadPipeline, match="expected weights"):
            other.add_random_split([(0, "double@1.0")])
        assert other.clear().steps() == []
        other.remove()
        assert connection.value("pipeline:list()") == ["price"]
