"""Traces reach a real OTLP receiver when they are configured, and cost nothing when they are not."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from peers.tracing import ENDING_S_MAX, Tracing, note, opened, wanted
from tests.serving.receiving import attributes, receiver

ROOT = Path(__file__).parents[2]
STARTED_NS = 1_800_000_000_000_000_000
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


async def answering(request: web.Request) -> web.StreamResponse:
    match request.match_info["name"]:
        case "broken":
            raise web.HTTPServiceUnavailable
        case "bad":
            return web.Response(status=400)
    note(request, STARTED_NS, [("parse", 1000), ("model price@1.0", 20_000)], {"peerage.release": "house@v"})
    return web.Response(text="done")


@asynccontextmanager
async def serving(tracing: Tracing) -> AsyncIterator[str]:
    application = web.Application()
    application.add_routes(tracing.routes([web.post("/pipelines/{name}", answering)]))
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def traced(monkeypatch: pytest.MonkeyPatch, url: str, *, may_dial: bool = True, **more: str) -> Tracing:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "20", **more}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = opened(environment, version="0.1.0", instance="uuid-of-the-peer", may_dial=lambda: may_dial)
    assert made is not None
    return made


async def test_a_request_is_a_span_with_its_parts_below(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as kept:
        tracing = traced(monkeypatch, kept.url, OTEL_EXPORTER_OTLP_HEADERS="x-team=edge")
        async with serving(tracing) as url, ClientSession() as session:
            parent = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
            async with session.post(f"{url}/pipelines/house", headers=parent) as answer:
                assert answer.status == 200
            spans = await asyncio.to_thread(kept.wait, 3)
        await tracing.close()
    parse, model, request = sorted(
        spans, key=lambda span: ["parse", "model price@1.0"].index(span.name) if span.kind == 1 else 9
    )
    assert (request.name, request.kind) == ("POST /pipelines/{name}", 2)
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, CALLER)
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/pipelines/{name}",
        "url.path": "/pipelines/house",
        "http.response.status_code": 200,
        "peerage.release": "house@v",
    }
    assert (parse.name, model.name) == ("parse", "model price@1.0")
    assert parse.parent_span_id == model.parent_span_id == request.span_id
    assert (parse.start_time_unix_nano, parse.end_time_unix_nano) == (STARTED_NS, STARTED_NS + 1000)
    assert (model.start_time_unix_nano, model.end_time_unix_nano) == (STARTED_NS + 1000, STARTED_NS + 21_000)
    assert kept.resource["service.name"] == "peerage"
    assert kept.resource["service.instance.id"] == "uuid-of-the-peer"
    assert kept.headers["x-team"] == "edge"


async def test_failures_and_unsampled_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as kept:
        tracing = traced(monkeypatch, kept.url, OTEL_SERVICE_NAME="ours")
        async with serving(tracing) as url, ClientSession() as session:
            unsampled = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
            for name, headers in (("house", unsampled), ("broken", {}), ("bad", {"traceparent": "not one"})):
                async with session.post(f"{url}/pipelines/{name}", headers=headers) as answer:
                    await answer.read()
            spans = await asyncio.to_thread(kept.wait, 2)
        await tracing.close()
    broken, bad = sorted(spans, key=lambda span: span.name and -attributes(span)["http.response.status_code"])
    assert len(kept.spans) == 2, "what the caller does not sample is not sent"
    assert (broken.status.code, attributes(broken)["error.type"]) == (2, "503")
    assert bad.status.code == 0, "a client's mistake is no failure of the server"
    assert bad.parent_span_id == b""
    assert kept.resource["service.name"] == "ours"


async def test_a_device_that_may_not_dial_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as kept:
        tracing = traced(monkeypatch, kept.url, may_dial=False)
        async with (
            serving(tracing) as url,
            ClientSession() as session,
            session.post(f"{url}/pipelines/house") as answer,
        ):
            assert answer.status == 200
        await tracing.close()
        assert kept.spans == []


async def test_a_receiver_that_is_gone_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        tracing = traced(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        async with serving(tracing) as url, ClientSession() as session:
            async with session.post(f"{url}/pipelines/house") as answer:
                assert answer.status == 200
            begun = time.monotonic()
            await tracing.close()
            assert time.monotonic() - begun < ENDING_S_MAX + 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "edge"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
    ],
)
def test_when_traces_are_configured(environment: dict[str, str], expected: bool) -> None:
    assert wanted(environment) is expected


def test_a_wrong_variable_is_told_and_the_peer_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert opened(environment, version="0.1.0", instance="x", may_dial=lambda: True) is None
    assert caplog.messages == ["no_traces"]


def test_nothing_is_imported_where_nothing_is_configured() -> None:
    program = (
        "import sys; from peers.tracing import opened; "
        "print(opened({}, version='', instance='', may_dial=bool), 'opentelemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "False"]


def test_a_peer_without_the_extra_says_so_and_goes_on() -> None:
    program = """
import logging, sys
logging.basicConfig(format="%(message)s %(hint)s", stream=sys.stdout)
sys.modules["opentelemetry"] = None
from peers.tracing import opened
environment = {"OTEL_TRACES_EXPORTER": "otlp"}
print(opened(environment, version="", instance="", may_dial=bool))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ['no_traces install "peerage[otel]"', "None"]
