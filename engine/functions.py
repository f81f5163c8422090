"""The functions of the language that concern models in this peer's memory and folders on its disk.

Loading, releasing and publishing are declared where peers meet (peers/model_functions); here is what one peer can say
and do alone. ``open_folder`` turns a folder into a verified development release, or raises why it may not be one here;
``find_release`` finds a release that is installed here, None when it is not.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.engine import Engine
from engine.errors import ModelNotLoaded
from engine.template_folder import create_folder, folders
from federation.documents import ReleaseRecord, TensorSpec
from federation.names import Digest
from query.declarations import Call, Effect, Example, Role, function
from query.errors import unknown

if TYPE_CHECKING:
    from engine.servables import Servable
    from engine.signature import Array
    from federation.verification import VerifiedRelease


class SignedRelease(Protocol):
    """A release of which the signature was checked; its files need not have been read."""

    @property
    def record(self) -> ReleaseRecord: ...

    @property
    def record_digest(self) -> Digest: ...

    @property
    def signer(self) -> str: ...


OpenFolder = Callable[[str], "Awaitable[VerifiedRelease]"]
FindRelease = Callable[[str, "str | None"], Awaitable["SignedRelease | None"]]


async def nothing_installed(name: str, version: str | None) -> None:
    """A :data:`FindRelease` of a peer without a repository."""


class ModelFunctions:
    """``models:create list folder loaded test info labels infer streams end_stream``."""

    def __init__(
        self,
        engine: Engine,
        *,
        models_path: Path,
        open_folder: OpenFolder,
        find_release: FindRelease = nothing_installed,
    ) -> None:
        self._engine = engine
        self._models_path = models_path
        self._open_folder = open_folder
        self._find_release = find_release

    @function(
        "models:create(String name) -> String",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example='models:create("new-model")',
    )
    async def create(self, call: Call, name: str) -> str:
        """Makes a model folder from a template that loads and tests, and gives its path.

        The folder holds `model.toml`, which describes the model, a small ONNX file, test vectors and a function.
        Replace the ONNX file and say its inputs and outputs in `model.toml`.
        """
        return str(await asyncio.to_thread(create_folder, self._models_path, name))

    @function("models:list() -> Vector of String", example="models:list()")
    async def list_folders(self, call: Call) -> list[str]:
        """The names of the model folders in this peer's home."""
        return await asyncio.to_thread(folders, self._models_path)

    @function("models:folder(String name) -> String", example='models:folder("my-model")')
    async def folder(self, call: Call, name: str) -> str:
        """The path of a model folder on this peer."""
        known = await asyncio.to_thread(folders, self._models_path)
        if name not in known:
            raise unknown("model folder", name, known)
        return str(self._models_path / name)

    @function("models:loaded() -> Vector of String", example="models:loaded()")
    def loaded(self, call: Call) -> list[str]:
        """The models in this peer's memory, as `name@version`."""
        return [model.label for model in self._engine.loaded()]

    @function("models:test(String name) -> Record", role=Role.OPERATOR, example='models:test("my-model")')
    async def test(self, call: Call, name: str) -> dict[str, Any]:
        """Runs the test vectors of a model folder in a process of its own, or, without a folder of that name, those
        of the loaded model. An error names the first vector and output that differ.

        The record says how many vectors there were; a folder's also what the model needs: `memory_bytes` at its
        highest, `load_ms`, and `p99_us`, the 99th percentile of a run.
        """
        if name in await asyncio.to_thread(folders, self._models_path):
            release = await self._open_folder(name)
            verdict = await self._engine.trial(release)
            problem = verdict.problem()
            if problem is not None:
                raise problem
            return {
                "model": release.record.label,
                "vectors": verdict.vectors,
                "memory_bytes": verdict.peak_bytes,
                "load_ms": round(verdict.load_ms, 2),
                "p99_us": round(verdict.p99_us, 1),
            }
        model = self._engine.find(name)
        return {"model": model.label, "vectors": await asyncio.to_thread(model.require_vectors)}

    @function("models:info(String name) -> Record", example='models:info("my-model")')
    async def info(self, call: Call, name: str) -> dict[str, Any]:
        """What a model is: its signature, digest, signer and size, and, where it is loaded, what it needs.

        `run` says what was measured when it was loaded: `p99_us` of a run; up to how many elements of input a run
        happens at once, larger ones and all where it is 0 in a pool; up to how many rows of requests that wait run
        together, where that was seen to pay.
        """
        for model in self._engine.loaded():
            if model.name == name:
                exceeded = [dataclasses.asdict(one) for one in self._engine.exceeded(name)]
                return _described(model) | in_memory(model) | {"exceeded": exceeded}
        release = await self._find_release(name, None)
        if release is None:
            self._engine.find(name)  # names the nearest
            raise ModelNotLoaded(f'"{name}" is neither loaded nor installed here', hint="models:installed()")
        return _described(release) | {"loaded": False}

    @function("models:labels(String name) -> Vector of String", example='models:labels("my-model")')
    def labels(self, call: Call, name: str) -> list[str]:
        """The names of a loaded model's classes, in their order; empty when it brings none."""
        return list(self._engine.find(name).contents.labels)

    @function(
        "models:infer(String name, Object input, String stream?) -> Record",
        example=(
            Example('models:infer("my-model", [0, 100])'),
            Example('models:infer("my-model", {"celsius": [36.6]})["fahrenheit"]'),
        ),
    )
    async def infer(
        self,
        call: Call,
        name: str,
        input: Any,  # noqa: A002 — the name in the language
        stream: str | None = None,
    ) -> dict[str, Any]:
        """Runs a loaded model: a record of its outputs by name, each a tensor; texts are vectors.

        `input` is a record of the inputs by name, or for a model with one input its value alone: a tensor, a vector,
        a vector of vectors, a number. A vector of records is a batch. A leading dimension that is variable or 1 may
        be left out, so that a vector is one row of a batch. A tensor must have the datatype of the input; numbers
        written out take it on when they fit.

        A stateful model goes on where the last call on the same `stream` ended; rows are moments of the stream, in
        their order. The result then has a record `_stream` too: `key`, `position` (rows so far), and `restarted`,
        which says why when the stream was open before and had to begin anew.
        """
        if stream is None:
            outputs = await self._engine.infer(name, input)
            return {output: _value(array) for output, array in outputs.items()}
        from engine.streams import StreamCall

        going = StreamCall(key=stream)
        outputs = await self._engine.infer(name, input, stream=going)
        told = {"key": going.key, "position": going.position, "restarted": going.restarted}
        return {output: _value(array) for output, array in outputs.items()} | {"_stream": told}

    @function("models:streams(String name) -> Vector of Record", example='models:streams("my-model")')
    def streams(self, call: Call, name: str) -> list[dict[str, Any]]:
        """The streams that are open on a stateful model, the one used least recently first.

        Each with its `key`, its `position` (rows so far), `idle_s` and `state_bytes`. Streams are dropped when there
        are too many, when their states take too much memory, when nobody uses them, and with their model; `scope` names
        the model, or the step of the pipeline that keeps the stream.
        """
        self._engine.find(name)
        return [
            {
                "scope": one.scope,
                "key": one.key,
                "position": one.position,
                "idle_s": round(one.idle_s, 3),
                "state_bytes": one.state_bytes,
            }
            for one in self._engine.streams().shown(name)
        ]

    @function(
        "models:end_stream(String name, String stream) -> Boolean",
        example='models:end_stream("my-model", "microphone")',
    )
    def end_stream(self, call: Call, name: str, stream: str) -> bool:
        """Forgets a stream of a stateful model; whether it was open. The next call on it begins anew. Whoever may go on
        with a stream may end it.
        """
        self._engine.find(name)
        return self._engine.streams().end(name, stream)


