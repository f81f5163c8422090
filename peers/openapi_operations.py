"""Every operation of a peer's application face, as the OpenAPI document tells it.

Owns the table; a test holds it to the routes that are served. ``GET /openapi.json`` answers the document, which says
nothing of one peer and needs no token.
"""

from __future__ import annotations

import functools
from importlib.metadata import version
from typing import Annotated, Any, Final

from aiohttp import web
from msgspec import Meta

from engine.oip_messages import Message
from peers import face_bodies as bodies
from peers.openapi import JSON_TYPE, Body, Operation, Parameter, document, encode_document
from peers.requests import StatementRequest
from peers.whole_answers import WholeAnswer
from query.frames import Frame

ARROW_FILE: Final = "application/vnd.apache.arrow.file"
ARROW_STREAM: Final = "application/vnd.apache.arrow.stream"
BINARY: Final = "application/octet-stream"
BYTES: Final = {"type": "string", "contentMediaType": BINARY}
TEXT: Final = {"type": "string"}
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"

SAYS: Final = """\
What programs and people on a device ask of its peer. On loopback, inference, health and metrics need no token; \
statements, loading and unloading, and the log do, or come over the Unix socket in the peer's home. Bound to another \
address, everything needs TLS and the token.

Inference has two protocols: the Open Inference Protocol v2 with binary tensors, for models and pipelines, and that of \
pipeline servers, with JSON records or Arrow, for pipelines."""

ALWAYS: Final = (401, 403, 405, 500)
READS_BODY: Final = (400, 408, 413, 415, 429)
RUNS: Final = (404, 503, 504)

OIP: Final = "Open Inference Protocol"
REPOSITORY: Final = "Model repository"
PIPELINES: Final = "Pipelines"
PEER: Final = "This peer"

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
NAME: Final = Parameter("name", "path", "name of a model or pipeline; `stats` is none", Name)
RELEASE: Final = Parameter("version", "path", "the version that is loaded; another one is unknown", Name)
HEADER_LENGTH: Final = Parameter(
    "Inference-Header-Content-Length",
    "header",
    "bytes of the JSON before the binary tensors; 0: the body is the one tensor of the model",
    Annotated[int, Meta(ge=0)],
)
STREAM: Final = (
    Parameter(
        "stream",
        "query",
        "key of a stream that a stateful model goes along; rows are moments of it, in their order",
        Annotated[str, Meta(min_length=1, max_length=256)],
    ),
    Parameter("stream_start", "query", "true: begin it anew; false: it must be open; absent: whichever it is", bool),
    Parameter("stream_end", "query", "true: forget it after this request", bool),
)
DATASET: Final = tuple(
    Parameter(name, "query", says, Annotated[str, Meta(max_length=2000)])
    for name, says in (
        (
            "dataset",
            "groups or columns to answer, a comma list or repeated: `out`, `in.price`, `*` for all but `metadata`",
        ),
        ("dataset_exclude", "groups or columns to leave out"),
    )
)


def _json(says: str, kind: Any, **about: Any) -> Body:
    return Body(says, {JSON_TYPE: kind}, **about)


def _of_models(suffix: str, name: str, says: str, answers: dict[int, Body], **about: Any) -> tuple[Operation, ...]:
    """An operation on a model, by name and by name and version."""
    method = about.pop("method", "GET")
    return tuple(
        Operation(
            method,
            f"/v2/models/{{name}}{versioned}{suffix}",
            name + ("OfVersion" if versioned else ""),
            OIP,
            says,
            answers,
            parameters=(NAME, *((RELEASE,) if versioned else ()), *about.get("more", ())),
            errors=about.get("errors", (*ALWAYS, 404)),
            request=about.get("request"),
            required=about.get("request") is not None,
        )
        for versioned in ("", "/versions/{version}")
    )


