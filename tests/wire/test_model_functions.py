"""The functions that a model brings: what they name must exist before anything is made of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.errors import BadFunctions
from tests.wire.living import Living, living, publisher_in

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path) as made:
        yield made


async def test_functions_that_could_not_be_called_are_refused_before_a_release_is_made(federation: Living) -> None:
    await publisher_in(federation)
    async with federation.connection("ada") as peer:
        script = next(
            entry for entry in files_of(await peer.value('models:create("thermo")')) if entry.suffix == ".pql"
        )
        good = script.read_text()
        for text, message in (
            ("create function warm(Real c) -> Real as warmer(c);", 'in warm: no function "warmer"'),
            (
                "create function doc(String name) -> Record as {};",
                '"doc" is a built-in function and cannot be replaced',
            ),
        ):
            script.write_text(text)
            for statement in (
                'models:test("thermo")',
                'models:create_release("thermo", "1.0")',
                'models:create_release("thermo", "1.0", {"test": false})',
            ):
                (problem,) = (await peer.query(statement)).errors
                assert isinstance(problem, BadFunctions), statement
                assert problem.message.startswith(message)
            assert await peer.value("models:installed()") == []
        script.write_text(good + "create function twice(Object v) -> Vector as [v, v];")
        assert (await peer.value('models:create_release("thermo", "1.0")'))["model"] == "thermo@1.0"


def files_of(folder: str) -> list[Path]:
    return list(Path(folder).iterdir())
