"""The OpenAPI document says what is served, all of it, and requests made from it find a peer that keeps its word."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from peers.gates import SocketGate
from peers.openapi_operations import OPERATIONS, face_document
from tests.serving.face import serving
from tests.serving.peering import Served, served

ROOT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = json.loads(face_document())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
EXAMPLES = 10  # an operation and mode
NAMES = ("pipe", "double", "no-such")
BODIES = {
    "/v2/models/": {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]},
    "/infer": [{"x": [1, 2, 3, 4]}],
    "/pipelines/": [{"x": [1, 2, 3, 4]}, {"x": [0, 0, 0, 0.5]}],
}
# Random data rarely is what a model takes, so refusing it proves nothing; and what is unknown is passed over, as these
# protocols want, so taking it proves nothing either.
NOT_ASKED = ("positive_data_acceptance", "negative_data_rejection", "missing_required_header", "not_a_server_error")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """An edge with the pipeline "pipe" and the model "double"."""
    async with served(tmp_path_factory.mktemp("face")) as edge:
        yield edge


def operations() -> Iterator[Any]:
    for one in OPERATIONS:
        for mode in GenerationMode:
            asks = one.request is not None or one.parameters
            if mode is GenerationMode.POSITIVE or asks:
                yield pytest.param(one.path, one.method, mode, id=f"{one.method} {one.path} {mode.value}")


@pytest.mark.parametrize(("path", "method", "mode"), tuple(operations()))
@pytest.mark.asyncio(loop_scope="module")
async def test_the_peer_keeps_to_its_document(edge: Served, path: str, method: str, mode: GenerationMode) -> None:
    cases = SCHEMA[path][method].as_strategy(generation_mode=mode)
    checks = [check for check in CHECKS.get_all() if check.__name__ not in NOT_ASKED]
    sent = next((body for start, body in BODIES.items() if path.startswith(start)), None)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, name=st.sampled_from((None, *NAMES)), sensible=st.booleans(), shows=st.booleans())
    def check(case: Any, name: str | None, sensible: bool, shows: bool) -> None:
        if name is not None and "name" in (case.path_parameters or {}):
            case.path_parameters["name"] = "no-such" if path.startswith("/v2/repository") else name
            if "version" in case.path_parameters:
                case.path_parameters["version"] = "1.0"
        if sensible and sent is not None:
            case.body, case.media_type = sent, "application/json"
        headers = {"Authorization": f"Bearer {edge.token}"} if shows and path != "/v1/query" else {}
        answer = case.call_and_validate(base_url=edge.url, headers=headers, checks=checks)
        assert answer.status_code < 500 or (answer.status_code, path[-6:]) == (503, "/ready"), answer.text

    await asyncio.to_thread(check)


async def test_every_route_is_in_the_document_and_nothing_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as face:
        router = face.parts.listener.application(SocketGate()).router
        found = {
            (route.method, route.resource.canonical.replace("{model}", "{name}"))
            for route in router.routes()
            if route.resource is not None and not route.resource.canonical.endswith("{rest}") and route.method != "HEAD"
        }
        assert found == {(one.method, one.path) for one in OPERATIONS}
        reply = await face.ask("GET", "/openapi.json")
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        assert reply.body == face_document()


def test_the_document_lies_in_the_documentation() -> None:
    assert face_document() == (ROOT / "docs" / "openapi.json").read_bytes(), "make docs"


def test_the_document_is_one() -> None:
    SCHEMA.validate()
    assert DOCUMENT["openapi"].startswith("3.1")
    names = [one.name for one in OPERATIONS]
    assert len(set(names)) == len(names)


def test_no_text_has_the_marks_of_our_source() -> None:
    text = face_document().decode()
    assert "``" not in text
    assert ":mod:" not in text
    assert "shared_memory" not in text, "what is read only to be refused is not told"
