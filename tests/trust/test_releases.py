"""What makes a release loadable: a publisher's signature, and bytes that are what it says."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import federation.verification
from federation.documents import RELEASE_TYPE, FileEntry, ReleaseRecord, SignedDocument, encode
from federation.errors import (
    BadSignature,
    DevelopmentRefused,
    MixedParts,
    UnknownKey,
    Untrusted,
    WrongDocument,
    WrongHash,
    WrongSize,
)
from federation.keys import PrivateKey
from federation.names import Digest, digest_of
from federation.record_shape import FILES_PER_RELEASE_MAX, MANIFEST_BYTES_MAX, RELEASE_BYTES_MAX, safe_path
from federation.signing import sign
from federation.verification import VerifiedRelease, verify, verify_record
from tests.trust.material import (
    DEVELOPER,
    DIRECTOR,
    FILES,
    PUBLISHER,
    ROOT,
    ROOT_RECORD,
    STRANGER,
    Package,
    manifest_of,
    package,
    signed_desired,
)


def checked(parcel: Package, **changes: Any) -> VerifiedRelease:
    given = {"doc": parcel.doc, "manifest": parcel.manifest, "files": parcel.files, **changes}
    return verify(
        given["doc"],
        root=ROOT_RECORD,
        manifest=given["manifest"],
        files=given["files"],
        development_key=given.get("development_key"),
    )


def test_a_publishers_release_is_verified() -> None:
    parcel = package()
    release = checked(parcel)
    assert release.record == parcel.record
    assert release.record_digest == digest_of(parcel.doc.payload)
    assert (release.signer, release.keyid, release.development) == ("ann", PUBLISHER.keyid, False)
    assert dict(release.files) == FILES
    assert release.label == "digits@1.0"
    assert repr(release) == "VerifiedRelease(digits@1.0, signed by ann)"
    assert verify_record(parcel.doc, ROOT_RECORD) == parcel.record


# --- nobody else makes one ------------------------------------------------------------------------------------------


def test_a_verified_release_is_not_made_changed_or_copied() -> None:
    made: Any = VerifiedRelease
    for arguments in ((), (None,), (package().record,)):
        with pytest.raises(TypeError):
            made(*arguments)
    with pytest.raises(TypeError):
        type("Mine", (made,), {})
    release: Any = checked(package())
    for name in ("record", "files", "development", "other"):
        with pytest.raises(AttributeError):
            setattr(release, name, None)
    with pytest.raises(AttributeError):
        del release.record
    with pytest.raises(TypeError):
        release.files["model.onnx"] = b"other"
    for leak in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            leak(release)
    with pytest.raises(TypeError):
        msgspec.structs.replace(release)


def test_the_files_of_a_verified_release_are_its_own() -> None:
    given = {path: bytearray(content) for path, content in FILES.items()}
    release = checked(package(), files=given)
    given["model.onnx"][:] = b"altered"
    given["more"] = bytearray(b"")
    assert dict(release.files) == FILES


def test_one_place_in_the_program_makes_one() -> None:
    """Whoever goes round the constructor would have to spell it; nobody but verify() does."""
    here = Path(federation.verification.__file__)
    spelled = [
        path
        for package_path in ("query", "federation", "engine", "peers")
        for path in (here.parents[1] / package_path).rglob("*.py")
        if "__new__(VerifiedRelease" in path.read_text(encoding="utf-8")
    ]
    assert spelled == [here]
    assert here.read_text(encoding="utf-8").count("object.__new__(VerifiedRelease)") == 1


# --- signatures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signer", [ROOT, DIRECTOR, STRANGER, DEVELOPER])
def test_only_an_endorsed_publisher_signs_a_release(signer: PrivateKey) -> None:
    with pytest.raises(UnknownKey) as caught:
        checked(package(signer))
    assert "endorse" in str(caught.value.hint)


CHANGES: dict[str, Any] = {
    "name": "letters",
    "version": "2.0",
    "manifest": Digest("sha256:" + "1" * 64),
    "manifest_size": 1,
    "kind": "functions",
    "files": (),
    "inputs": (msgspec.convert({"name": "x", "datatype": "FP32", "shape": [1]}, federation.documents.TensorSpec),),
    "outputs": (msgspec.convert({"name": "y", "datatype": "FP32", "shape": [1]}, federation.documents.TensorSpec),),
    "opset": {"ai.onnx": 99},
    "needs": federation.documents.Needs(memory_bytes=1),
    "licenses": ("MIT",),
    "created": 5,
    "development": True,
    "states": (federation.documents.StateSpec("x", "y"),),
    "members": (federation.documents.MemberEntry("m", "1", Digest("sha256:" + "2" * 64), ("3" * 64,)),),
}


def test_the_changes_below_cover_every_field() -> None:
    assert CHANGES.keys() == set(ReleaseRecord.__struct_fields__)


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_of_a_record_is_signed(field: str) -> None:
    genuine = package()
    altered = encode(msgspec.structs.replace(genuine.record, **{field: CHANGES[field]}))
    assert altered != genuine.doc.payload
    with pytest.raises(BadSignature):
        checked(genuine, doc=SignedDocument(altered, RELEASE_TYPE, genuine.doc.signatures))


@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_every_bit_of_a_release_counts(at: int, flip: int) -> None:
    genuine = package()
    parts = [genuine.doc.payload, genuine.manifest, *genuine.files.values()]
    sizes = [len(part) for part in parts]
    at %= sum(sizes)
    for number, part in enumerate(parts):
        if at < len(part):
            altered = bytearray(part)
            altered[at] ^= flip
            parts[number] = bytes(altered)
            break
        at -= len(part)
    payload, manifest, *contents = parts
    doc = SignedDocument(payload, RELEASE_TYPE, genuine.doc.signatures)
    with pytest.raises((BadSignature, WrongHash)):
        checked(genuine, doc=doc, manifest=manifest, files=dict(zip(genuine.files, contents, strict=True)))


def test_a_document_of_another_kind_is_no_release() -> None:
    with pytest.raises(WrongDocument):
        checked(package(), doc=signed_desired(PUBLISHER))
    with pytest.raises(WrongDocument, match="expected a release record"):
        checked(package(), doc=sign(signed_desired().payload, RELEASE_TYPE, PUBLISHER))
    with pytest.raises(WrongDocument):
        checked(package(), doc=sign(package().doc.payload[:-1] + b',"more":1}', RELEASE_TYPE, PUBLISHER))


# --- content --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", WrongSize), (b"weightsx", WrongSize), (b"weight", WrongSize), (b"weighty", WrongHash)],
)
def test_a_file_is_what_the_record_says(content: bytes, expected: type[Untrusted]) -> None:
    with pytest.raises(expected, match=r"model\.onnx of digits@1\.0: expected"):
        checked(package(), files={**FILES, "model.onnx": content})


def test_the_manifest_is_what_the_record_says() -> None:
    parcel = package()
    with pytest.raises(WrongSize, match=r"the manifest of digits@1\.0"):
        checked(parcel, manifest=parcel.manifest + b" ")
    with pytest.raises(WrongHash, match=r"the manifest of digits@1\.0"):
        checked(parcel, manifest=b" " * len(parcel.manifest))


def test_parts_of_two_releases_do_not_mix() -> None:
    first, second = package(), package(contents={**FILES, "model.onnx": b"heavier"}, version="2.0")
    with pytest.raises(Untrusted):
        checked(first, manifest=second.manifest)
    with pytest.raises(WrongHash):
        checked(first, files=second.files)
    with pytest.raises(MixedParts, match="name different files"):
        checked(package(packed=second.manifest))
    with pytest.raises(MixedParts, match=r"expected the files functions\.pql, model\.onnx of digits@1\.0, found model"):
        checked(first, files={"model.onnx": FILES["model.onnx"]})
    with pytest.raises(MixedParts):
        checked(first, files={**FILES, "extra": b""})


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        manifest_of(FILES).replace(b"oci.image.manifest", b"oci.image.index..."),
        manifest_of({}),
        manifest_of(FILES).replace(b"weight.v1", b"doc.v1"),
        manifest_of(FILES).replace(b'filepath":"model.onnx"', b'filepath":"other.onnx"'),
    ],
)
def test_a_signed_manifest_that_is_none_of_these_files_is_refused(manifest: bytes) -> None:
    with pytest.raises(MixedParts):
        checked(package(packed=manifest))


def test_layers_that_model_pack_does_not_know_are_ignored() -> None:
    manifest = manifest_of(FILES, extra=({"mediaType": "application/x.other", "digest": "sha256:0", "size": 1},))
    assert dict(checked(package(packed=manifest)).files) == FILES


def _entry(path: str, *, kind: str = "doc", size: int = 0) -> FileEntry:
    return FileEntry(path, kind, digest_of(b""), size)


_WEIGHT = _entry("model.onnx", kind="weight")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "No"}, WrongDocument),
        ({"version": "1.0+x"}, WrongDocument),
        ({"version": ""}, WrongDocument),
        ({"manifest": Digest("sha256:short")}, WrongDocument),
        ({"files": (_WEIGHT, FileEntry("a", "doc", Digest("md5:1"), 0))}, WrongDocument),
        ({"files": ()}, WrongSize),
        ({"files": (_WEIGHT, *(_entry(f"f{n}") for n in range(FILES_PER_RELEASE_MAX)))}, WrongSize),
        ({"files": (_WEIGHT, _entry("big", size=RELEASE_BYTES_MAX + 1))}, WrongSize),
        ({"manifest_size": MANIFEST_BYTES_MAX + 1}, WrongSize),
        ({"files": (_WEIGHT, _entry("../escape"))}, WrongDocument),
        ({"files": (_WEIGHT, _entry("Readme"), _entry("README"))}, WrongDocument),
        ({"files": (_WEIGHT, _entry("two.onnx", kind="weight"))}, WrongDocument),
        ({"files": (_entry("notes"),)}, WrongDocument),
        ({"kind": "functions"}, WrongDocument),
        ({"kind": "functions", "files": (_entry("labels.json", kind="code"),)}, WrongDocument),
    ],
)
def test_what_a_publisher_may_not_sign_is_refused_before_anything_is_fetched(
    fields: dict[str, Any], expected: type[Untrusted]
) -> None:
    with pytest.raises(expected):
        verify_record(package(**fields).doc, ROOT_RECORD)


def test_functions_alone_are_a_release() -> None:
    files = {"functions.pql": FILES["functions.pql"]}
    assert checked(package(contents=files, kind="functions")).record.kind == "functions"


@pytest.mark.parametrize("path", ["model.onnx", "a/b/c.txt", "a-b_c", "v1.0/x@y+z", "_x"])
def test_plain_paths(path: str) -> None:
    assert safe_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "a//b",
        "a/../b",
        "a/.",
        "../out-evil",
        "a\\b",
        "C:x",
        ".hidden",
        "a\n",
        "a\0",
        "ä" * 9,
        "x" * 513,
    ],
)
def test_paths_that_are_not_plain(path: str) -> None:
    assert not safe_path(path)


# --- development releases -------------------------------------------------------------------------------------------


def development(*signers: PrivateKey, **fields: Any) -> Package:
    return package(*(signers or (DEVELOPER,)), **{"version": "dev+0123abcd", "development": True, **fields})


def test_a_development_release_needs_the_devices_own_key() -> None:
    release = checked(development(), development_key=DEVELOPER.public)
    assert release.development
    assert (release.signer, release.keyid) == ("development", DEVELOPER.keyid)
    assert release.label == "digits@dev+0123abcd"
    with pytest.raises(DevelopmentRefused, match="which this peer does not accept") as caught:
        checked(development())
    assert "accept_development" in str(caught.value.hint)
    with pytest.raises(UnknownKey, match="root record endorses"):
        checked(package(STRANGER))
    with pytest.raises(UnknownKey):
        checked(development(STRANGER), development_key=DEVELOPER.public)


def test_a_publisher_cannot_push_a_development_release_to_a_device() -> None:
    with pytest.raises(DevelopmentRefused, match="which this peer does not accept"):
        checked(development(PUBLISHER))
    with pytest.raises(UnknownKey, match="own key did not sign"):
        checked(development(PUBLISHER), development_key=DEVELOPER.public)


def test_a_development_key_signs_no_ordinary_release() -> None:
    with pytest.raises(UnknownKey, match="is not a development release"):
        checked(package(DEVELOPER), development_key=DEVELOPER.public)
    assert not checked(package(), development_key=DEVELOPER.public).development


def test_a_publisher_may_be_the_developer_too() -> None:
    assert checked(development(PUBLISHER), development_key=PUBLISHER.public).development
    assert not checked(package(), development_key=PUBLISHER.public).development


@pytest.mark.parametrize("version", ["1.0", "dev+0123ABCD", "dev+0123abc", "dev+0123abcd9", "dev"])
def test_a_development_release_has_a_version_of_its_own(version: str) -> None:
    with pytest.raises(WrongDocument):
        checked(development(version=version), development_key=DEVELOPER.public)
