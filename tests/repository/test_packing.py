"""Packing: the same folder gives the same bytes, and what was packed is what verifies."""

from pathlib import Path

import msgspec
import pytest

from federation.documents import ReleaseRecord, TensorSpec, decode
from federation.errors import DevelopmentRefused, UnknownKey
from federation.folders import BadFolder, read_folder
from federation.manifests import CONFIG_TYPE, MANIFEST_TYPE, MODEL_TYPE, read_manifest
from federation.names import BadName, checked_model, digest_of
from federation.packing import Inspection, pack, record_digest
from federation.verification import verify
from tests.repository.site import CODE, PUBLISHER, STRANGER, packed, root_record, write_model


def test_a_packed_release_verifies(tmp_path: Path) -> None:
    release = packed(write_model(tmp_path))
    verified = verify(release.signed, root=root_record(), manifest=release.manifest, files=release.files)
    assert verified.label == "doubler@1.0"
    assert verified.signer == "publisher"
    assert dict(verified.files) == {"f.pql": CODE.encode()}
    assert release.repository == "models/doubler"
    assert record_digest(release.signed) == verified.record_digest


def test_the_manifest_is_modelpack_with_raw_layers_and_a_real_config(tmp_path: Path) -> None:
    release = packed(write_model(tmp_path, more='licenses = ["MIT"]\ndescription = "doubles"\n'))
    manifest = read_manifest(release.manifest)
    assert (manifest.media_type, manifest.artifact_type) == (MANIFEST_TYPE, MODEL_TYPE)
    assert manifest.config.media_type == CONFIG_TYPE
    assert manifest.config.digest == digest_of(release.config)
    (layer,) = manifest.layers
    assert layer.media_type == "application/vnd.cncf.model.code.v1.raw"
    assert layer.digest == digest_of(CODE.encode())
    assert layer.annotations == {"org.opencontainers.image.title": "f.pql", "org.cncf.model.filepath": "f.pql"}
    assert msgspec.json.decode(release.config) == {
        "descriptor": {"name": "doubler", "version": "1.0", "description": "doubles", "licenses": ["MIT"]},
        "config": {},
        "modelfs": {"type": "layers", "diffIds": [digest_of(CODE.encode())]},
    }
    assert release.record.manifest == digest_of(release.manifest)
    assert release.record.manifest_size == len(release.manifest)


def test_packing_is_deterministic_but_for_the_time_in_the_record(tmp_path: Path) -> None:
    write_model(tmp_path)
    first, later = packed(tmp_path, now=1.0), packed(tmp_path, now=2.0)
    assert (first.manifest, first.config) == (later.manifest, later.config)
    assert (first.record.created, later.record.created) == (1, 2)
    assert packed(tmp_path, version="1.1").manifest != first.manifest


def test_a_development_release_is_named_by_its_content_and_only_its_own_key_admits_it(tmp_path: Path) -> None:
    write_model(tmp_path)
    release = packed(tmp_path, publisher=STRANGER, development=True)
    again = packed(tmp_path, publisher=STRANGER, development=True, now=999.0, version="ignored")
    assert release.record.version == again.record.version
    assert release.record.version.startswith("dev+")
    assert len(release.record.version) == len("dev+") + 8
    assert release.repository == "development/doubler"
    parts = {"manifest": release.manifest, "files": release.files, "root": root_record()}
    assert verify(release.signed, development_key=STRANGER.public, **parts).development
    with pytest.raises(DevelopmentRefused):
        verify(release.signed, **parts)
    with pytest.raises(UnknownKey):
        verify(release.signed, development_key=PUBLISHER.public, **parts)
    write_model(tmp_path, code=CODE + CODE)
    assert packed(tmp_path, development=True).record.version != release.record.version


def test_the_signature_is_the_models_own(tmp_path: Path) -> None:
    folder = write_model(tmp_path, more='[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [-1, 4]\n')
    own = TensorSpec("x", "FP32", (-1, 4))
    options = {"version": "1.0", "publisher": PUBLISHER, "now": 0.0}
    release = pack(read_folder(folder), inspection=Inspection((own,), (), {"ai.onnx": 17}), **options)
    assert decode(release.signed.payload, ReleaseRecord).inputs == (own,)
    annotations = read_manifest(release.manifest).annotations
    assert annotations == {"peerage.inputs": "x FP32[-1,4]", "peerage.opset": "ai.onnx 17"}
    with pytest.raises(BadFolder, match=r"has inputs x FP32\[-1,8\].*model.toml says x FP32\[-1,4\]"):
        pack(read_folder(folder), inspection=Inspection((TensorSpec("x", "FP32", (-1, 8)),), (), {}), **options)


def test_the_name_of_all_statistics_is_no_models() -> None:
    """/v2/models/stats tells of every model."""
    with pytest.raises(BadName, match='"stats" is reserved'):
        checked_model("stats")
    assert checked_model("stats-2") == "stats-2"


@pytest.mark.parametrize("version", ["", "1.0+x", "a b", "-1", "x" * 129, "dev+12345678"])
def test_a_version_that_no_registry_could_carry(tmp_path: Path, version: str) -> None:
    with pytest.raises(BadName, match="cannot be a version"):
        packed(write_model(tmp_path), version=version)
