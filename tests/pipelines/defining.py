"""Pipelines of two small models, as definitions and as releases, for the tests of this folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from federation.documents import RootRecord, SignedDocument
from federation.keys import PrivateKey
from federation.layout import ImageLayout
from federation.names import Digest, digest_of
from federation.packing import PackedRelease
from federation.pipeline_packing import pack_pipeline
from federation.pipelines import Deployment, ModelRef, ModelStep, PipelineDefinition, Step, Validation
from federation.roots import first_root, pin_of, trust_chain
from tests.models.making import DIRECTOR, PUBLISHER, ROOT_KEY, X, Y, packed, scaling

BOB = PrivateKey(bytes(range(5, 37)))
NOW = 1_800_000_000.0
PLAIN = Deployment()


def root_of(publishers: Mapping[str, PrivateKey] = {"ada": PUBLISHER, "bob": BOB}) -> RootRecord:
    signed = first_root(
        "test",
        roots=(ROOT_KEY,),
        director=DIRECTOR.public,
        publishers={name: key.public for name, key in publishers.items()},
        now=int(NOW),
    )
    return trust_chain([signed], pin_of(signed))


def ref_of(model: PackedRelease) -> ModelRef:
    return ModelRef(model.record.name, model.record.version, digest_of(model.signed.payload))


DOUBLE = packed(scaling(2.0), name="double")
TRIPLE = packed(scaling(3.0), name="triple", version="2.1", publisher=BOB)
MODELS = (DOUBLE, TRIPLE)


def definition(
    *models: PackedRelease,
    name: str = "pipe",
    steps: Sequence[Step] = (),
    validations: Sequence[Validation] = (),
    deployment: Deployment = PLAIN,
) -> PipelineDefinition:
    steps = (*steps, *(ModelStep(ref_of(model)) for model in models))
    return PipelineDefinition(name=name, steps=steps, validations=tuple(validations), deployment=deployment)


def signed_records(*models: PackedRelease) -> dict[Digest, SignedDocument]:
    return {digest_of(model.signed.payload): model.signed for model in models}


def packed_pipeline(
    defined: PipelineDefinition | None = None, *, models: Sequence[PackedRelease] = MODELS, **about: Any
) -> PackedRelease:
    return pack_pipeline(
        defined or definition(*models),
        members=signed_records(*models),
        **{"inputs": (X,), "outputs": (Y,), "publisher": PUBLISHER, "now": NOW, **about},
    )


def whole_files(pipeline: PackedRelease, models: Sequence[PackedRelease] = MODELS) -> dict[str, bytes]:
    """Every file of a pipeline's release, those of its models too."""
    known = {digest_of(content): content for model in models for content in (*model.files.values(), model.manifest)}
    return {
        entry.path: pipeline.files[entry.path] if entry.path in pipeline.files else known[entry.digest]
        for entry in pipeline.record.files
    }


def layout_with(folder: Path, *models: PackedRelease) -> ImageLayout:
    layout = ImageLayout(folder)
    for model in models:
        layout.install(model)
    return layout
