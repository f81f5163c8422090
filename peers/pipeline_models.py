"""The models that the steps of a pipeline name, found and brought for who edits or makes one on this peer.

Owns the way from a name and a version to a :class:`~federation.pipelines.ModelRef`, and from that to a signed record
whose files are all in this peer's repository. Refuses what has no graph, and with the step (:class:`StepMissing`) what
is neither here nor on the nameserver any more, or is another release by now. Every record is verified under the root
record, so that a pipeline of a publisher whom nobody trusts is refused while it is edited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from federation.documents import ReleaseRecord, RootRecord, SignedDocument, decode
from federation.errors import UnknownKey
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease
from federation.names import Digest, checked_model, checked_version, digest_of
from federation.pipelines import BadPipeline, ModelRef, PipelineDefinition
from federation.record_shape import NameOfAnother
from federation.verification import VerifiedRelease, verify_record, with_what_holds
from query.declarations import Call
from query.errors import PeerProblem, Problem, WorldProblem, WrongArguments


class StepMissing(PeerProblem):
    """A model that a step names cannot be had, or is another one by now."""

    code = "step_missing"


class Fetching(Protocol):
    """Releases from this peer's repository, else from the nameserver."""

    async def wanted(self, name: str, version: str) -> SignedDocument:
        """The signed record of a release, whose files may be elsewhere."""
        ...

    async def fetched(self, name: str, version: str, call: Call) -> VerifiedRelease: ...


class StepModels:
    """``folders`` gives the names of the model folders in this home."""

    def __init__(
        self,
        layout: ImageLayout,
        fetching: Fetching,
        *,
        root: Callable[[], RootRecord],
        follow_root: Callable[[], Awaitable[None]],
        folders: Callable[[], tuple[str, ...]],
    ) -> None:
        self._layout = layout
        self._fetching = fetching
        self._root = root
        self._follow_root = follow_root
        self._folders = folders

    async def ref(self, model: Any) -> ModelRef:
        """The release that ``name@version``, or a record of ``name`` and ``version``, means now."""
        name, version = named(model)
        signed = await self._fetching.wanted(checked_model(name), checked_version(version))
        record = await self._verified(signed)
        if record.kind != "onnx":
            raise BadPipeline(
                f"{record.label} is of kind {record.kind}: expected a model with a graph",
                hint="functions run in a PQL step" if record.kind == "functions" else None,
            )
        return ModelRef(record.name, record.version, digest_of(signed.payload))

    async def brought(self, definition: PipelineDefinition, call: Call) -> Mapping[Digest, SignedDocument]:
        """The signed record of every model of a pipeline, by its digest, with their files in this repository.

        Raises :class:`StepMissing` that names the step.
        """
        found: dict[Digest, SignedDocument] = {}
        for number, step in enumerate(definition.steps, start=1):
            for model in step.models:
                if model.record in found:
                    continue
                try:
                    found[model.record] = await self._here(model, call)
                except Problem as problem:
                    said = f'step {number} of pipeline "{definition.name}" needs {model.label}: {problem.message}'
                    if isinstance(problem, WorldProblem):
                        problem.message = said  # it may pass, and stays of its class
                        raise
                    hint = f'pipeline:replace_model_step("{definition.name}", {number}, …) takes another'
                    raise StepMissing(said, hint=hint) from problem
        return found

    def check_name(self, name: str) -> None:
        """Raises :class:`~federation.record_shape.NameOfAnother` for a name that a model has here."""
        checked_model(name)
        label = next(
            (
                one.label
                for one in self._layout.releases()
                if one.name == name and decode(self._layout.signed(one).payload, ReleaseRecord).kind != "pipeline"
            ),
            None,
        )
        if label is None and name in self._folders():
            label = f"the folder models/{name}"
        if label is not None:
            raise NameOfAnother(
                f'"{name}" cannot be a pipeline: it names a model, {label}',
                hint="models and pipelines share their names: choose another for the pipeline",
            )

    async def _here(self, model: ModelRef, call: Call) -> SignedDocument:
        installed = await asyncio.to_thread(self._layout.find_record, model.record)
        if installed is None or not await asyncio.to_thread(self._whole, installed):
            release = await self._fetching.fetched(model.name, model.version, call)
            if release.record_digest != model.record:
                raise BadPipeline(
                    f"expected its record {model.record}, found {release.record_digest}: it was released anew"
                )
            installed = await asyncio.to_thread(self._layout.find_record, model.record)
            if installed is None:
                raise BadPipeline(f"{model.label} left this peer's repository meanwhile")
        signed = await asyncio.to_thread(self._layout.signed, installed)
        await self._verified(signed)
        return with_what_holds(signed, self._root())

    def _whole(self, release: InstalledRelease) -> bool:
        """Whether its files are here, by their sizes; what is in them is hashed before anything of it is loaded."""
        files = decode(self._layout.signed(release).payload, ReleaseRecord).files
        return all(self._layout.blobs.size(entry.digest) == entry.size for entry in files)

    async def _verified(self, signed: SignedDocument) -> ReleaseRecord:
        """What a record says, under the root record; a publisher endorsed a moment ago is no stranger."""
        try:
            return verify_record(signed, self._root())
        except UnknownKey:
            await self._follow_root()
        return verify_record(signed, self._root())


def named(model: Any) -> tuple[str, str]:
    """Name and version of ``"name@version"`` or ``{"name": …, "version": …}``. Raises :class:`WrongArguments`."""
    match model:
        case str() if model.count("@") == 1:
            name, _, version = model.partition("@")
            return name, version
        case Mapping() if model.keys() == {"name", "version"} and all(isinstance(one, str) for one in model.values()):
            return model["name"], model["version"]
    raise WrongArguments(
        f'expected a model as "name@version" or {{"name": "m", "version": "1.0"}}, found {model!r:.60}'
    )
