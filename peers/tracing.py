"""Traces of requests, sent to the OTLP receiver that OpenTelemetry's own variables name.

Owns when that is so, the spans of a request, and the end of sending. Without it no handler is wrapped and nothing of
OpenTelemetry is imported, so that it costs nothing. The packages are the extra ``otel``.

Configured: ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` is set, or
``OTEL_TRACES_EXPORTER`` is ``otlp``; not when that is ``none`` or ``OTEL_SDK_DISABLED`` is true. Sampling, headers,
time-outs, limits and the resource follow the other ``OTEL_*`` variables. Only OTLP over HTTP is spoken; another
protocol or exporter is an entry in the log, and no trace.

A request that does something (POST) is a span of kind server, whose parent is the caller's by ``traceparent``, named by
method and route. Below it stands one span for each part that the handler noted (:func:`note`), one after the other.

Rules: a device that is AUTONOMOUS opens no connection for traces either: what is recorded then is dropped. Spans that
the receiver does not take in time are dropped by the queue of the SDK, which is bounded; a request never waits for it.
Names of parts are steps and releases, never what a request says.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs, web

from peers.answers import PATH_SHOWN
from peers.face_errors import status_on_face
from query.errors import Problem

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.trace import Span

ENDING_S_MAX: Final = 1.0  # for the spans that wait when the peer stops
PARTS_MAX: Final = 64  # spans below a request
TRUE: Final = "true"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger("peerage.tracing")


@dataclass(frozen=True, slots=True)
class Noted:
    """What a handler did for a request: ``parts`` are names and ns, one after the other from ``started_ns``, which is
    by ``time.time_ns``; ``about`` are attributes of the request's span.
    """

    started_ns: int
    parts: Sequence[tuple[str, int]]
    about: Mapping[str, str | int]


NOTED: Final = web.RequestKey("noted", Noted)
_NOTHING: Final = Noted(0, (), {})


def note(
    request: web.BaseRequest, started_ns: int, parts: Sequence[tuple[str, int]], about: Mapping[str, str | int]
) -> None:
    """Keep what was done for a request, where it is traced."""
    request[NOTED] = Noted(started_ns, parts, about)


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether traces are configured; tells the log when they are in a way that is not spoken here."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == TRUE:
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    named = any(
        environment.get(name, "").strip()
        for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    if exporter == "none" or not (exporter or named):
        return False
    if exporter not in ("", "otlp"):
        log.warning("no_traces", extra={"OTEL_TRACES_EXPORTER": exporter, "expected": "otlp or none"})
        return False
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol and protocol.strip().lower() != "http/protobuf":
        log.warning("no_traces", extra={"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "expected": "http/protobuf"})
        return False
    return True


def opened(
    environment: Mapping[str, str], *, version: str, instance: str, may_dial: Callable[[], bool]
) -> Tracing | None:
    """The tracing of a peer; None when it is not configured or cannot be, which the log tells.

    ``environment`` is this process's, which the SDK reads itself. ``may_dial`` is asked before anything is sent.
    """
    if not wanted(environment):
        return None
    try:
        return Tracing(version=version, instance=instance, may_dial=may_dial, named=_named(environment))
    except ImportError:
        log.warning("no_traces", extra={"reason": "OpenTelemetry is not installed", "hint": 'install "peerage[otel]"'})
    except ValueError as error:
        log.warning("no_traces", extra={"reason": f"an OTEL_ variable is wrong: {error}"})
    return None


def _named(environment: Mapping[str, str]) -> bool:
    return "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")


class Tracing:
    """Spans of requests. Used from one event loop; sends in a thread of its own."""

    def __init__(self, *, version: str, instance: str, may_dial: Callable[[], bool], named: bool) -> None:
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        _tell_as_we_do()
        about = {"service.version": version, "service.instance.id": instance}
        resource = Resource.create(about if named else {"service.name": "peerage", **about})
        session = requests.Session()
        session.headers["Connection"] = "close"  # none stays open when the device is to open none
        self._sending = _gated(OTLPSpanExporter(session=session), may_dial)
        self._processor = BatchSpanProcessor(self._sending)
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("peerage", version)

    def traced(self, route: str, handler: Answer) -> Answer:
        """``handler`` with a span around each request; ``route`` is its path as it was declared."""
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind

        tracer = self._tracer

        async def tracing(request: web.Request) -> web.StreamResponse:
            span = tracer.start_span(
                f"{request.method} {route}",
                context=propagate.extract(request.headers),
                kind=SpanKind.SERVER,
                attributes={
                    "http.request.method": request.method,
                    "http.route": route,
                    "url.path": request.path[:PATH_SHOWN],
                },
            )
            status = 500
            try:
                answer = await handler(request)
                status = answer.status
                return answer
            except Problem as problem:
                status = status_on_face(problem)
                raise
            except web.HTTPException as answer:
                status = answer.status
                raise
            finally:
                self._end(span, request, status)

        return tracing

    def routes(self, routes: Iterable[web.RouteDef]) -> tuple[web.RouteDef, ...]:
        """The same routes, those traced that do something: asking how a peer is makes no trace."""
        return tuple(
            web.RouteDef(one.method, one.path, self.traced(one.path, one.handler), dict(one.kwargs))
            if one.method == hdrs.METH_POST
            else one
            for one in routes
        )

    async def close(self) -> None:
        """Send what waits, for at most ``ENDING_S_MAX``, and end."""
        ended = threading.Thread(target=self._processor.shutdown, name="traces-ending", daemon=True)
        ended.start()
        await asyncio.to_thread(ended.join, ENDING_S_MAX)
        self._sending.shutdown()

    def _end(self, span: Span, request: web.Request, status: int) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        if not span.is_recording():
            span.end()
            return
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(Status(StatusCode.ERROR))
        noted = request.get(NOTED, _NOTHING)
        span.set_attributes(dict(noted.about))
        context = set_span_in_context(span)
        began_ns = noted.started_ns
        for name, taken_ns in noted.parts[:PARTS_MAX]:
            part = self._tracer.start_span(name, context=context, kind=SpanKind.INTERNAL, start_time=began_ns)
            began_ns += taken_ns
            part.end(end_time=began_ns)
        span.end(end_time=time.time_ns())


def _gated(exporter: Any, may_dial: Callable[[], bool]) -> Any:
    """``exporter``, which is asked to send only when the peer may dial."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Gated(SpanExporter):
        ended = False

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            if self.ended or not may_dial():
                return SpanExportResult.SUCCESS
            result: SpanExportResult = exporter.export(spans)
            return result

        def shutdown(self) -> None:
            if not self.ended:
                self.ended = True
                exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return True

    return Gated()


def _tell_as_we_do() -> None:
    """What the SDK tells goes where this peer's own log goes: warnings and worse, of its exporter that traces are lost,
    not each of its attempts.
    """
    theirs, ours = logging.getLogger("opentelemetry"), logging.getLogger("peerage")
    theirs.handlers = list(ours.handlers)
    theirs.propagate = not ours.handlers
    theirs.setLevel(logging.WARNING)
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
