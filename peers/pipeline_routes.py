"""The pipeline server's face: inference on pipelines with records or Arrow, in and out.

    GET  /pipelines          {"pipelines": [{id, version, status}]}, Running or Error
    GET  /models             {"models": [{name, version, sha, status, model_version_id}]}, in pipelines and alone
    POST /infer              on the pipeline that is loaded, when it is one
    POST /pipelines/{name}   on the pipeline of that name
    GET  /healthz            whether this peer is ready

Owns what each of them reads and answers. A body that begins as Arrow does, or is said to be Arrow, is an IPC file or
stream; everything else is JSON records, whatever its Content-Type says. ``Accept`` chooses the answer: records unless
Arrow is asked for. ``dataset`` and ``dataset_exclude`` choose its columns (:mod:`engine.records`), and are checked
before anything runs. ``stream``, ``stream_start`` and ``stream_end`` let a pipeline with a stateful model go along a
stream; where it is then, stands in the header lines Peerage-Stream-Position and Peerage-Stream-Restarted.

Rules: what a client sends is checked as strictly as elsewhere; a column that is flat, or of one element, is taken for
the shape of its input when that is the only way to read it. Long bodies are read and written in a thread. Errors are
those of the inference API (:mod:`peers.face_errors`), but for an unknown pipeline, which is a JSON list of one
text. A pipeline that is loaded for the first time is neither Running nor Error: it is not listed, and answers 503.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

from aiohttp import hdrs, web

from engine.engine import Engine
from engine.errors import InputProblem, ModelLoading, ModelNotLoaded
from federation.pipelines import Shadow
from peers.answers import TooBusy
from peers.content_coding import compressed, wanted_coding
from peers.face_bodies import ModelEntry, ModelList, PipelineEntry, PipelineList
from peers.inference_bodies import LONG_BYTES, Bodies
from peers.tracing import note
from peers.whole_answers import WholeAnswer, json_answer
from query.errors import UnknownName, UserProblem

if TYPE_CHECKING:
    from engine.inferences import Inference
    from engine.pipelines import LoadedPipeline
    from engine.records import Query, Selection
    from engine.servables import Servable
    from engine.signature import Array, Signature
    from engine.streams import StreamCall

REQUESTS_MAX: Final = 1024  # inferences under way at once, from the first byte of the body to the last of the answer
LONG_ELEMENTS: Final = 16 * 1024  # of an answer, which is written beside the loop from here on
ARROW_BYTES_MAX: Final = 64 * 1024 * 1024  # of an Arrow body when it is decompressed
ACCEPTED_MAX: Final = 16  # media ranges of an Accept that are looked at

T = TypeVar("T")

Form = Literal["records", "arrow_file", "arrow_stream"]
_KINDS: Final[dict[Form, bytes]] = {
    "records": b"application/json; format=pandas-records",
    "arrow_file": b"application/vnd.apache.arrow.file",
    "arrow_stream": b"application/vnd.apache.arrow.stream",
}
_FORMS: Final[dict[str, Form]] = {
    "application/vnd.apache.arrow.file": "arrow_file",
    "application/vnd.apache.arrow.stream": "arrow_stream",
    "application/json": "records",
    "application/*": "records",
    "*/*": "records",
}


class WhichPipeline(UserProblem):
    """Several pipelines are loaded, and the request names none."""

    code = "which_pipeline"


class _Asked(NamedTuple):
    """What a request's head says of its answer."""

    selection: Selection
    stream: StreamCall | None
    form: Form


