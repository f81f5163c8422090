"""Errors of the inference API: the status that agrees, the one form, and nothing of ours in what is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from engine.arrow import ArrowUnavailable
from engine.errors import (
    EngineBusy,
    InputProblem,
    ModelFailed,
    ModelLoading,
    ModelNotLoaded,
    NotOnnx,
    OverMemory,
    OverTime,
)
from peers.answers import TooBusy, Unauthorized, WrongMethod
from peers.content_coding import BadCoding, UnknownCoding
from peers.face_errors import face_error, status_on_face, told_on_face
from peers.pipeline_routes import WhichPipeline
from query.errors import DeadlinePassed, Forbidden, LimitExceeded, PeerProblem, Problem, UnknownName


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (InputProblem("x"), 400),
        (BadCoding("x"), 400),
        (WhichPipeline("x"), 400),
        (Unauthorized("x"), 401),
        (Forbidden("x"), 403),
        (PeerProblem("x"), 403),
        (UnknownName("x"), 404),
        (ModelNotLoaded("x"), 404),
        (WrongMethod("x", allowed=("POST",)), 405),
        (DeadlinePassed("x"), 408),
        (NotOnnx("x"), 409),
        (LimitExceeded("x"), 413),
        (UnknownCoding("x"), 415),
        (ArrowUnavailable("x"), 415),
        (TooBusy("x"), 429),
        (ModelFailed("x"), 500),
        (EngineBusy("x"), 503),
        (ModelLoading("x"), 503),
        (OverMemory("x"), 503),
        (OverTime("x"), 504),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Problem) else str(value),
)
def test_status_and_body_agree(problem: Problem, status: int) -> None:
    problem.hint = "a next step"
    answer = face_error(problem)
    assert (answer.status, status_on_face(problem)) == (status, status)
    assert told(answer) == {"error": "x", "code": problem.code, "hint": "a next step"}
    assert ("Retry-After" in answer.headers) is (status in (429, 503))
    assert answer.headers.get("Allow") == ("POST" if status == 405 else None)


async def test_what_is_ours_is_told_by_its_incident_alone(caplog: pytest.LogCaptureFixture) -> None:
    counted: list[str] = []

    async def breaking(request: web.Request) -> web.StreamResponse:
        raise {"/ours": ValueError("a secret of ours"), "/model": ModelFailed("node 7 divided by zero")}[request.path]

    for path, code in (("/ours", "internal"), ("/model", "model_failed")):
        answer = await told_on_face(breaking, refused=counted.append)(make_mocked_request("POST", path))
        assert isinstance(answer, web.Response)
        body = told(answer)
        assert (answer.status, body["code"]) == (500, code)
        assert "secret" not in body["error"]
        assert "zero" not in body["error"]
        record = caplog.records[-1]
        assert record.__dict__["incident"] in body["error"]
        assert record.exc_info is not None, "the log has the cause"
    assert counted == ["internal", "model_failed"]


def told(answer: web.Response) -> dict[str, Any]:
    assert answer.content_type == "application/json"
    assert isinstance(answer.body, bytes)
    read: dict[str, Any] = json.loads(answer.body)
    return read
