"""What the examination of a home says of pipelines: files that are edited there, and models inside of releases."""

from pathlib import Path

import pytest

from federation.documents import RELEASE_TYPE, FileEntry, encode
from federation.keys import PrivateKey
from federation.names import digest_of
from federation.signing import sign
from peers.pipeline_checks import check_members, check_pipelines
from peers.pipeline_drafts import PipelineDrafts
from tests.models.making import PUBLISHER
from tests.pipelines.defining import BOB, DOUBLE, TRIPLE, definition, packed_pipeline, whole_files

KEYS = {key.keyid: key.public for key in (PUBLISHER, BOB)}


def test_files_that_are_none_are_found(tmp_path: Path) -> None:
    drafts = PipelineDrafts(tmp_path)
    assert check_pipelines(tmp_path / "nothing") == []
    for name in ("whole", "torn", "altered"):
        drafts.create(name)
        kept = drafts.keep(definition(DOUBLE, name=name), now=1.0)
    assert check_pipelines(tmp_path) == []
    (tmp_path / "torn" / "draft.json").write_bytes(b"{")
    version = next((tmp_path / "altered" / "versions").iterdir())
    version.rename(version.with_name(f"{kept.version[:-1]}0.json"))
    found = check_pipelines(tmp_path)
    assert [(one.kind, one.thing, one.expected) for one in found] == [
        ("bad_file", str(tmp_path / "altered"), "versions of a pipeline"),
        ("bad_file", str(tmp_path / "torn"), "the steps of a pipeline"),
    ]
    assert all("pipeline:remove" in one.advice for one in found)


@pytest.mark.parametrize("keys", [(), (BOB,), (PUBLISHER, BOB)])
def test_models_in_a_release_are_signed(keys: tuple[PrivateKey, ...]) -> None:
    pipeline = packed_pipeline()
    files = whole_files(pipeline)
    known = {key.keyid: key.public for key in keys}

    def read(entry: FileEntry) -> bytes:
        return files[entry.path]

    found = check_members(pipeline.signed, "pipe", keys=known, read=read, advice="fetch it again")
    assert len(found) == (len(keys) != 2)
    assert all("in pipe@" in one.found for one in found)
    assert check_members(pipeline.signed, "pipe", keys=known, read=lambda _: None, advice="") == []
    assert check_members(DOUBLE.signed, "double", keys=known, read=read, advice="") == []


def test_another_record_of_a_model_is_found() -> None:
    pipeline = packed_pipeline()
    other = sign(encode(TRIPLE.record), RELEASE_TYPE, BOB)
    files = whole_files(pipeline) | {"models/double/1.0/release.json": encode(other)}
    found = check_members(pipeline.signed, "pipe", keys=KEYS, read=lambda entry: files[entry.path], advice="")
    assert [one.kind for one in found] == ["bad_record"]
    assert digest_of(other.payload) != digest_of(DOUBLE.signed.payload)