class PipelineFace:
    """The handlers. ``ready``: whether everything that should be loaded is; ``traced``: what is noted of an inference
    is read (:mod:`peers.tracing`).
    """

    def __init__(
        self,
        engine: Engine,
        *,
        bodies: Bodies,
        ready: Callable[[], bool],
        requests_max: int = REQUESTS_MAX,
        traced: bool = False,
    ) -> None:
        self._traced = traced
        self._requests_max = requests_max
        self._under_way = 0
        self._engine = engine
        self._bodies = bodies
        self._ready = ready

    @property
    def under_way(self) -> int:
        """Inferences that have begun and not ended."""
        return self._under_way

    def routes(self) -> tuple[web.RouteDef, ...]:
        """For the application face; on loopback none of them needs a token."""
        return (
            web.get("/pipelines", self.list_pipelines),
            web.get("/models", self.list_models),
            web.post("/infer", self.infer),
            web.post("/pipelines/{name}", self.infer_by_name),
            web.get("/healthz", self.tell_health),
        )

    async def list_pipelines(self, request: web.Request) -> web.StreamResponse:
        """The pipelines that run here, and those that could not be loaded."""
        running = [one for one in self._engine.loaded() if one.record.kind == "pipeline"]
        listed = {one.name: PipelineEntry(one.name, one.version, "Running") for one in running}
        for entry in self._engine.index():
            if entry.kind == "pipeline" and entry.state == "UNAVAILABLE" and entry.name not in listed:
                listed[entry.name] = PipelineEntry(entry.name, entry.version, "Error")
        return json_answer(PipelineList(tuple(listed.values())))

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        """The models in this peer's memory, alone or in a pipeline."""
        listed: dict[str, ModelEntry] = {}
        for one in self._engine.loaded():
            for model in _models_of(one):
                graph = next((entry.digest for entry in model.record.files if entry.kind == "weight"), "")
                listed[model.record_digest] = ModelEntry(
                    name=model.name,
                    version=model.version,
                    sha=graph.removeprefix("sha256:"),
                    status="Running",
                    model_version_id=model.record_digest,
                )
        return json_answer(ModelList(tuple(listed.values())))

    async def tell_health(self, request: web.Request) -> web.StreamResponse:
        """Whether this peer is ready to infer."""
        ready = self._ready()
        return json_answer({"ready": ready}, status=200 if ready else 503)

    async def infer(self, request: web.Request) -> web.StreamResponse:
        """Inference on the pipeline that is loaded."""
        found = [one for one in self._engine.loaded() if one.record.kind == "pipeline"]
        if len(found) == 1:
            return await self._inferred(request, _pipeline(found[0]))
        if found:
            names = ", ".join(f'"{one.name}"' for one in found)
            raise WhichPipeline(f"expected one loaded pipeline, found {names}", hint="POST /pipelines/NAME names one")
        if any(entry.kind == "pipeline" and entry.state == "LOADING" for entry in self._engine.index()):
            raise ModelLoading("a pipeline is being loaded here for the first time")
        raise UnknownName("no pipeline is loaded here", hint="GET /pipelines lists those that are")

    async def infer_by_name(self, request: web.Request) -> web.StreamResponse:
        """Inference on the pipeline of that name."""
        name = request.match_info["name"]
        try:
            found = await self._engine.wanted(name)
        except ModelNotLoaded:
            for entry in self._engine.index():
                if (entry.name, entry.kind, entry.state) == (name, "pipeline", "LOADING"):
                    raise ModelLoading(f'pipeline "{name}" is being loaded here for the first time') from None
        else:
            if found.record.kind == "pipeline":
                return await self._inferred(request, _pipeline(found))
        return json_answer([f"Pipeline with id {name[:200]} not found"], status=404)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _inferred(self, request: web.Request, pipeline: LoadedPipeline) -> web.StreamResponse:
        if self._under_way >= self._requests_max:
            raise TooBusy(f"expected at most {self._requests_max} inferences at once, found more")
        self._under_way += 1
        try:
            return await self._answered(request, pipeline)
        finally:
            self._under_way -= 1

    async def _answered(self, request: web.Request, pipeline: LoadedPipeline) -> web.StreamResponse:
        asked = _Asked(
            selection_of(request.query, pipeline),
            stream_of(request.query),
            form_of(request.headers.getall(hdrs.ACCEPT, ())),
        )
        body = await self._bodies.read(request)
        if len(body) < LONG_BYTES:
            return await self._computed(request, pipeline, asked, body)
        with self._bodies.holding(body):
            return await self._computed(request, pipeline, asked, body)

    async def _computed(
        self, request: web.Request, pipeline: LoadedPipeline, asked: _Asked, body: bytes
    ) -> web.StreamResponse:
        headers = request.headers
        selection, stream, form = asked
        is_arrow = body.startswith(b"ARROW1") or "apache.arrow" in headers.get(hdrs.CONTENT_TYPE, "").lower()
        if is_arrow or form != "records":
            await _arrow_loaded()
        started_ns, before_ns = time.time_ns(), time.perf_counter_ns()
        long = len(body) >= LONG_BYTES
        columns = await self._beside(long, lambda: columns_of(body, pipeline, is_arrow=is_arrow))
        parsed_ns = time.perf_counter_ns() - before_ns
        inference = await pipeline.infer(columns, parsed_ns=parsed_ns, stream=stream)
        inferred_ns = time.perf_counter_ns()
        answer = await self._written(inference, selection, form)
        written_ns = time.perf_counter_ns() - inferred_ns
        pipeline.counters.translated(parsed_ns, written_ns)
        if self._traced:
            labels = ("read", *(step.label for step in pipeline.steps), "write")
            parts = zip(labels, (*inference.elapsed_ns, written_ns), strict=False)  # a trace fails no request
            note(
                request, started_ns, tuple(parts), {"peerage.release": pipeline.label, "peerage.rows": inference.count}
            )
        more = b"" if stream is None else stream_lines(stream)
        coding = wanted_coding(headers.get(hdrs.ACCEPT_ENCODING))
        if coding is None:
            return WholeAnswer(answer, kind=_KINDS[form], more=more, held=self._bodies.hold_answer(len(answer)))
        packed = await self._beside(len(answer) >= LONG_BYTES, lambda: compressed(answer, coding))
        more += b"Content-Encoding: %b\r\n" % coding.encode()
        return WholeAnswer(packed, kind=_KINDS[form], more=more, held=self._bodies.hold_answer(len(packed)))

    async def _written(self, inference: Inference, selection: Selection, form: Form) -> bytes:
        groups = (inference.inputs, inference.outputs, *inference.challengers.values())
        long = sum(column.size for group in groups for column in group.values()) >= LONG_ELEMENTS
        return await self._beside(long, lambda: written(inference, selection, form))

    async def _beside(self, long: bool, work: Callable[[], T]) -> T:
        return await self._bodies.aside(work) if long else work()