def _oip() -> tuple[Operation, ...]:
    ready = _json("whether everything that should be loaded is", bodies.Ready)
    metadata = _json("name, version and extensions", bodies.ServerMetadata)
    infer = Body(
        "outputs as JSON, or as JSON and then binary tensors, where they are asked for so",
        {JSON_TYPE: bodies.InferenceAnswer, BINARY: BYTES},
        headers={"Inference-Header-Content-Length": "bytes of the JSON before binary tensors"},
    )
    request = Body(
        "inputs as JSON, or as JSON and then binary tensors; any Content-Type is taken",
        {JSON_TYPE: Message, BINARY: BYTES},
        example={"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]},
    )
    not_ready = _json("not ready, and why", bodies.ModelReady)
    return (
        Operation("GET", "/v2", "serverMetadata", OIP, "What this server is", {200: metadata}, ALWAYS),
        Operation("GET", "/v2/", "serverMetadataToo", OIP, "What this server is", {200: metadata}, ALWAYS),
        Operation(
            "GET",
            "/v2/health/live",
            "live",
            OIP,
            "Whether the peer answers",
            {200: _json("it does", bodies.Live)},
            ALWAYS,
        ),
        Operation(
            "GET", "/v2/health/ready", "ready", OIP, "Whether the peer is ready", {200: ready, 503: ready}, ALWAYS
        ),
        *_of_models("", "metadata", "What a model takes and gives", {200: _json("metadata", bodies.ModelMetadata)}),
        *_of_models(
            "/ready",
            "modelReady",
            "Whether a model is loaded",
            {200: _json("it is", bodies.ModelReady), 503: not_ready},
        ),
        *_of_models("/config", "config", "How it is set", {200: _json("configuration", bodies.ModelConfiguration)}),
        *_of_models("/stats", "stats", "What it answered", {200: _json("statistics", bodies.ModelStatisticsList)}),
        Operation(
            "GET",
            "/v2/models/stats",
            "statsOfAll",
            OIP,
            "What all models answered",
            {200: _json("statistics", bodies.ModelStatisticsList)},
            ALWAYS,
        ),
        *_of_models(
            "/infer",
            "infer",
            "Inference on a model or pipeline",
            {200: infer},
            method="POST",
            request=request,
            errors=(*ALWAYS, *READS_BODY, *RUNS),
            more=(HEADER_LENGTH,),
        ),
    )


def _repository() -> tuple[Operation, ...]:
    empty = Body("done; an empty body", {})
    changes = (*ALWAYS, *READS_BODY, 404, 409, 503)
    load = _json("parameters, of which none that bring a model along are taken", bodies.LoadRequest)
    return (
        Operation(
            "POST",
            "/v2/repository/index",
            "index",
            REPOSITORY,
            "What is loaded, loading, installed, or could not be loaded",
            {200: _json("entries", tuple[bodies.RepositoryEntry, ...])},
            (*ALWAYS, *READS_BODY),
            request=_json("absent, empty, or a filter", bodies.IndexRequest),
        ),
        *(
            Operation(
                "POST",
                f"/v2/repository/models/{{name}}/{verb}",
                verb,
                REPOSITORY,
                says,
                {200: empty},
                changes,
                request=load,
                parameters=(NAME,),
                token=True,
            )
            for verb, says in (
                ("load", "Load an installed release, until its groups say otherwise"),
                ("unload", "Take a model or pipeline out of memory, until its groups say otherwise"),
            )
        ),
    )


def _pipelines() -> tuple[Operation, ...]:
    rows = tuple[bodies.InferenceRow, ...]
    answer = Body("one row for each row of the request", {JSON_TYPE: rows, ARROW_FILE: BYTES, ARROW_STREAM: BYTES})
    records = Annotated[list[dict[str, Any]], Meta(min_length=1)]
    request = Body(
        "JSON records, one object a row; or an Arrow IPC file or stream. Any other Content-Type is JSON",
        {JSON_TYPE: records, ARROW_FILE: BYTES, ARROW_STREAM: BYTES},
        example=[{"x": [1, 2, 3, 4]}],
    )
    errors = (*ALWAYS, *READS_BODY, *RUNS)
    rows_of_log = Body(
        "a page of rows",
        {JSON_TYPE: tuple[bodies.LoggedRow, ...]},
        headers={
            "x-iteration-status": "`All`, `RecordLimited` or `ByteLimited`",
            "x-iteration-cursor": "where to go on; absent after `All`",
            "Peerage-Missing-Rows": "rows that lay in between and are no more",
        },
    )
    unknown = _json("a list of one text", Annotated[list[str], Meta(min_length=1, max_length=1)])
    return (
        Operation(
            "GET", "/pipelines", "listPipelines", PIPELINES, "The pipelines of this peer",
            {200: _json("names, versions and whether they run", bodies.PipelineList)}, ALWAYS,
        ),
        Operation(
            "GET", "/models", "listModels", PIPELINES, "The models in this peer's memory",
            {200: _json("names, versions and digests", bodies.ModelList)}, ALWAYS,
        ),
        Operation(
            "POST", "/infer", "inferOnTheOne", PIPELINES, "Inference on the pipeline that is loaded, when it is one",
            {200: answer}, errors, request=request, required=True, parameters=(*DATASET, *STREAM),
        ),
        Operation(
            "POST", "/pipelines/{name}", "inferOnPipeline", PIPELINES, "Inference on a pipeline",
            {200: answer, 404: unknown}, errors, request=request, required=True,
            parameters=(Parameter("name", "path", "name of a pipeline", Name), *DATASET, *STREAM),
        ),
        Operation(
            "POST", "/logs", "logs", PIPELINES, "Rows of this peer's inference log, the oldest first",
            {200: rows_of_log}, (*ALWAYS, *READS_BODY, 404),
            request=_json("absent, empty, or what is wanted", bodies.LogsRequest), parameters=DATASET, token=True,
        ),
        Operation(
            "GET", "/healthz", "healthz", PIPELINES, "Whether this peer is ready",
            {200: _json("it is", bodies.Ready), 503: _json("it is not", bodies.Ready)}, ALWAYS,
        ),
    )  # fmt: skip


def _peer() -> tuple[Operation, ...]:
    health = _json("health", bodies.Health)
    metrics = Body(
        "Prometheus's text, or OpenMetrics where it is asked for",
        {"text/plain": TEXT, "application/openmetrics-text": TEXT},
    )
    frames = Body(
        "frames, one a line, each a JSON object",
        {"application/x-ndjson": Frame},
        headers={"Peerage-Query": "the id by which the query can be cancelled"},
    )
    return (
        Operation("GET", "/metrics", "metrics", PEER, "What this peer has counted", {200: metrics}, ALWAYS),
        Operation(
            "GET", "/openapi.json", "openapi", PEER, "This document",
            {200: _json("the document", dict[str, Any])}, ALWAYS,
        ),
        Operation(
            "GET", "/v1/health", "health", PEER, "Who this peer is, and how it is", {200: health, 503: health},
            (403, 405, 500), error=bodies.ErrorOfV1,
        ),
        Operation(
            "POST", "/v1/query", "query", PEER, "Run a script of PQL", {200: frames},
            (400, 403, 404, 405, 408, 413, 429, 500, 503), error=bodies.ErrorOfV1,
            request=_json("a script and its parameters", StatementRequest, example={"text": "1 + 1"}),
            required=True, token=True,
        ),
    )  # fmt: skip


OPERATIONS: Final = (*_oip(), *_repository(), *_pipelines(), *_peer())


@functools.cache
def face_document() -> bytes:
    """The document of the application face."""
    return encode_document(
        document(
            OPERATIONS,
            title="Peerage, the application face of a peer",
            says=SAYS,
            version=version("peerage"),
            error=bodies.FaceError,
        )
    )


def openapi_routes() -> tuple[web.RouteDef, ...]:
    async def tell(request: web.Request) -> web.StreamResponse:
        return WholeAnswer(face_document())

    return (web.get("/openapi.json", tell),)
