"""A pipeline's release: its models under their own publishers' signatures, packed, verified, kept and let go."""

from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from federation.documents import RELEASE_TYPE, FileEntry, KeyId, ReleaseRecord, Signature, encode
from federation.errors import (
    DevelopmentRefused,
    KeyRevoked,
    MixedParts,
    UnknownKey,
    Untrusted,
    WrongDocument,
    WrongHash,
    WrongSize,
)
from federation.manifest_store import MissingPart
from federation.manifests import model_manifest
from federation.names import digest_of
from federation.packing import PackedRelease
from federation.pipeline_members import DEFINITION_BYTES_MAX
from federation.pipelines import (
    DEFINITION_FILE,
    BadPipeline,
    Deployment,
    KeySplit,
    ModelRef,
    ModelStep,
    PipelineDefinition,
    PqlStep,
    RandomSplit,
    Shadow,
    Validation,
    Weighted,
    check_definition,
    encode_definition,
    version_of,
)
from federation.record_shape import FILES_PER_RELEASE_MAX, NameOfAnother, check_kind
from federation.release_checks import check_release
from federation.revocation import check_assignable, revocation_of, revoke, stopping
from federation.signing import sign
from federation.verification import VerifiedRelease, verify, with_what_holds
from tests.models.making import PUBLISHER, packed, scaling
from tests.pipelines.defining import (
    BOB,
    DOUBLE,
    MODELS,
    NOW,
    TRIPLE,
    definition,
    layout_with,
    packed_pipeline,
    ref_of,
    root_of,
    whole_files,
)

ROOT = root_of()


def checked(pipeline: PackedRelease, **changes: Any) -> VerifiedRelease:
    files = changes.pop("files", None) or whole_files(pipeline)
    return verify(pipeline.signed, **{"root": ROOT, "manifest": pipeline.manifest, "files": files, **changes})


def altered(pipeline: PackedRelease, **fields: Any) -> PackedRelease:
    """The release as its publisher would have to make it to carry another record or other files."""
    files: dict[str, bytes] = fields.pop("replaced", {})
    record = replace(pipeline.record, **fields)
    entries = tuple(
        FileEntry(e.path, e.kind, digest_of(files[e.path]), len(files[e.path])) if e.path in files else e
        for e in record.files
    )
    manifest = model_manifest(config=pipeline.config, files=entries, annotations={})
    record = replace(record, files=entries, manifest=digest_of(manifest), manifest_size=len(manifest))
    return changed(
        pipeline,
        record=record,
        signed=sign(encode(record), RELEASE_TYPE, PUBLISHER),
        manifest=manifest,
        files={**pipeline.files, **files},
    )


# --- definitions ----------------------------------------------------------------------------------------------------


def test_a_version_is_its_definition() -> None:
    one, other = definition(DOUBLE), definition(TRIPLE)
    assert version_of(one) == version_of(definition(DOUBLE)) != version_of(other)
    assert version_of(one) != version_of(definition(DOUBLE, deployment=Deployment(cpus=2)))
    back = msgspec.json.decode(encode_definition(one), type=PipelineDefinition)
    assert (back, version_of(back)) == (one, version_of(one))


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ('{"name":"p"}', True),
        ('{"name":"p","steps":[],"validations":[],"deployment":{}}', True),
        ('{"deployment":{"replicas":0,"batch":{"rows_max":64},"log":{"sample":1,"columns":[]}},"name":"p"}', True),
        ('{"name":"p","deployment":{"batch":{"rows_max":65}}}', False),
        ('{"name":"p","deployment":{"log":{"sample":0}}}', False),
        ('{"name":"p","deployment":{"replicas":1}}', False),
    ],
)
def test_what_goes_without_saying_makes_no_other_version(said: str, same: bool) -> None:
    read = msgspec.json.decode(said, type=PipelineDefinition)
    assert (version_of(read) == version_of(PipelineDefinition(name="p"))) == same
    assert version_of(msgspec.json.decode(encode_definition(read), type=PipelineDefinition)) == version_of(read)


