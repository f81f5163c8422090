"""What skopeo sends when it copies, lists and deletes, request by request, and that each is answered as it expects."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from federation.attachments import fallback_tag
from federation.packing import PackedRelease
from tests.repository.registries import copied, skopeo
from tests.repository.site import Party
from tests.repository.test_oras_client import REPOSITORY, Bench, bench, release

__all__ = ["bench", "release"]

VERSION = Counter({"GET version": 1})


def certs(folder: Path, party: Party) -> Path:
    """A peer's files as ``peerage certs`` writes them."""
    folder.mkdir()
    identity = party.identity
    for name, path in (("ca.crt", identity.ca), ("client.cert", identity.certificate), ("client.key", identity.key)):
        (folder / name).write_text(path.read_text())
    return folder


async def sent(bench: Bench, *arguments: str) -> Counter[str]:
    """What one command asked; blobs go side by side, so their order is skopeo's own."""
    bench.told()
    await asyncio.to_thread(copied, *arguments)
    return Counter(bench.told())


async def test_copying_listing_deleting(bench: Bench, release: PackedRelease, tmp_path: Path) -> None:
    folder = certs(tmp_path / "certs", bench.federation.operator)
    name, source = f"docker://{bench.address}/{REPOSITORY}", f"--src-cert-dir={folder}"
    destination = f"--dest-cert-dir={folder}"
    bench.layout.install(release)
    blobs = len(release.files) + 1  # and the config
    archive = f"oci-archive:{tmp_path / 'release.tar'}:1.0"
    out = await sent(bench, "copy", source, f"{name}:1.0", archive)
    assert out == VERSION + Counter({"GET manifests": 1, "GET blobs": blobs})
    records = f"oci-archive:{tmp_path / 'records.tar'}:records"
    tag = fallback_tag(release.record.manifest)
    out = await sent(bench, "copy", "--all", source, f"{name}:{tag}", records)
    assert out == VERSION + Counter({"GET manifests": 2, "GET blobs": 2})  # the index and the attachment
    out = await sent(bench, "delete", f"--cert-dir={folder}", f"{name}:1.0")
    assert out == VERSION + Counter({"GET manifests": 1, "DELETE manifests": 1})
    for listed in bench.layout.blobs.digests():
        bench.layout.remove_blob(listed)
    into = await sent(bench, "copy", destination, archive, f"{name}:1.0")
    # A blob that is not here is asked for once or twice, as skopeo's own cache, shared by its processes, has it.
    assert blobs <= into.pop("HEAD blobs") <= 2 * blobs
    assert into == VERSION + Counter(
        {
            "POST uploads": blobs,
            "PATCH uploads": blobs,
            "PUT uploads?digest": blobs,
            "PUT manifests": 1,
        }
    )
    again = await sent(bench, "copy", destination, archive, f"{name}:1.0")
    assert again == VERSION + Counter({"HEAD blobs": blobs, "PUT manifests": 1})
    assert bench.layout.releases() == ()
    await sent(bench, "copy", "--all", destination, records, f"{name}:{tag}")
    assert [entry.label for entry in bench.layout.releases()] == ["doubler@1.0"]
    assert bench.layout.packed(bench.layout.releases()[0]) == release
    assert await sent(bench, "list-tags", f"--cert-dir={folder}", name) == VERSION + Counter({"GET tags": 1})


async def test_a_refusal_names_its_reason(bench: Bench, release: PackedRelease, tmp_path: Path) -> None:
    folder = certs(tmp_path / "certs", bench.federation.operator)
    bench.layout.install(release)
    bench.registrations.held.add("doubler@1.0")
    name = f"docker://{bench.address}/{REPOSITORY}:1.0"
    ran = await asyncio.to_thread(skopeo, "delete", f"--cert-dir={folder}", name)
    assert ran.returncode == 1
    assert "doubler@1.0 is held by 1, expected nobody: group field has it" in ran.stderr
    assert "release_held" in ran.stderr
