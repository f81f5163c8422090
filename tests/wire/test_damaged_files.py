"""A release that was damaged on an edge's disk: what runs goes on, and at the next start it is fetched again."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.layout import ImageLayout
from federation.names import digest_of
from tests.wire.living import Living, living, publisher_in

CODE = b"create function m_answer() -> Number as 42;\n"


async def runs_m(federation: Living) -> None:
    home = await publisher_in(federation)
    folder = home.models / "m"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text('name = "m"\nkind = "functions"\nfunctions = ["f.pql"]\n')
    (folder / "f.pql").write_bytes(CODE)
    await federation.value('models:create_release("m", "1.0")', home="ada")
    await federation.value('models:publish("m", "1.0")', home="ada")
    await federation.value('edge:set_group_models("all", [{"name": "m", "version": "1.0"}])')
    await federation.until("m_answer()", 42, home="e1")


@pytest.mark.parametrize("left", [CODE.replace(b"42", b"43"), CODE[:7], b""], ids=["a byte", "cut", "empty"])
async def test_a_damaged_file_is_fetched_again_at_the_next_start(tmp_path: Path, left: bytes) -> None:
    async with living(tmp_path, "e1") as federation:
        await runs_m(federation)
        await federation.stop("e1")
        blob = federation.home("e1").releases / "blobs" / "sha256" / digest_of(CODE).removeprefix("sha256:")
        blob.write_bytes(left)
        await federation.start_edge("e1")
        await federation.until("m_answer()", 42, home="e1")
        assert blob.read_bytes() == CODE


async def test_a_damaged_manifest_is_fetched_again_at_the_next_start(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await runs_m(federation)
        await federation.stop("e1")
        layout = ImageLayout(federation.home("e1").releases)
        (release,) = layout.releases()
        raw = layout.blobs.read(release.manifest, bytes_max=2**20)
        layout.blobs.path(release.manifest).write_bytes(raw.replace(b"sha256:", b"sha512:"))
        await federation.start_edge("e1")
        await federation.until("m_answer()", 42, home="e1")
        assert layout.blobs.read(release.manifest, bytes_max=2**20) == raw
