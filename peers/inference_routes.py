"""The Open Inference Protocol v2 on the application face: inference, metadata, readiness, statistics, the repository.

    GET  /v2/health/live  /v2/health/ready  /v2  /v2/models/stats
    GET  /v2/models/M[/versions/V]   …/ready  …/config  …/stats
    POST /v2/models/M[/versions/V]/infer
    POST /v2/repository/index        /v2/repository/models/M/load  …/unload

Owns the calls and what stands between them and the engine; bytes and tensors are of :mod:`engine.oip`, descriptions of
:mod:`peers.inference_descriptions`, errors of :mod:`peers.face_errors`.

Rules: success is exactly 200 and nothing else is. No version in the path means the one that is loaded. A request that
began with a version ends with it. More than ``requests_max`` requests at once are refused, as is more long work than
threads take; nothing queues without a bound. Only a release of this peer's repository can be loaded: a model that comes
with the request is refused. Load and unload are statements of whoever has the token, and recorded as such.
"""

from __future__ import annotations

from collections.abc import Collection
from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from aiohttp import hdrs, web
from multidict import istr

from engine.engine import Engine
from engine.errors import ModelLoading, ModelNotLoaded, PassingProblem
from engine.oip_errors import BadMessage, UnsupportedParameter
from engine.oip_messages import header_length_of, json_value, kind_of, shortened
from engine.servables import Servable
from peers.answers import TooBusy
from peers.content_coding import compressed, wanted_coding
from peers.face_errors import face_error
from peers.inference_bodies import LONG_BYTES, Bodies
from peers.inference_descriptions import (
    model_configuration,
    model_metadata,
    repository_index,
    server_metadata,
    statistics_entry,
)
from peers.tracing import note
from peers.whole_answers import BINARY, JSON, WholeAnswer, json_answer

if TYPE_CHECKING:
    from engine.oip import InferRequest
    from engine.oip import Protocol as ModelProtocol
    from engine.signature import Array

REQUESTS_MAX: Final = 1024  # inferences under way at once, from the first byte of the body to the last of the answer
LONG_ELEMENTS: Final = 16 * 1024  # of an answer's tensors, from which on their JSON is written beside the loop
NOT_READY: Final = "not_ready"
HEADER_LENGTH: Final = istr("Inference-Header-Content-Length")


class ModelRepository(Protocol):
    """Releases on this peer's disk, and a person's word on what is loaded of them."""

    async def installed(self) -> Collection[str]:
        """The names of the releases that are there."""
        ...

    async def load(self, name: str) -> None:
        """Raises why it cannot be; what answered before still does."""
        ...

    async def unload(self, name: str) -> None: ...


class Standing(Protocol):
    """Whether everything is loaded that should be."""

    def __call__(self) -> str | None:
        """What is not; None when the peer is ready."""
        ...


