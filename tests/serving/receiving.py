"""A real OTLP/HTTP receiver on 127.0.0.1 that keeps the spans it was sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Receiver:
    """``spans`` as they came, ``resource`` of the last ones; :meth:`wait` until there are so many."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    resource: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    _arrived: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        message = ExportTraceServiceRequest.FromString(body)
        with self._arrived:
            self.headers = headers
            for of_resource in message.resource_spans:
                self.resource = {one.key: one.value.string_value for one in of_resource.resource.attributes}
                for of_scope in of_resource.scope_spans:
                    self.spans.extend(of_scope.spans)
            self._arrived.notify_all()

    def wait(self, count: int, *, trace: str | None = None, timeout_s: float = 20.0) -> list[Any]:
        """The spans, of one trace or of all, once there are so many."""

        def found() -> list[Any]:
            return [one for one in self.spans if trace in (None, one.trace_id.hex())]

        with self._arrived:
            assert self._arrived.wait_for(lambda: len(found()) >= count, timeout_s), self.spans
            return found()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@contextmanager
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            kept.take(body, dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    kept.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield kept
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