D, T = ref_of(DOUBLE), ref_of(TRIPLE)
SAME = ModelRef("double", "1.0", T.record)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (definition(name="Pipe"), '"Pipe" cannot name a model'),
        (definition(steps=[RandomSplit((Weighted(0.0, D), Weighted(0.0, T)))]), "weights that sum to more than 0"),
        (definition(steps=[RandomSplit((Weighted(-1.0, D), Weighted(2.0, T)))]), "weights of 0 or more, found -1.0"),
        (definition(steps=[RandomSplit((Weighted(float("nan"), D),))]), "weights of 0 or more, found nan"),
        (definition(steps=[RandomSplit((Weighted(float("inf"), D),))]), "weights of 0 or more, found inf"),
        (definition(steps=[RandomSplit((Weighted(1.0, D), Weighted(2.0, D)))]), "double@1.0 stands twice"),
        (definition(DOUBLE, steps=[Shadow(D, (T, T))]), 'step 1 of pipeline "pipe": triple@2.1 stands twice'),
        (definition(steps=[Shadow(D, (ModelRef("t", "1", D.record),))]), "named by two different records"),
        (definition(DOUBLE, steps=[ModelStep(SAME)]), "named by two different records"),
        (definition(DOUBLE, validations=[Validation("count", "true")]), 'validation "count" of pipeline "pipe" is res'),
        (definition(DOUBLE, validations=[Validation("a", "true"), Validation("a", "false")]), '"a" of pipeline'),
    ],
)
def test_definitions_that_no_pipeline_can_have(bad: PipelineDefinition, said: str) -> None:
    with pytest.raises(BadPipeline, match=said):
        check_definition(bad)


# --- verification ---------------------------------------------------------------------------------------------------


def test_a_pipeline_is_verified_with_its_models_each_under_its_own_publisher() -> None:
    pipeline = packed_pipeline()
    release = checked(pipeline)
    assert (release.record.kind, release.signer) == ("pipeline", "ada")
    assert release.label == f"pipe@{version_of(definition(*MODELS))}"
    assert [(one.label, one.signer, one.members) for one in release.members] == [
        ("double@1.0", "ada", ()),
        ("triple@2.1", "bob", ()),
    ]
    assert [dict(one.files) for one in release.members] == [dict(model.files) for model in MODELS]
    assert [one.record_digest for one in release.members] == [digest_of(model.signed.payload) for model in MODELS]
    assert (release.record.inputs, release.record.opset) == (DOUBLE.record.inputs, {"ai.onnx": 17})


def test_a_model_in_several_steps_is_in_the_release_once_and_two_versions_of_it_stand_side_by_side() -> None:
    newer = packed(scaling(4.0), name="double", version="2.0")
    split = RandomSplit((Weighted(0.9, D), Weighted(0.1, ref_of(newer))))
    by_key = KeySplit(D, "kind", {"new": ref_of(newer), "other": D})
    pipeline = packed_pipeline(definition(DOUBLE, steps=[split, by_key, PqlStep("{}")]), models=(DOUBLE, newer))
    release = checked(pipeline, files=whole_files(pipeline, (DOUBLE, newer)))
    assert [one.label for one in release.members] == ["double@1.0", "double@2.0"]


def test_a_pipeline_of_expressions_alone_has_no_models() -> None:
    release = checked(packed_pipeline(definition(steps=[PqlStep('{"y": in["x"]}')]), models=()))
    assert (release.members, [entry.path for entry in release.record.files]) == ((), [DEFINITION_FILE])


def test_each_model_needs_a_publisher_that_the_root_endorses() -> None:
    with pytest.raises(UnknownKey, match=r"triple@2\.1 in pipe@.*endorses") as caught:
        checked(packed_pipeline(), root=root_of({"ada": PUBLISHER}))
    assert "endorse" in str(caught.value.hint)
    with pytest.raises(UnknownKey):
        checked(packed_pipeline(publisher=BOB), root=root_of({"ada": PUBLISHER}))


def stranger(record: ReleaseRecord) -> bytes:
    return encode(sign(encode(record), RELEASE_TYPE, BOB))