def _pipeline(servable: Servable) -> LoadedPipeline:
    from engine.pipelines import LoadedPipeline

    assert isinstance(servable, LoadedPipeline)
    return servable


def _models_of(servable: Servable) -> Iterable[Servable]:
    return (servable,) if servable.record.kind != "pipeline" else _pipeline(servable).members.values()


def selection_of(query: Query, pipeline: LoadedPipeline) -> Selection:
    """The columns that a request asks for. Raises ``InputProblem`` for those that its answer will not have."""
    from engine.records import METADATA, Selection

    selection = Selection.of_query(query)
    if selection.everything:
        return selection
    steps = pipeline.definition.steps
    challengers = [model.name for step in steps if isinstance(step, Shadow) for model in step.challengers]
    columns: dict[str, Sequence[str] | None] = {
        "time": (),
        "in": [spec.name for spec in pipeline.record.inputs],
        "out": [spec.name for spec in pipeline.record.outputs],
        **{f"out_{name}": None for name in challengers},
        "anomaly": ["count", *(validation.name for validation in pipeline.definition.validations)],
        "metadata": METADATA,
    }
    selection.check(columns)
    return selection


def stream_of(query: Mapping[str, str]) -> StreamCall | None:
    """The stream that a request of a pipeline with a stateful model names. Raises ``InputProblem``."""
    key = query.get("stream")
    if key is None:
        return None
    from engine.streams import StreamCall

    return StreamCall(key=key, start=_flag(query, "stream_start"), end=_flag(query, "stream_end") is True)


def _flag(query: Mapping[str, str], name: str) -> bool | None:
    found = query.get(name)
    if found not in (None, "true", "false"):
        raise InputProblem(f'{name}: expected true or false, found "{found[:80]}"')
    return None if found is None else found == "true"


def stream_lines(stream: StreamCall) -> bytes:
    """Header lines that say where a stream is after a call, and why it began anew when it was open before."""
    lines = b"Peerage-Stream-Position: %d\r\n" % stream.position
    return lines + (b"Peerage-Stream-Restarted: %b\r\n" % stream.restarted.encode() if stream.restarted else b"")


def form_of(accepted: Sequence[str]) -> Form:
    """What ``Accept`` asks for: the known form with the greatest weight, the first of those; records when none is."""
    best: Form = "records"
    weight = 0.0
    for part in ",".join(accepted).split(",", ACCEPTED_MAX)[:ACCEPTED_MAX]:
        kind, *parameters = part.split(";")
        form = _FORMS.get(kind.strip().lower())
        found = next((one.strip()[2:] for one in parameters if one.strip().lower().startswith("q=")), "1")
        try:
            wanted = float(found)
        except ValueError:
            wanted = 0.0
        if form is not None and wanted > weight:
            best, weight = form, wanted
    return best


def columns_of(body: bytes, pipeline: LoadedPipeline, *, is_arrow: bool) -> dict[str, Array]:
    """A request's body as the pipeline's columns. Raises ``InputProblem``, ``LimitExceeded``, ``ArrowUnavailable``."""
    if is_arrow:
        from engine.arrow import columns_of_arrow

        return fitted(columns_of_arrow(body, bytes_max=ARROW_BYTES_MAX), pipeline.signature)
    from engine.records import decode_records

    return pipeline.columns_of(decode_records(body))


def fitted(columns: dict[str, Array], signature: Signature) -> dict[str, Array]:
    """Columns in the shape of their inputs, where they are flat and there is one way to see it."""
    for spec in signature.inputs:
        column, inner = columns.get(spec.name), spec.shape[1:]
        if column is None or column.ndim == len(spec.shape) or column.ndim > 2 or any(size < 0 for size in inner):
            continue
        if math.prod(column.shape[1:]) == math.prod(inner):
            columns[spec.name] = column.reshape(len(column), *inner)
    return columns


def written(inference: Inference, selection: Selection, form: Form) -> bytes:
    """An inference as it was asked for."""
    if form == "records":
        from engine.records import encode_rows

        return encode_rows(inference, selection)
    from engine.arrow import arrow_of

    return arrow_of(inference, selection, stream=form == "arrow_stream")


async def _arrow_loaded() -> None:
    """pyarrow, imported in a thread. Raises ``ArrowUnavailable``."""
    if "pyarrow" not in sys.modules:
        from engine.arrow import load_arrow

        await asyncio.to_thread(load_arrow)
