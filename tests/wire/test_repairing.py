"""What a nameserver finds in its repository when it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.layout import ImageLayout
from federation.layout_index import RELEASE, annotations_of
from federation.manifests import Index, encode_index, read_index
from tests.wire.living import living, publisher_of_thermo


async def test_a_release_that_a_kill_left_unlisted_is_there_after_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with living(tmp_path) as federation:
        await publisher_of_thermo(federation)
        await federation.stop("ns")
        unlist(federation.home("ns").releases)
        assert ImageLayout(federation.home("ns").releases).releases() == ()
        await federation.start_nameserver()
        assert await federation.value("models:available()") == ["thermo@1.0"]
        await federation.value('models:import("thermo", "1.0")')
        assert "release_repaired" in [entry.getMessage() for entry in caplog.records]
        assert "release_incomplete" not in [entry.getMessage() for entry in caplog.records]


def unlist(releases: Path) -> None:
    """As a kill leaves it between the log and the listing: the record is not attached."""
    path = releases / "index.json"
    index = read_index(path.read_bytes())
    left = tuple(entry for entry in index.manifests if RELEASE not in annotations_of(entry))
    assert len(left) == len(index.manifests) - 1
    path.write_bytes(encode_index(Index(manifests=left)))