def _value(array: Array) -> Any:
    return array.tolist() if array.dtype.kind == "O" else array


def _described(release: SignedRelease | Servable) -> dict[str, Any]:
    record = release.record
    return {
        "model": record.label,
        "kind": record.kind,
        "digest": release.record_digest,
        "manifest": record.manifest,
        "signer": release.signer,
        "size": record.size,
        "inputs": [_tensor(spec) for spec in record.inputs],
        "outputs": [_tensor(spec) for spec in record.outputs],
        "opset": dict(record.opset),
        "licenses": list(record.licenses),
        "development": record.development,
        "states": [{"input": one.input, "output": one.output, "tail": one.tail} for one in record.states],
    }


def in_memory(model: Servable) -> dict[str, Any]:
    """What is shown of a release because it is loaded. ``run``: where runs of a model happen, by what was measured."""
    return {
        "loaded": True,
        "origin": model.origin,
        "since": datetime.fromtimestamp(model.since, UTC),
        "memory_bytes": model.memory_bytes,
        "providers": list(model.providers),
        "run": _run(model),
        "labels": len(model.contents.labels),
        "functions": [one.name for one in model.contents.functions],
    }


def _run(model: Servable) -> dict[str, Any] | None:
    from engine.loaded import LoadedModel

    if not isinstance(model, LoadedModel) or model.session is None:
        return None
    return {
        "p99_us": round(model.pace.p99_us, 1),
        "at_once_elements": max(model.inline_elements, 0),
        "together_rows": model.batch_rows_max,
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