class InferenceRoutes:
    """Used from one event loop."""

    def __init__(
        self,
        engine: Engine,
        *,
        repository: ModelRepository,
        unready: Standing,
        version: str,
        bodies: Bodies | None = None,
        requests_max: int = REQUESTS_MAX,
        traced: bool = False,
    ) -> None:
        """``traced``: what is noted of an inference is read (:mod:`peers.tracing`)."""
        self._traced = traced
        self._engine = engine
        self._repository = repository
        self._unready = unready
        self._version = version
        self._bodies = bodies or Bodies()
        self._requests_max = requests_max
        self._under_way = 0
        self._known: dict[str, tuple[Servable, ModelProtocol]] = {}  # of what is loaded and was asked
        engine.subscribe(self._changed)

    @property
    def under_way(self) -> int:
        """Inferences that have begun and not ended."""
        return self._under_way

    def routes(self) -> tuple[web.RouteDef, ...]:
        """What needs no token on loopback."""
        return (
            web.get("/v2/health/live", self._tell_live),
            web.get("/v2/health/ready", self._tell_ready),
            web.get("/v2", self._tell_server),
            web.get("/v2/", self._tell_server),
            web.get("/v2/models/stats", self._tell_all_statistics),
            *(
                route
                for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
                for route in (
                    web.get(model, self._tell_model),
                    web.get(f"{model}/ready", self._tell_model_ready),
                    web.get(f"{model}/config", self._tell_configuration),
                    web.get(f"{model}/stats", self._tell_statistics),
                    web.post(f"{model}/infer", self._infer),
                )
            ),
            web.post("/v2/repository/index", self._tell_index),
        )

    def changing_routes(self) -> tuple[web.RouteDef, ...]:
        """What needs the token."""
        return (
            web.post("/v2/repository/models/{model}/load", self._load),
            web.post("/v2/repository/models/{model}/unload", self._unload),
        )

    def close(self) -> None:
        self._bodies.close()

    # --- inference --------------------------------------------------------------------------------------------------

    async def infer(self, request: web.BaseRequest, model: str, version: str | None) -> web.StreamResponse:
        """Answer one inference. Raises the problem that its answer tells."""
        if self._under_way >= self._requests_max:
            raise TooBusy(f"expected at most {self._requests_max} inferences at once, found more")
        self._under_way += 1
        try:
            return await self._inferred(request, model, version)
        finally:
            self._under_way -= 1

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        return await self.infer(request, request.match_info["model"], request.match_info.get("version"))

    async def _inferred(self, request: web.BaseRequest, model: str, version: str | None) -> web.StreamResponse:
        servable, protocol = self._known.get(model) or await self._wanted(model, version)
        body = self._bodies.at_once(request)
        if body is None:
            body = await self._bodies.read(request)
            if version != servable.version:  # what was not named is answered by what is loaded by now
                servable, protocol = self._known.get(model) or await self._wanted(model, version)
        if version is not None and version != servable.version:
            raise ModelNotLoaded(f"{model}@{shortened(version)} is not loaded here, {servable.label} is")
        if len(body) <= LONG_BYTES:
            return await self._answered(request, servable, protocol, body)
        with self._bodies.holding(body):
            return await self._answered(request, servable, protocol, body)

    async def _answered(
        self, request: web.BaseRequest, servable: Servable, protocol: ModelProtocol, body: bytes
    ) -> web.StreamResponse:
        headers = request.headers
        begun_ns = monotonic_ns()
        length = header_length_of(headers.get(HEADER_LENGTH))
        if len(body) > LONG_BYTES and (length is None or length > LONG_BYTES or protocol.has_texts):
            asked = await self._bodies.aside(lambda: protocol.read(body, length))
        else:
            asked = protocol.read(body, length)
        read_ns = monotonic_ns()
        deadline_s = asked.timeout_s
        if deadline_s is not None:
            deadline_s = max(0.0, deadline_s - (read_ns - begun_ns) / 1e9)
        if asked.stream is None and servable.runs_inline(asked.feed):
            outputs = servable.run(asked.feed)
        else:
            outputs = await self._engine.run(servable, asked.feed, deadline_s=deadline_s, stream=asked.stream)
        ran_ns = monotonic_ns()
        if _is_long(asked, outputs):
            answer, told = await self._bodies.aside(lambda: protocol.write(asked, outputs))
        else:
            answer, told = protocol.write(asked, outputs)
        written_ns = monotonic_ns()
        servable.counters.translated(read_ns - begun_ns, written_ns - ran_ns)
        if self._traced:
            parts = ("read", read_ns - begun_ns), (servable.label, ran_ns - read_ns), ("write", written_ns - ran_ns)
            note(request, time_ns() - (written_ns - begun_ns), parts, {"peerage.release": servable.label})
        kind, more = (JSON, b"") if told is None else (BINARY, b"Inference-Header-Content-Length: %d\r\n" % told)
        accepted = headers.get(hdrs.ACCEPT_ENCODING)
        if accepted is not None:
            coding = wanted_coding(accepted)
            if coding is not None:
                answer = await self._packed(answer, coding)
                more += b"Content-Encoding: %b\r\n" % coding.encode()
        return WholeAnswer(answer, kind=kind, more=more, held=self._bodies.hold_answer(len(answer)))

    async def _packed(self, answer: bytes, coding: Any) -> bytes:
        if len(answer) <= LONG_BYTES:
            return compressed(answer, coding)
        return await self._bodies.aside(lambda: compressed(answer, coding))

    async def _wanted(self, model: str, version: str | None) -> tuple[Servable, ModelProtocol]:
        """What an inference asks for; loaded for it where the device's owner lets it be. Raises why it is not there."""
        from engine.oip import Protocol as ModelProtocol  # no sooner: it brings numpy

        try:
            servable = await self._engine.wanted(model, version)
        except ModelNotLoaded as problem:
            await self._refuse_absent(model, problem)
            raise
        record = servable.record
        protocol = ModelProtocol(
            record.name,
            record.version,
            record.inputs,
            record.outputs,
            stateful=_keeps_state(servable),
            elements_max=self._engine.settings.elements_max,
        )
        if servable in self._engine.loaded():  # and not swapped since it was found
            self._known[record.name] = servable, protocol
        return servable, protocol

    def _changed(self, name: str, servable: Servable | None) -> None:
        """What was swapped or unloaded answers nobody from here any more, and stays in no memory."""
        self._known.pop(name, None)

    async def _found(self, model: str, version: str | None) -> Servable:
        """What is loaded. Raises why it is not."""
        try:
            servable = self._engine.find(model)
        except ModelNotLoaded as problem:
            await self._refuse_absent(model, problem)
            raise
        if version is not None and version != servable.version:
            raise ModelNotLoaded(f"{model}@{shortened(version)} is not loaded here, {servable.label} is")
        return servable

    async def _refuse_absent(self, model: str, problem: ModelNotLoaded) -> None:
        """Raises more of what is known of a model that is not loaded."""
        if any(servable.name == model for servable in self._engine.loaded()):
            return  # another version of it is
        for entry in self._engine.index():
            if entry.name == model and entry.state == "LOADING":
                raise ModelLoading(f"{model}@{entry.version} is being loaded: {entry.reason}")
            if entry.name == model and entry.state == "UNAVAILABLE":
                raise ModelNotLoaded(f"{model}@{entry.version} could not be loaded: {entry.reason}")
        if model in await self._repository.installed():
            raise ModelNotLoaded(
                f'"{model}" is installed here and not loaded',
                hint=f'POST /v2/repository/models/{model}/load, or models:load("{model}", VERSION)',
            ) from problem

    # --- what is told -----------------------------------------------------------------------------------------------

    async def _tell_live(self, request: web.Request) -> web.StreamResponse:
        return json_answer({"live": True})

    async def _tell_ready(self, request: web.Request) -> web.StreamResponse:
        reason = self._unready()
        if reason is None:
            return json_answer({"ready": True})
        return _not_ready("peerage", reason)

    async def _tell_server(self, request: web.Request) -> web.StreamResponse:
        return json_answer(server_metadata(self._version))

    async def _tell_model(self, request: web.Request) -> web.StreamResponse:
        return json_answer(model_metadata(await self._named(request)))

    async def _tell_configuration(self, request: web.Request) -> web.StreamResponse:
        return json_answer(model_configuration(await self._named(request)))

    async def _tell_model_ready(self, request: web.Request) -> web.StreamResponse:
        model = request.match_info["model"]
        try:
            await self._named(request)
        except (ModelNotLoaded, ModelLoading) as problem:
            if any(servable.name == model for servable in self._engine.loaded()):
                raise  # another version of it is ready
            known = {entry.name for entry in self._engine.index()}
            if model not in known and model not in await self._repository.installed():
                raise
            return _not_ready(model, problem.message)
        return json_answer({"name": model, "ready": True})

    async def _tell_statistics(self, request: web.Request) -> web.StreamResponse:
        servable = await self._named(request)
        return json_answer({"model_stats": [statistics_entry(servable.counters.read())]})

    async def _tell_all_statistics(self, request: web.Request) -> web.StreamResponse:
        found = (servable.counters.read() for servable in self._engine.loaded())
        return json_answer({"model_stats": [statistics_entry(one) for one in found]})

    async def _named(self, request: web.Request) -> Servable:
        return await self._found(request.match_info["model"], request.match_info.get("version"))

    # --- the repository ---------------------------------------------------------------------------------------------

    async def _tell_index(self, request: web.Request) -> web.StreamResponse:
        asked = await self._asked(request)
        ready_only = asked.get("ready", False)
        if ready_only.__class__ is not bool:
            raise BadMessage(f"expected ready to be true or false, found {kind_of(ready_only)}")
        installed = () if ready_only else await self._repository.installed()
        return json_answer(repository_index(self._engine.index(), installed, ready_only=ready_only))

    async def _load(self, request: web.Request) -> web.StreamResponse:
        parameters = _parameters(await self._asked(request))
        for name in parameters:
            raise UnsupportedParameter(
                f'load takes no parameter "{shortened(name)}"',
                hint="only a release of this peer's repository can be loaded: models:create_release makes one",
            )
        try:
            await self._repository.load(request.match_info["model"])
        except PassingProblem as problem:
            return face_error(problem, status=409)
        return WholeAnswer(b"")

    async def _unload(self, request: web.Request) -> web.StreamResponse:
        parameters = _parameters(await self._asked(request))
        if parameters.get("unload_dependents", False) is not False:
            raise UnsupportedParameter("unload takes no dependents with it: unload_dependents must be false")
        await self._repository.unload(request.match_info["model"])
        return WholeAnswer(b"")

    async def _asked(self, request: web.Request) -> dict[str, Any]:
        """The body of a repository call: absent, empty, or an object."""
        body = await self._bodies.read(request)
        if not body.strip():
            return {}
        try:
            asked = msgspec.json.decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            asked = json_value(body)
        if not isinstance(asked, dict):
            raise BadMessage(f"expected an object or nothing, found {kind_of(asked)}")
        return asked


def _keeps_state(servable: Servable) -> bool:
    """Whether requests may name a stream: of a stateful model, or of a pipeline with one in it."""
    from engine.pipelines import LoadedPipeline  # no sooner: it brings numpy

    if isinstance(servable, LoadedPipeline):
        return any(member.record.states for member in servable.members.values())
    return bool(servable.record.states)


def _parameters(asked: dict[str, Any]) -> dict[str, Any]:
    parameters = asked.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadMessage(f"expected parameters to be an object, found {kind_of(parameters)}")
    return parameters


def _not_ready(name: str, reason: str) -> web.StreamResponse:
    told = {
        "name": name,
        "ready": False,
        "reason": reason,
        "error": f"{name} is not ready: {reason}",
        "code": NOT_READY,
    }
    return json_answer(told, status=503, more=b"Retry-After: 5\r\n")


def _is_long(asked: InferRequest, outputs: dict[str, Array]) -> bool:
    """Whether writing the answer would hold up the loop: much JSON, or many texts."""
    elements = 0
    for output, binary in asked.wanted:
        array = outputs[output.name]
        if not binary or array.dtype.kind == "O":
            elements += array.size
    return elements > LONG_ELEMENTS
