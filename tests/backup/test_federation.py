"""A restored nameserver among its edges, in one event loop: what is downloaded, who is believed."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from peers.backups import take_backup
from peers.nameserver_peer import run_nameserver
from peers.restoring import Restored, Wishes, restore
from peers.settings import NameserverSettings
from tests.wire.living import Living, living, publisher_of_thermo


class BlobReads:
    """Which blobs of a home's repository this process opens, from when it is told to look."""

    def __init__(self, home: Path) -> None:
        self._folder = f"{home / 'releases' / 'blobs'}/"
        self.looking = False
        self.names: list[str] = []
        sys.addaudithook(self._heard)  # for the rest of this process: there is no way to take one back

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.looking and event == "open" and str(arguments[0]).startswith(self._folder):
            self.names.append(Path(str(arguments[0])).name)


async def started(federation: Living, name: str) -> str:
    """Start the nameserver of a restored home beside the old one; its address."""
    settings = NameserverSettings(
        zeroconf=False,
        federation_host="127.0.0.1",
        federation_port=0,
        application_port=0,
        admin_home=str(federation.admin.path),
    )
    record = await federation._start(name, run_nameserver, settings)
    assert record.federation is not None
    return record.federation


async def restored(federation: Living, folder: Path) -> Restored:
    roots = (federation.home("ns-root"), federation.admin)
    home = federation.home("ns2")
    return await asyncio.to_thread(restore, folder, home, Wishes(roots=roots), clock=time.time)


async def test_no_blob_is_asked_for_and_the_old_nameserver_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    async with living(tmp_path, "e1") as federation:
        await publisher_of_thermo(federation)
        await federation.value('edge:add_group("e1", "field")')
        await federation.value('edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])')
        await federation.until('edge:status("e1")["converged"]', wanted=True)
        taken = await asyncio.to_thread(take_backup, federation.home("ns"), folder, clock=time.time)
        assert taken.snapshot.lacking == ()
        old = federation.peers["ns"].record.federation
        done = await restored(federation, folder)
        reads = BlobReads(federation.home("ns2").path)
        new = await started(federation, "ns2")
        reads.looking = True
        await federation.stop("e1")
        await federation.start_edge("e1", nameserver=new)
        await federation.until('edge:status("e1")["converged"]', wanted=True, home="ns2")
        await federation.until('edge:listening("e1")', wanted=True, home="ns2")  # its uplink is there again
        assert (
            await federation.value('//peer: e1\nmodels:infer("thermo", [100.0])["fahrenheit"]', home="ns2") is not None
        )
        assert await federation.value('edge:get_config("e1")["epoch"]', home="ns2") == done.epoch
        assert reads.names == []
        # the old one still runs, and changes what it likes: the edge has heard of the new epoch
        await federation.stop("e1")
        await federation.value('edge:remove_group_models("field", ["thermo"])', home="ns")
        await federation.start_edge("e1", nameserver=old)
        await federation.until('edge:contact()["error"]', "old_epoch", home="e1")
        assert await federation.value("models:loaded()", home="e1") == ["thermo@1.0"]
        # and a new edge does fetch what it needs from the restored repository
        await federation.stop("ns")
        await federation.add_edge("e2", nameserver=new)
        await federation.value('edge:add_group("e2", "field")', home="ns2")
        await federation.until("models:loaded()", ["thermo@1.0"], home="e2")
        assert len(reads.names) > 0