DOUBLE_RECORD = "models/double/1.0/release.json"
DOUBLE_GRAPH = "models/double/1.0/files/model.onnx"
OTHER = packed(scaling(9.0), name="double", version="9")
HEAVY = replace(DOUBLE.record, licenses=("MIT",))


@pytest.mark.parametrize(
    ("alter", "refusal", "said"),
    [
        (lambda p: altered(p, name="other"), MixedParts, "is that of pipe@"),
        (lambda p: altered(p, version="1.0"), MixedParts, r"pipeline\.json of pipe@1\.0 is that of pipe@"),
        (lambda p: altered(p, members=()), MixedParts, "names the models"),
        (lambda p: altered(p, members=p.record.members[::-1]), MixedParts, "names the models triple"),
        (lambda p: altered(p, members=(p.record.members[0],) * 2), WrongDocument, "names one model twice"),
        (lambda p: altered(p, members=(keyed(p, ()), p.record.members[1])), WrongDocument, "0 keys of double"),
        (lambda p: altered(p, members=(keyed(p, ("0" * 64,)), p.record.members[1])), MixedParts, "other keys of"),
        (lambda p: altered(p, files=p.record.files[1:]), WrongDocument, r"without a pipeline\.json"),
        (lambda p: altered(p, files=p.record.files[:-1]), MixedParts, "is missing"),
        (lambda p: altered(p, files=(*p.record.files, p.record.files[0].__class__("x", "doc", digest_of(b""), 0))),
         MixedParts, "files that none of its models has: x"),
        (lambda p: altered(p, replaced={DEFINITION_FILE: b"{}"}), WrongDocument, "no definition"),
        (lambda p: altered(p, replaced={DEFINITION_FILE: b" " * (DEFINITION_BYTES_MAX + 1)}), WrongSize, "at most"),
        (lambda p: altered(p, replaced={DOUBLE_RECORD: b"{}"}), WrongDocument, "no signed record"),
        (lambda p: altered(p, replaced={DOUBLE_RECORD: encode(OTHER.signed)}), MixedParts, "another record of double"),
        (lambda p: altered(p, replaced={DOUBLE_RECORD: stranger(HEAVY)}), MixedParts, "another record of double"),
        (lambda p: altered(p, replaced={DOUBLE_GRAPH: scaling(5.0)}), MixedParts, "another than its own record names"),
    ],
)  # fmt: skip
def test_what_a_pipelines_publisher_cannot_pass_off(
    alter: Callable[[PackedRelease], PackedRelease], refusal: type[Untrusted], said: str, tmp_path: Path
) -> None:
    """However it is signed: a pipeline holds what its definition names, as those who made it signed it."""
    pipeline = alter(packed_pipeline())
    known = {digest_of(content): content for content in whole_files(packed_pipeline()).values()}
    known |= {digest_of(content): content for content in (*pipeline.files.values(), b"")}
    files = {entry.path: known[entry.digest] for entry in pipeline.record.files}
    with pytest.raises(refusal, match=said):
        checked(pipeline, files=files)
    layout = layout_with(tmp_path, *MODELS)
    for content in (*files.values(), pipeline.manifest):
        layout.blobs.put(content)
    with pytest.raises(refusal, match=said):
        check_release(layout.blobs, pipeline.signed, root=ROOT)


def keyed(pipeline: PackedRelease, keys: tuple[str, ...]) -> Any:
    return replace(pipeline.record.members[0], keys=keys)


def test_bytes_of_a_model_are_hashed_as_any_others(tmp_path: Path) -> None:
    pipeline = packed_pipeline()
    broken = whole_files(pipeline) | {DOUBLE_GRAPH: bytes(len(whole_files(pipeline)[DOUBLE_GRAPH]))}
    with pytest.raises(WrongHash, match=DOUBLE_GRAPH):
        checked(pipeline, files=broken)


