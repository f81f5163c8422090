"""Small real releases: packed, hashed and signed by the production code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from federation.documents import KeyId, Needs
from federation.folders import FolderFile, ModelDescription, ModelFolder
from federation.keys import PrivateKey
from federation.names import Digest, digest_of
from federation.packing import Inspection, PackedRelease, pack
from federation.pipeline_packing import pack_pipeline
from federation.pipelines import ModelRef, ModelStep, PipelineDefinition, PqlStep

PIPELINE = "prices"
MODELS = ("digits", "types", "gauges", PIPELINE)
ROGUE = PrivateKey(b"x" * 32)
GOOD = "good"
FAILS = "fails its test vectors"  # what a simulated engine looks for in a release's functions


@dataclass(frozen=True, slots=True)
class Made:
    """A release and the digest that desired states name it by."""

    packed: PackedRelease
    record: Digest

    @property
    def label(self) -> str:
        return self.packed.record.label

    @property
    def signers(self) -> frozenset[KeyId]:
        """Releases have one signature here, and a pipeline one more for each of its models."""
        signed = {keyid for member in self.packed.record.members for keyid in member.keys}
        return frozenset({self.packed.signed.signatures[0].keyid, *signed})

    @property
    def blobs(self) -> dict[Digest, bytes]:
        contents = (self.packed.manifest, self.packed.config, *self.packed.files.values())
        return {digest_of(content): content for content in contents}

    @property
    def needs(self) -> Mapping[str, str]:
        return self.packed.record.needs.releases

    @property
    def name(self) -> str:
        return self.packed.record.name

    @property
    def version(self) -> str:
        return self.packed.record.version


def made(
    name: str,
    version: str,
    publisher: PrivateKey,
    *,
    content: str = GOOD,
    development: bool = False,
    needs: Mapping[str, str] = MappingProxyType({}),
) -> Made:
    """A release of functions alone whose one file says ``content``."""
    source = f"create function f() -> Charstring as '{name} {version} {content}';".encode()
    folder = ModelFolder(
        path=Path(name),
        description=ModelDescription(
            name=name, kind="functions", functions=("f.pql",), needs=Needs(releases=dict(needs))
        ),
        files={"f.pql": FolderFile("f.pql", "code", source)},
    )
    packed = pack(
        folder,
        version=version,
        publisher=publisher,
        inspection=Inspection((), (), {}),
        now=1.0,
        development=development,
    )
    return Made(packed, digest_of(packed.signed.payload))


def made_pipeline(number: int, publisher: PrivateKey, *, content: str, signers: Sequence[PrivateKey]) -> Made:
    """A pipeline of one model for each of ``signers``, whose files all say ``content``."""
    models = [
        pack(
            ModelFolder(
                path=Path("model"),
                description=ModelDescription(name=f"part-{place}"),
                files={"model.onnx": FolderFile("model.onnx", "weight", f"{number} {place} {content}".encode())},
            ),
            version="1.0",
            publisher=signer,
            inspection=Inspection((), (), {"ai.onnx": 17}),
            now=1.0,
        )
        for place, signer in enumerate(signers)
    ]
    digests = [digest_of(model.signed.payload) for model in models]
    refs = [ModelRef(one.record.name, "1.0", digest) for one, digest in zip(models, digests, strict=True)]
    definition = PipelineDefinition(name=PIPELINE, steps=(PqlStep(f"{number}"), *map(ModelStep, refs)))
    packed = pack_pipeline(
        definition,
        members={digest: model.signed for digest, model in zip(digests, models, strict=True)},
        inputs=(),
        outputs=(),
        publisher=publisher,
        now=1.0,
    )
    known = {digest_of(one): one for model in models for one in (model.manifest, *model.files.values())}
    files = {
        entry.path: packed.files[entry.path] if entry.path in packed.files else known[entry.digest]
        for entry in packed.record.files
    }
    return Made(replace(packed, files=files), digest_of(packed.signed.payload))
