"""Whether the pipelines of a home hold: the files that are edited there, and the models inside of releases.

Reads alone. A pipeline that cannot be read is found by its file and waits for a person: nothing but that file says what
it was. Whether a model's publisher is trusted is asked when the pipeline is loaded, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from federation.documents import RELEASE_TYPE, FileEntry, KeyId, ReleaseRecord, SignedDocument, decode
from federation.errors import Untrusted, WrongDocument
from federation.integrity import Finding, brief
from federation.pipeline_members import Judged, parts_of
from federation.signing import signers
from peers.pipeline_drafts import BadPipelineFile, PipelineDrafts
from query.errors import UnknownName

_MEND = "mend the file, or forget the pipeline in this home: pipeline:remove; its releases stay"


def check_pipelines(path: Path) -> list[Finding]:
    """The drafts and versions below a home's folder of pipelines."""
    drafts = PipelineDrafts(path)
    found: list[Finding] = []
    try:
        names = drafts.names()
    except BadPipelineFile as problem:
        return [Finding("bad_file", str(path), "the pipelines of this home", brief(problem.message), advice=_MEND)]
    for name in names:
        for what, read in (("the steps of a pipeline", drafts.draft), ("versions of a pipeline", drafts.versions)):
            try:
                read(name)
            except BadPipelineFile as problem:
                found.append(Finding("bad_file", str(path / name), what, brief(problem.message), advice=_MEND))
    return found


def check_members(
    document: SignedDocument,
    where: str,
    *,
    keys: Mapping[KeyId, bytes],
    read: Callable[[FileEntry], bytes | None],
    advice: str,
) -> list[Finding]:
    """The models inside a release of a pipeline whose own signature holds; nothing is said of another release.

    ``read`` gives a file of it, or None for one that is damaged or missing, which is found elsewhere.
    """
    record = decode(document.payload, ReleaseRecord)
    if record.kind != "pipeline":
        return []
    entries = {entry.path: entry for entry in record.files}

    def small(path: str) -> bytes:
        content = read(entries[path])
        if content is None:
            raise UnknownName(f"{path} cannot be read")
        return content

    def judge(signed: SignedDocument) -> Judged:
        payload, valid = signers(signed, RELEASE_TYPE, keys)
        try:
            return Judged(decode(payload, ReleaseRecord), min(valid), "", valid)
        except msgspec.MsgspecError as error:
            raise WrongDocument(f"expected a release record: {brief(str(error))}") from error

    try:
        parts_of(record, small, judge)
    except UnknownName:
        return []
    except Untrusted as problem:
        expected = "the models that its definition names, each signed by a publisher"
        return [Finding("bad_record", where, expected, brief(problem.message), advice=advice)]
    return []