@pytest.mark.parametrize("kind", ["functions", "pipeline", "development"])
def test_a_step_is_a_released_model_with_a_graph(kind: str) -> None:
    model = DOUBLE
    if kind == "functions":
        model = packed(None, name="double", script="create function f() -> Integer as 1;")
    elif kind == "pipeline":
        model = packed_pipeline(definition(TRIPLE, name="double"), models=(TRIPLE,))
    else:
        record = replace(DOUBLE.record, version="dev+01234567", development=True)
        model = changed(DOUBLE, record=record, signed=sign(encode(record), RELEASE_TYPE, PUBLISHER))
    if kind == "development":
        with pytest.raises((BadPipeline, DevelopmentRefused)):
            packed_pipeline(definition(model), models=(model,))
        return
    pipeline = packed_pipeline(definition(model), models=(model,))
    known = {**whole_files(pipeline, (model, TRIPLE)), **pipeline.files}
    with pytest.raises(WrongDocument, match=f"is of kind {kind}: expected a released model with a graph"):
        checked(pipeline, files=known)


def test_a_development_pipeline_is_admitted_where_development_is() -> None:
    pipeline = packed_pipeline(publisher=BOB, development=True)
    assert pipeline.record.version == f"dev+{version_of(definition(*MODELS))[:8]}"
    root = root_of({"ada": PUBLISHER, "bob": BOB})
    assert checked(pipeline, root=root, development_key=BOB.public).development
    with pytest.raises(DevelopmentRefused):
        checked(pipeline, root=root)


def test_a_pipeline_is_bounded_as_any_release() -> None:
    files = {f"f{n}.md": b"" for n in range(FILES_PER_RELEASE_MAX - 2)}
    entries = tuple(FileEntry(path, "doc", digest_of(b""), 0) for path in files)
    record = replace(DOUBLE.record, files=(*DOUBLE.record.files, *entries))
    big = changed(DOUBLE, record=record, signed=sign(encode(record), RELEASE_TYPE, PUBLISHER))
    with pytest.raises(BadPipeline, match=f"expected at most {FILES_PER_RELEASE_MAX}"):
        packed_pipeline(definition(big), models=(big,))


# --- revocation -----------------------------------------------------------------------------------------------------


def test_a_revoked_publisher_of_one_model_stops_the_pipeline() -> None:
    pipeline = packed_pipeline()
    digest = digest_of(pipeline.signed.payload)
    kept = revoke(ROOT, [BOB.keyid], running="keep", now=NOW)
    stopped = revoke(ROOT, [BOB.keyid], running="stop", now=NOW)
    with pytest.raises(KeyRevoked, match=r"triple@2\.1 in pipe@"):
        checked(pipeline, root=kept)
    assert checked(pipeline, root=kept, running={digest}).members[1].signer == "bob"
    with pytest.raises(KeyRevoked):
        checked(pipeline, root=stopped, running={digest})
    for root, word in ((kept, "keep"), (stopped, "stop")):
        gone = revocation_of(pipeline.signed, root)
        assert gone is not None
        assert gone.running == word
        with pytest.raises(KeyRevoked, match=r'triple@2\.1, a model of pipe, .* of publisher "bob"'):
            check_assignable(pipeline.signed, root, "pipe")
    assert revocation_of(pipeline.signed, ROOT) is None
    assert check_assignable(pipeline.signed, ROOT, "pipe") == PUBLISHER.keyid
    assert stopping({"pipe": {PUBLISHER.keyid, BOB.keyid}, "double": {PUBLISHER.keyid}}, stopped) == ("pipe",)


def test_a_signature_that_does_not_hold_saves_no_model_from_a_revocation() -> None:
    forged = Signature(PUBLISHER.keyid, bytes(64))
    beside = changed(TRIPLE, signed=replace(TRIPLE.signed, signatures=(*TRIPLE.signed.signatures, forged)))
    models = (DOUBLE, beside)
    with pytest.raises(MixedParts, match=r"other keys of triple@2\.1 than signed it"):
        checked(packed_pipeline(models=models))
    held = with_what_holds(beside.signed, ROOT)
    assert held == TRIPLE.signed
    with pytest.raises(UnknownKey):
        with_what_holds(replace(held, signatures=(replace(forged, keyid=KeyId("0" * 64)),)), ROOT)


