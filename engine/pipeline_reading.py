"""The definition of a pipeline's release, and that its steps fit each other and what was signed of them.

Light to import, so that a trial may ask before anything is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from engine.errors import BadPipelineRelease
from federation.names import Digest
from federation.pipelines import DEFINITION_FILE, PipelineDefinition
from query.errors import Problem

if TYPE_CHECKING:
    from federation.documents import ReleaseRecord
    from federation.pipeline_schemas import PipelineSchema
    from federation.verification import VerifiedRelease


def read_pipeline(
    release: VerifiedRelease, records: Mapping[Digest, ReleaseRecord]
) -> tuple[PipelineDefinition, PipelineSchema]:
    """``records``: of its models. Raises :class:`~engine.errors.BadPipelineRelease`."""
    from federation.pipeline_schemas import schema_of  # no sooner: it brings the language

    record = release.record
    try:
        definition = msgspec.json.decode(release.files[DEFINITION_FILE], type=PipelineDefinition)
        schema = schema_of(definition, records)
    except (msgspec.MsgspecError, KeyError) as error:
        raise BadPipelineRelease(f"{record.label}: expected a definition in {DEFINITION_FILE}: {error}") from error
    except Problem as problem:
        raise BadPipelineRelease(f"{record.label}: {problem.message}", hint=problem.hint) from problem
    for kind, signed, found in (
        ("inputs", record.inputs, schema.signature.inputs),
        ("outputs", record.outputs, schema.signature.outputs),
    ):
        if signed != found:
            raise BadPipelineRelease(f"{record.label}: the signed record says other {kind} than its steps have")
    return definition, schema
