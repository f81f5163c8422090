"""What a pipeline's deployment takes of a peer's memory, in which processes, and whether its own limit allows it.

Pure. Without replicas a pipeline's graphs lie in this peer's process, where one graph counts once for all that hold it,
and its limit decides whether it is loaded. With replicas every process has every graph, and is held to the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from engine.errors import OverMemory
from federation.documents import ReleaseRecord
from federation.names import Digest
from federation.pipelines import DEFINITION_FILE, Deployment, PipelineDefinition

if TYPE_CHECKING:
    from engine.trials import Verdict
    from federation.verification import VerifiedRelease

PROCESS_BYTES: Final = 32 * 1024 * 1024  # resident memory of a process that has the runtime and no graph
NO_DEPLOYMENT: Final = Deployment()


def deployment_of(release: VerifiedRelease) -> Deployment:
    """A model's is the default."""
    if release.record.kind != "pipeline":
        return NO_DEPLOYMENT
    return msgspec.json.decode(release.files[DEFINITION_FILE], type=PipelineDefinition).deployment


def graph_of(record: ReleaseRecord) -> Digest | None:
    """The digest of a release's ONNX file."""
    return next((entry.digest for entry in record.files if entry.kind == "weight"), None)


def graphs_of(release: VerifiedRelease, verdict: Verdict) -> dict[Digest, int]:
    """What a release would hold, as its trial measured it: bytes by the digest of a graph, or by a name of what
    replicas hold.
    """
    if release.record.kind != "pipeline":
        return held(release.record, verdict.peak_bytes)
    found: dict[Digest, int] = {}
    replicas = deployment_of(release).replicas
    for member, of_member in zip(release.members, verdict.members, strict=True):
        found |= held(member.record, of_member.peak_bytes, replicas=replicas, pipeline=release)
    return found


def held(
    record: ReleaseRecord, peak_bytes: int, *, replicas: int = 0, pipeline: VerifiedRelease | None = None
) -> dict[Digest, int]:
    """The part of :func:`graphs_of` that one model makes."""
    graph = graph_of(record)
    if graph is None:
        return {}
    if not replicas or pipeline is None:
        return {graph: peak_bytes}
    return {
        Digest(f"{graph} in the replicas of {pipeline.record_digest}"): replicas * peak_bytes,
        Digest(f"the replicas of {pipeline.record_digest}"): replicas * PROCESS_BYTES,
    }


def require_memory(release: VerifiedRelease, verdict: Verdict, deployment: Deployment) -> None:
    """Raises :class:`OverMemory` when the models together need more than the deployment allows."""
    limit = deployment.memory_bytes
    needed = sum(one.peak_bytes for one in verdict.members)
    if limit is not None and needed > limit:
        raise OverMemory(
            f"the models of {release.label} need {needed} bytes of memory, its deployment allows {limit}",
            hint="deploy it with more memory",
        )
