"""One question to several living peers: merged answers, whole peers, ledgers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from peers.client import Answer
from query.errors import BadStatement, Problem
from query.ledger import State
from tests.wire.living import Living, living

pytestmark = pytest.mark.timeout(120)

READINGS = {"one": "[1, 2, 3]", "two": "[10, 20]", "three": "[]"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    async with living(tmp_path_factory.mktemp("split"), *READINGS) as made:
        for name, values in READINGS.items():
            text = f"//peer: {name}\ncreate function readings() -> Bag of Number as (select x from x in {values})"
            (await made.ask(text)).checked()
        yield made


def rows(answer: Answer) -> list[Any]:
    return [tuple(row.values) for row in answer.checked()]


def states(answer: Answer) -> dict[str, str]:
    return {outcome.peer: str(outcome) for ledger in answer.ledgers for outcome in ledger.outcomes}


ALL = {"ONE": "rows", "TWO": "rows", "THREE": "rows"}


@pytest.mark.parametrize("home", ["ns-admin", "ns", "one"])
@pytest.mark.asyncio(loop_scope="module")
async def test_one_answer_of_all(federation: Living, home: str) -> None:
    answer = await federation.ask("//peer: all\nselect avg(x), count(x), max(x) from x in readings()", home=home)
    assert rows(answer) == [(7.2, 5, 20)]
    assert answer.rows[0].peer is None
    assert states(answer) == ALL
