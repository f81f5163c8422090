"""Versions and releases of pipelines, made from what is edited in a home.

Owns the way from a draft to a release in this peer's repository: its models brought here, its steps checked against
each other, the version kept, and the release packed and signed. A home without a publisher key makes a development
release of it, where its own settings accept such; else it says what it lacks. Loads and publishes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from federation.documents import ReleaseRecord, RootRecord, SignedDocument, decode
from federation.errors import UnknownKey
from federation.keys import PrivateKey
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease
from federation.names import Digest
from federation.pipeline_packing import pack_pipeline
from federation.pipeline_schemas import PipelineSignature, check_schemas
from federation.pipelines import Deployment, PipelineDefinition
from federation.verification import VerifiedRelease
from peers.pipeline_drafts import KeptVersion, PipelineDrafts
from peers.pipeline_models import StepModels
from peers.publisher_keys import NotAPublisher
from peers.release_ports import ReleaseSite
from query.declarations import Call
from query.errors import unknown


class PipelineReleases:
    """``publisher`` reads the key that signs releases, or raises; ``identity`` signs development releases."""

    def __init__(
        self,
        drafts: PipelineDrafts,
        models: StepModels,
        layout: ImageLayout,
        *,
        site: ReleaseSite,
        publisher: Callable[[], PrivateKey],
        identity: PrivateKey,
        root: Callable[[], RootRecord],
    ) -> None:
        self._drafts = drafts
        self._models = models
        self._layout = layout
        self._site = site
        self._publisher = publisher
        self._identity = identity
        self._root = root

    async def make_version(
        self, name: str, call: Call, *, deployed: Callable[[Deployment], Deployment] | None = None
    ) -> tuple[KeptVersion, PipelineSignature]:
        """A version of the draft as it is now, and what clients see of it; ``deployed`` changes what it may take.

        Raises :class:`~federation.pipelines.BadPipeline` and ``StepMissing``, naming the step.
        """
        draft = await asyncio.to_thread(self._drafts.draft, name)
        if deployed is not None:
            draft = replace(draft, deployment=deployed(draft.deployment))
        signature, _ = await self._checked(draft, call)

        def kept(now: PipelineDefinition) -> PipelineDefinition:
            return replace(now, deployment=draft.deployment)

        if deployed is not None:
            await asyncio.to_thread(self._drafts.change, name, kept)
        made = await asyncio.to_thread(self._drafts.keep, draft, now=call.now.timestamp())
        return made, signature

    async def known_version(self, name: str, version: str) -> KeptVersion:
        """A version that was made in this home. Raises :class:`~query.errors.UnknownName`, with the latest there is."""
        found = await asyncio.to_thread(self._drafts.version, name, version)
        if found is None:
            known = [kept.version for kept in await asyncio.to_thread(self._drafts.versions, name)]
            problem = unknown(f'version of pipeline "{name}"', version, known)
            problem.hint = f"the latest made here is {known[-1]}" if known else "none was made here"
            raise problem
        return found

    async def release(self, kept: KeptVersion, call: Call, *, here: bool) -> InstalledRelease:
        """The release of a version in this repository, made and signed when there is none. ``here``: for this peer's
        own memory, where a development release may do.

        Raises :class:`~peers.publisher_keys.NotAPublisher`.
        """
        definition = kept.definition
        made = await asyncio.to_thread(self._layout.find, definition.name, kept.version)
        if made is not None:
            return made
        await self._site.before_signing()
        development = False
        try:
            key = self._publisher()
        except NotAPublisher as problem:
            if not (here and self._site.accept_development):
                if here:
                    problem.hint = f"{problem.hint}; or set accept_development = true in this home's peerage.toml"
                raise
            key, development = self._identity, True
        signature, records = await self._checked(definition, call)
        packed = await asyncio.to_thread(
            pack_pipeline,
            definition,
            members=records,
            inputs=signature.inputs,
            outputs=signature.outputs,
            publisher=key,
            now=call.now.timestamp(),
            development=development,
        )
        return await asyncio.to_thread(self._layout.install, packed)

    async def verified(self, release: InstalledRelease) -> VerifiedRelease:
        """Raises what ``verify`` raises."""
        signed = await asyncio.to_thread(self._layout.signed, release)
        key = self._identity.public if self._site.accept_development else None
        try:
            return await asyncio.to_thread(self._layout.verified, signed, root=self._root(), development_key=key)
        except UnknownKey:
            await self._site.follow_root()  # this home's own key may have been endorsed since it last looked
        return await asyncio.to_thread(self._layout.verified, signed, root=self._root(), development_key=key)

    async def _checked(
        self, definition: PipelineDefinition, call: Call
    ) -> tuple[PipelineSignature, Mapping[Digest, SignedDocument]]:
        documents = await self._models.brought(definition, call)
        records: dict[Digest, Any] = {
            digest: decode(document.payload, ReleaseRecord) for digest, document in documents.items()
        }
        return await asyncio.to_thread(check_schemas, definition, records), documents
