"""Small real releases: packed, hashed and signed by the production code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from federation.documents import KeyId, Needs
from federation.folders import FolderFile, ModelDescription, ModelFolder
from federation.keys import PrivateKey
from federation.names import Digest, digest_of
from federation.packing import Inspection, PackedRelease, pack

MODELS = ("digits", "types", "gauges")
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
    def signer(self) -> KeyId:
        """Releases have one signature here."""
        return self.packed.signed.signatures[0].keyid

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