def test_a_model_that_goes_on_by_itself_does_not_go_on_in_a_new_pipeline() -> None:
    kept = revoke(ROOT, [BOB.keyid], running="keep", now=NOW)
    alone = digest_of(TRIPLE.signed.payload)
    assert verify(TRIPLE.signed, root=kept, manifest=TRIPLE.manifest, files=TRIPLE.files, running={alone})
    with pytest.raises(KeyRevoked):
        checked(packed_pipeline(), root=kept, running={alone})


# --- names ----------------------------------------------------------------------------------------------------------


def test_models_and_pipelines_share_their_names() -> None:
    pipeline = packed_pipeline(definition(*MODELS, name="double")).record
    with pytest.raises(NameOfAnother, match=r'"double" cannot be a pipeline: it names a model, double@1\.0'):
        check_kind(pipeline, [DOUBLE.record])
    with pytest.raises(NameOfAnother, match='"double" cannot be a model: it names a pipeline, double@'):
        check_kind(DOUBLE.record, [pipeline])
    check_kind(pipeline, [pipeline])
    check_kind(DOUBLE.record, [OTHER.record])


def test_a_repository_keeps_the_namespace(tmp_path: Path) -> None:
    layout = layout_with(tmp_path, *MODELS)
    with pytest.raises(NameOfAnother):
        layout.install(packed_pipeline(definition(TRIPLE, name="double"), models=(TRIPLE,)))
    layout.install(packed_pipeline())
    with pytest.raises(NameOfAnother):
        layout.install(packed(scaling(), name="pipe"))
    with pytest.raises(NameOfAnother):
        layout.install(packed_pipeline(definition(TRIPLE, name="double"), models=(TRIPLE,), development=True))


# --- on disk --------------------------------------------------------------------------------------------------------


def test_a_repository_keeps_a_pipeline_beside_its_models_in_the_same_blobs(tmp_path: Path) -> None:
    layout = layout_with(tmp_path, *MODELS)
    before = set(layout.blobs.digests())
    pipeline = packed_pipeline()
    installed = layout.install(pipeline)
    assert layout.install(packed_pipeline()) == installed
    release = layout.verified(pipeline.signed, root=ROOT)
    assert [one.label for one in release.members] == ["double@1.0", "triple@2.1"]
    added = sum(layout.blobs.size(digest) or 0 for digest in set(layout.blobs.digests()) - before)
    assert added < 32_000  # its definition and four small documents; no model
    assert check_release(layout.blobs, pipeline.signed, root=ROOT).kind == "pipeline"


def test_a_pipeline_outlives_the_releases_of_its_models(tmp_path: Path) -> None:
    layout = layout_with(tmp_path, *MODELS)
    installed = layout.install(packed_pipeline())
    for name, version in (("double", "1.0"), ("triple", "2.1")):
        layout.remove(layout.installed(name, version))
    layout.collect_garbage()
    assert [one.label for one in layout.releases()] == [installed.label]
    assert len(layout.verified(layout.signed(installed), root=ROOT).members) == 2
    layout.remove(installed)
    layout.collect_garbage()
    assert list(layout.blobs.digests()) == []


def test_models_outlive_their_pipeline(tmp_path: Path) -> None:
    layout = layout_with(tmp_path, *MODELS)
    layout.remove(layout.install(packed_pipeline()))
    layout.collect_garbage()
    for model in MODELS:
        assert layout.verified(model.signed, root=ROOT).label == model.record.label


def test_a_pipeline_is_not_kept_without_its_models(tmp_path: Path) -> None:
    layout = layout_with(tmp_path, DOUBLE)
    with pytest.raises(MissingPart):
        layout.install(packed_pipeline())
    assert [one.label for one in layout.releases()] == ["double@1.0"]


def test_a_pipeline_is_packed_anew_for_another_registry(tmp_path: Path) -> None:
    layout = layout_with(tmp_path, *MODELS)
    whole = layout.packed(layout.install(packed_pipeline()))
    assert dict(whole.files) == whole_files(packed_pipeline())
    other = layout_with(tmp_path / "other")
    other.install(whole)
    assert len(other.verified(whole.signed, root=ROOT).members) == 2
    assert TRIPLE.record.name == "triple"
