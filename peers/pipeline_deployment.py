"""Functions of the language that make versions of pipelines and put them to work.

At home everywhere. A deployment goes the way of any release: made and signed in the home where the pipeline is edited,
then loaded into this peer's memory, or published and assigned to groups, whose edges swap it in place.

Rules: nothing is assigned before the nameserver has the release, and no group before all of them are known. Nothing is
loaded but what ``verify`` admitted. A version that the nameserver has is assigned by any operator; making one takes a
publisher's key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease, VersionTaken
from federation.names import fold
from federation.pipelines import BadPipeline, Deployment, PipelineDefinition
from federation.record_shape import NameOfAnother
from peers.pipeline_drafts import KeptVersion, PipelineDrafts
from peers.pipeline_functions import shown_steps
from peers.pipeline_models import Fetching
from peers.pipeline_options import DeployOptions, read_options, read_places, read_version
from peers.pipeline_releases import PipelineReleases
from peers.pipeline_standings import Standings
from peers.publisher_keys import NotAPublisher
from peers.release_ports import Memory, ReleaseSite, Statements
from query.declarations import Call, Effect, Example, Role, function
from query.errors import PeerProblem, Problem, UnknownName, suggestion, unknown


class PartlyDeployed(PeerProblem):
    """Some groups took a change and another did not; the message names both."""

    code = "partly_deployed"


class PipelineDeployment:
    """``pipeline:make_version versions definition deploy undeploy status``."""

    def __init__(
        self,
        drafts: PipelineDrafts,
        releases: PipelineReleases,
        layout: ImageLayout,
        *,
        site: ReleaseSite,
        memory: Memory,
        fetching: Fetching,
        statements: Statements,
        standings: Standings,
    ) -> None:
        self._drafts = drafts
        self._releases = releases
        self._layout = layout
        self._site = site
        self._memory = memory
        self._fetching = fetching
        self._statements = statements
        self._standings = standings

    # --- versions -----------------------------------------------------------------------------------------------

    @function(
        "pipeline:make_version(String name) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('pipeline:make_version("my-pipeline")'),
    )
    async def make_version(self, call: Call, name: str) -> dict[str, Any]:
        """Check that the steps of a pipeline fit each other and keep them as a version, which never changes; what it
        takes and gives. The same steps are the same version. An error names the step and the field, what was expected
        and what was found. Deploying makes a version too.
        """
        kept, signature = await self._releases.make_version(name, call)
        return {
            "pipeline": name,
            "version": kept.version,
            "inputs": [msgspec.to_builtins(spec) for spec in signature.inputs],
            "outputs": [msgspec.to_builtins(spec) for spec in signature.outputs],
        }

    @function("pipeline:versions(String name) -> Vector of Record", example='pipeline:versions("my-pipeline")')
    async def versions(self, call: Call, name: str) -> list[dict[str, Any]]:
        """The versions of a pipeline that were made in this peer's home, the oldest first: when, of which steps, and
        whether a release of it is here, in memory, or `current`, what the steps as they are edited now would be.
        """
        kept = await asyncio.to_thread(self._drafts.versions, name)
        draft = await asyncio.to_thread(self._drafts.draft, name)
        loaded = {(one.record.name, one.record.version) for one in self._memory.present()}
        now = KeptVersion(0, draft).version
        return [
            {
                "version": one.version,
                "created": call.now.fromtimestamp(one.created, call.now.tzinfo),
                "steps": len(one.definition.steps),
                "models": [model.label for model in one.definition.models()],
                "released": self._layout.find(name, one.version) is not None,
                "loaded": (name, one.version) in loaded,
                "current": one.version == now,
            }
            for one in kept
        ]

    @function(
        "pipeline:definition(String name, String version?) -> Record", example='pipeline:definition("my-pipeline")'
    )
    async def definition(self, call: Call, name: str, version: str | None = None) -> dict[str, Any]:
        """Everything that a pipeline is, as it is edited here or in a version that was made here: its steps, its
        validations, and what it may take of the peer that runs it.
        """
        if version is None:
            return _described(await asyncio.to_thread(self._drafts.draft, name))
        return _described((await self._releases.known_version(name, read_version(version))).definition)

    # --- deploying ----------------------------------------------------------------------------------------------

    @function(
        "pipeline:deploy(String name, Record options?) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=(
            Example('pipeline:deploy("my-pipeline")'),
            Example('pipeline:deploy("my-pipeline", {"group": "staging-area-edges", "cpus": 2, "memory": "512Mi"})'),
        ),
    )
    async def deploy(self, call: Call, name: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Make a version of a pipeline and put it to work: in this peer's memory, or with `group` or `groups` on their
        edges, which fetch, verify and swap it in place; requests in flight end on the version they began with. The
        release is signed with this home's publisher key.

        Options: `group`, `groups`; `version`, an earlier one, to go back to it; and what the pipeline may take where
        it runs, kept until it is told otherwise: `cpus`, `memory` ("512Mi"), `replicas` (processes of its own),
        `batch` (true, false, or {"enabled": …, "rows_max": …}), `log` ({"sample": 0.1, "columns": […]}).
        """
        wanted = read_options(options or {})
        if not wanted.groups:
            return await self._deploy_here(name, wanted, call)
        await self._check_groups(wanted.groups, call)
        version = await self._published(name, wanted, call)
        models = [{"name": name, "version": version}]
        answers = await self._in_groups(
            "edge:set_group_models(:group, :models)", wanted.groups, {"models": models}, call=call
        )
        told = [
            {"group": one["group"], "overtaken": one["overtaken"], "deprecated": one.get("deprecated", [])}
            for one in answers
        ]
        return {"pipeline": name, "version": version, "groups": told}

    @function(
        "pipeline:undeploy(String name, Record options?) -> Boolean",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=(
            Example('pipeline:undeploy("my-pipeline", {"group": "staging-area-edges"})', shows="true"),
            Example('pipeline:undeploy("my-pipeline")', shows="true"),
        ),
    )
    async def undeploy(self, call: Call, name: str, options: Mapping[str, Any] | None = None) -> bool:
        """Take a pipeline out of this peer's memory, or with `group` or `groups` from those groups, whose edges unload
        it. Versions and releases stay.
        """
        groups = read_places(options or {})
        if groups:
            await self._check_groups(groups, call)
            await self._in_groups("edge:remove_group_models(:group, :names)", groups, {"names": [name]}, call=call)
            return True
        running = [one.record.name for one in self._memory.present() if one.record.kind == "pipeline"]
        if name not in running:
            raise UnknownName(
                f'no pipeline "{name[:80]}" in this peer\'s memory{suggestion(name, running)}',
                hint=f'pipeline:undeploy("{name[:80]}", {{"group": "…"}}) takes it from a group',
            )
        await self._memory.unload(name)
        return True

    @function("pipeline:status(String name) -> Record", example='pipeline:status("my-pipeline")')
    async def status(self, call: Call, name: str) -> dict[str, Any]:
        """How a pipeline stands: `Starting`, `Running`, `Error`, `Stopping` or `Undeployed`, for all, counted, and for
        each edge, the worst first and up to a thousand: the version that answers, the one that is wanted and for which
        group, why it is not there, and which of its resources it exceeded. An edge tells of itself; a client also what
        it has in memory, as `here`.
        """
        return await self._standings.status(name, call)

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _deploy_here(self, name: str, wanted: DeployOptions, call: Call) -> dict[str, Any]:
        if wanted.version is None:
            kept, _ = await self._releases.make_version(name, call, deployed=wanted.applied)
            release = await self._releases.verified(await self._releases.release(kept, call, here=True))
        else:
            release = await self._releases.verified(await self._earlier(name, wanted.version, call))
        origin = "development" if release.development else "manual"
        await self._memory.load_release(release, origin=origin)  # type: ignore[arg-type]
        return {"pipeline": name, "version": release.record.version, "loaded": True}

    async def _earlier(self, name: str, version: str, call: Call) -> InstalledRelease:
        """The release of an earlier version: here, else made of what was kept here, else the nameserver's."""
        installed = await asyncio.to_thread(self._layout.find, name, version)
        if installed is not None:
            return installed
        if name in await asyncio.to_thread(self._drafts.names):
            kept = await asyncio.to_thread(self._drafts.version, name, version)
            if kept is not None:
                return await self._releases.release(kept, call, here=True)
        release = await self._fetching.fetched(name, version, call)
        if release.record.kind != "pipeline":
            raise BadPipeline(f"{release.label} is a model: expected a pipeline", hint="models:load loads it")
        return await asyncio.to_thread(self._layout.installed, name, version)

    async def _published(self, name: str, wanted: DeployOptions, call: Call) -> str:
        """The version that the nameserver has after this."""
        if wanted.version is None:
            kept, _ = await self._releases.make_version(name, call, deployed=wanted.applied)
        else:
            known = name in await asyncio.to_thread(self._drafts.names)
            found = await asyncio.to_thread(self._drafts.version, name, wanted.version) if known else None
            if found is None:
                return await self._known_elsewhere(name, wanted.version, call)
            kept = found
        try:
            release = await self._releases.release(kept, call, here=False)
        except NotAPublisher as problem:
            try:
                await self._fetching.wanted(name, kept.version)
            except UnknownName:
                raise problem from None
            return kept.version  # somebody who may has made it
        if self._site.repository is not None:
            try:
                await self._site.repository.push(release, progress=call.progress)
            except NameOfAnother:
                await asyncio.to_thread(self._layout.remove, release)  # it can go nowhere from here
                raise
            except VersionTaken:  # another home made this very definition a release first: that one is assigned
                await asyncio.to_thread(self._layout.remove, release)
        return kept.version

    async def _known_elsewhere(self, name: str, version: str, call: Call) -> str:
        """A version that was not made in this home: the nameserver must have it, or this peer's repository."""
        signed = await self._fetching.wanted(name, version)
        installed = await asyncio.to_thread(self._layout.find, name, version)
        if installed is not None and self._site.repository is not None:
            await self._site.repository.push(installed, progress=call.progress)
        kind = msgspec.json.decode(signed.payload).get("kind")
        if kind != "pipeline":
            raise BadPipeline(
                f"{name}@{version} is a model: expected a pipeline", hint="edge:set_group_models assigns it"
            )
        return version

    async def _check_groups(self, groups: Sequence[str], call: Call) -> None:
        known = await self._of_nameserver("edge:all_groups()", {}, call)
        for group in groups:
            if fold(group) not in map(fold, known):
                problem = unknown("group", group[:80], known)
                problem.hint = f'edge:add_group("EDGE", "{group[:80]}") makes a group and puts an edge into it'
                raise problem

    async def _in_groups(self, text: str, groups: Sequence[str], params: Mapping[str, Any], *, call: Call) -> list[Any]:
        """What a statement answers for each group. Where one fails after others, the error names both."""
        answers: list[Any] = []
        for number, group in enumerate(groups):
            try:
                answers.append(await self._of_nameserver(text, {"group": group, **params}, call))
            except Problem as problem:
                if not number:
                    raise
                raise PartlyDeployed(
                    f'group "{group}" could not be changed: {problem.message}; changed: {", ".join(groups[:number])}',
                    hint=problem.hint,
                ) from problem
        return answers

    async def _of_nameserver(self, text: str, params: Mapping[str, Any], call: Call) -> Any:
        answers = await self._statements.run(("nameserver",), text, params, call=call)
        answer = next(iter(answers.values()))
        if isinstance(answer, Problem):
            raise answer
        return answer


def _described(definition: PipelineDefinition) -> dict[str, Any]:
    return {
        "pipeline": definition.name,
        "version": KeptVersion(0, definition).version,
        "steps": shown_steps(definition),
        "validations": {one.name: one.condition for one in definition.validations},
        **_taken(definition.deployment),
    }


def _taken(deployment: Deployment) -> dict[str, Any]:
    """What a pipeline may take, in the words of the options."""
    return {
        "cpus": deployment.cpus,
        "memory": deployment.memory_bytes,
        "replicas": deployment.replicas,
        "batch": {"enabled": deployment.batch.enabled, "rows_max": deployment.batch.rows_max},
        "log": {"sample": deployment.log.sample, "columns": list(deployment.log.columns)},
    }
