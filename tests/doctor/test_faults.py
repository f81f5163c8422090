"""The doctor at real faults, in one process: federations that live, ports, disks, proxies, keys and states."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from peers.doctor.findings import Checked
from peers.doctor.looking import CHECKS, look
from peers.doctor.surroundings import Surroundings
from peers.homes import Home
from tests.badinput.test_full_disk import small_disk
from tests.doctor.looking_at import QUIET, codes, looked, message
from tests.wire.living import Living, living, publisher_of_thermo

pytestmark = pytest.mark.timeout(120)


def beside_the_machine(done: dict[str, Checked]) -> dict[str, list[str]]:
    return {name: found for name, found in codes(done).items() if name not in ("disk", "memory")}


async def test_nothing_is_wrong_with_peers_that_run(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await publisher_of_thermo(federation)
        await federation.value('edge:add_group("e1", "field")')
        await federation.value('edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])')
        await federation.until("//peer: e1\nmodels:loaded()", ["thermo@1.0"])
        await federation.until('edge:status("e1")["converged"]', wanted=True)
        edge = await looked(federation.home("e1"))
        assert beside_the_machine(edge) == {}
        assert list(edge) == [name for name, _ in CHECKS]
        assert edge["uplink"].seen == "open"
        assert edge["opsets"].seen.startswith("onnxruntime ")
        assert edge["multicast"].skipped

        nameserver = await looked(federation.home("ns"))
        assert beside_the_machine(nameserver) == {}
        assert list(nameserver)[-1] == "edges"
        assert "1 edges reported theirs" in nameserver["versions"].seen
        person = await looked(federation.admin)
        assert beside_the_machine(person) == {}
        assert not {"process", "ports", "uplink", "desired state"} & person.keys()
        root = await looked(federation.home("ns-root"))
        assert list(root) == ["home", "disk", "memory"]


async def test_a_stopped_peer_a_taken_port_and_a_wrong_interface(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        e1 = federation.home("e1")
        await federation.until('edge:status("e1")["converged"]', wanted=True)
        await federation.stop("e1")
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            done = await looked(e1, PEERAGE_APPLICATION_PORT=str(port))
        assert beside_the_machine(done) == {"process": ["wrong peer_stopped"], "ports": ["wrong port_taken"]}
        assert f"127.0.0.1:{port} is taken by " in message(done, "ports")
        assert f"process {os.getpid()}" in message(done, "ports")

        done = await looked(e1, PEERAGE_APPLICATION_HOST="192.0.2.1")
        assert message(done, "ports") == "application_host: 192.0.2.1 is no address of this device"
        done = await looked(e1, PEERAGE_ZEROCONF="true", PEERAGE_ZEROCONF_INTERFACE="192.0.2.1")
        assert message(done, "multicast") == "zeroconf_interface: 192.0.2.1 is no address of this device"
        done = await looked(e1, PEERAGE_FEDERATION_PRT="1")
        assert codes(done)["home"] == ["wrong bad_setting"]


async def test_keys_and_certificates(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await federation.stop("e1")
        e1, own = federation.home("e1"), federation.home("e1").identity_crt.read_bytes()
        e1.identity_key.chmod(0o644)
        done = await looked(e1)
        assert codes(done)["home"] == ["wrong loose_mode"]
        e1.identity_key.chmod(0o600)
        e1.identity_crt.write_bytes(federation.admin.identity_crt.read_bytes())
        done = await looked(e1)
        assert "wrong wrong_certificate" in codes(done)["home"]
        assert "nameserver" not in done  # nobody is dialled with what is not ours
        e1.identity_crt.write_bytes(b"hello")
        assert "wrong bad_certificate" in codes(await looked(e1))["home"]
        e1.identity_crt.write_bytes(own)
        await federation.value('edge:remove("e1")')
        done = await looked(e1)
        assert codes(done)["nameserver"] == ["wrong removed"]


async def test_addresses_that_are_wrong(tmp_path: Path) -> None:
    async with living(tmp_path / "a", "e1") as federation, living(tmp_path / "b") as other:
        e1, theirs = federation.home("e1"), other.peers["ns"].record
        right = federation.peers["ns"].record.federation
        assert right is not None
        assert theirs.federation is not None
        assert theirs.application is not None
        done = await looked(e1, PEERAGE_NAMESERVER=theirs.federation)
        name = other.home("ns").membership().federation
        assert f"{theirs.federation} is the nameserver of another federation, {name}" in message(done, "nameserver")
        assert message(done, "nameserver").endswith(f"the nameserver answers at {right}")
        done = await looked(e1, PEERAGE_NAMESERVER=theirs.application)
        assert f"{theirs.application} does not speak TLS" in message(done, "nameserver")
        done = await looked(e1, PEERAGE_NAMESERVER="nowhere.invalid:35021")
        assert "nowhere.invalid is no host that this device knows" in message(done, "nameserver")
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        done = await looked(e1, nameserver=f"127.0.0.1:{port}")
        assert f"nothing listens at 127.0.0.1:{port}: connection refused" in message(done, "nameserver")
        await federation.stop("ns")
        await federation.until('edge:contact()["state"]', "unreachable", home="e1")
        done = await looked(e1, HTTPS_PROXY="http://ada:secret@proxy.corp:3128")
        assert codes(done)["nameserver"] == ["wrong nameserver_refused"]
        assert message(done, "proxy").startswith("HTTPS_PROXY=http://proxy.corp:3128 is set")
        assert codes(done)["desired state"] == ["wrong polls_failing"]
        assert done["uplink"].skipped


# --- in between -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened_in_between(folder: Path) -> AsyncIterator[str]:
    """A proxy that opens TLS with an authority of its own; its address."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Corp Proxy CA")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nameserver.peerage.internal")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "proxy.pem"
    private = serialization.PrivateFormat.PKCS8
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def in_between(target: str, *, life_s: float | None = None) -> AsyncIterator[str]:
    """A proxy that passes bytes on, each connection for so long; without a target's time, it says nothing at all."""
    host, _, port = target.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond_reader, beyond_writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(life_s), asyncio.TaskGroup() as both:
                both.create_task(carry(reader, beyond_writer))
                both.create_task(carry(beyond_reader, writer))
        writer.transport.abort()
        beyond_writer.transport.abort()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_proxy_that_opens_tls(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation, opened_in_between(tmp_path) as proxy:
        e1 = federation.home("e1")
        await federation.stop("e1")
        await federation.stop("ns")
        done = await looked(e1, PEERAGE_NAMESERVER=proxy)
        assert codes(done)["proxy"] == ["wrong tls_intercepted"]
        assert done["proxy"].findings[0].message == (
            f"{proxy} shows a certificate for CN=nameserver.peerage.internal, issued by CN=Corp Proxy CA: something "
            "opens the connection in between, or another server listens there"
        )


async def test_a_proxy_that_ends_long_connections(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await federation.until('edge:listening("e1")', wanted=True)
        await federation.stop("e1")
        right = federation.peers["ns"].record.federation
        assert right is not None
        async with in_between(right, life_s=0.4) as proxy:
            await federation.start_edge("e1", nameserver=proxy)
            done = await looked(federation.home("e1"), PEERAGE_NAMESERVER=proxy)
            assert codes(done)["uplink"] == ["wrong uplink_blocked"]
            assert "nameserver" not in codes(done)
            await federation.stop("e1")


async def test_what_says_nothing_ends_in_time(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await federation.stop("e1")

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            done = await looked(federation.home("e1"), nameserver=address, check_s=0.5)
    assert codes(done)["nameserver"] == ["wrong check_timed_out"]
    assert codes(done)["process"] == ["wrong peer_stopped"]  # others go on


async def test_a_check_that_hangs_holds_nobody(tmp_path: Path) -> None:
    fifo = tmp_path / "home"
    fifo.mkdir(0o700)
    os.mkfifo(fifo / "membership.json")  # reading it never ends, as on a disk that is gone
    told: list[list[str]] = []
    around = Surroundings(Home(fifo), QUIET)
    done = [checked async for checked in look(around, check_s=0.3, waiting=told.append)]
    assert codes({checked.check: checked for checked in done})["home"] == ["wrong check_timed_out"]
    assert any(checked.check == "disk" and checked.level in ("ok", "note", "doubtful", "wrong") for checked in done)
    assert told[-1] == []


# --- disk, state, releases ------------------------------------------------------------------------------------------


def test_a_disk_without_room_and_one_that_is_read_only(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with small_disk(folder, megabytes=80) as disk:
        from peers.doctor.judging_device import judge_disk
        from peers.doctor.seeing_device import disk_facts

        assert [f.code for f in judge_disk(disk_facts(folder / "home"))] == ["disk_low"]
        disk.fill(leave_bytes=1 << 20)
        assert [f.code for f in judge_disk(disk_facts(folder / "home"))] == ["disk_full"]
        mount = shutil.which("mount")
        assert mount is not None
        subprocess.run([mount, "-o", "remount,ro", str(folder)], check=True)
        assert "disk_read_only" in [f.code for f in judge_disk(disk_facts(folder))]


async def test_a_state_that_is_behind_and_a_model_that_does_not_load(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        home = await publisher_of_thermo(federation)
        await federation.until('edge:status("e1")["converged"]', wanted=True)
        await federation.value('edge:set_poll_interval("e1", "1h")')
        await federation.until('//peer: e1\nedge:contact()["state"]', "answered")
        await ages(federation, home)
        done = await looked(federation.home("e1"))
        assert codes(done)["desired state"] == ["wrong model_not_loaded"]
        assert codes(await looked(federation.admin))["edges"] == ["wrong edges_failing"]


async def ages(federation: Living, home: Home) -> None:
    """Assign what this edge's memory does not hold."""
    await federation.stop("e1")
    await federation.start_edge("e1", memory_bytes_max=1)
    await federation.value('edge:add_group("e1", "field")')
    await federation.value('edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])')
    await federation.until('edge:status("e1")["errors"]', 1)


async def test_an_autonomous_edge_is_not_made_to_dial(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await federation.stop("e1")
        await federation.start_edge("e1", mode="AUTONOMOUS")
        done = await looked(federation.home("e1"), PEERAGE_ZEROCONF="true")
        assert codes(done)["home"] == ["note autonomous"]
        assert not {"nameserver", "proxy", "clock", "uplink", "multicast"} & done.keys()
        assert done["process"].level == "ok"
        assert done["versions"].skipped


async def test_releases_for_a_newer_runtime(tmp_path: Path) -> None:
    from engine.opsets import known_opsets
    from peers.doctor.facts import OpsetFacts
    from peers.doctor.judging_device import judge_opsets
    from peers.doctor.seeing_home import installed_opsets

    async with living(tmp_path) as federation:
        home = await publisher_of_thermo(federation)
    runtime, supported = known_opsets()
    assert supported["ai.onnx"] >= 17
    models = installed_opsets(home)
    assert models == {"thermo@1.0": {"ai.onnx": 17}}
    assert list(judge_opsets(OpsetFacts(runtime, supported, models))) == []
    (found,) = judge_opsets(OpsetFacts(runtime, {"ai.onnx": 16}, models))
    assert found.message == f"thermo@1.0 needs ai.onnx 17: {runtime} knows up to ai.onnx 16"


def test_memory_as_linux_and_its_control_groups_tell(tmp_path: Path) -> None:
    from peers.doctor.seeing_device import memory_facts

    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 4096 kB\nMemAvailable: 1024 kB\nSwapFree: 8 kB\n")
    (groups / "box" / "peer").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/box/peer\n")
    (groups / "box" / "peer" / "memory.max").write_text("max\n")
    (groups / "box" / "memory.max").write_text("2097152\n")
    seen = memory_facts(7, proc=proc, groups=groups)
    assert (seen.total_bytes, seen.available_bytes, seen.swap_free_bytes) == (4 << 20, 1 << 20, 8192)
    assert (seen.limit_bytes, seen.models_bytes_max) == (2 << 20, 7)
    (proc / "self" / "cgroup").write_text("3:cpu,memory:/box\n")
    (groups / "memory" / "box").mkdir(parents=True)
    (groups / "memory" / "box" / "memory.limit_in_bytes").write_text("1048576\n")
    assert memory_facts(7, proc=proc, groups=groups).limit_bytes == 1 << 20
    assert memory_facts(7, proc=tmp_path / "none", groups=groups).limit_bytes is None


async def test_a_folder_that_is_no_home(tmp_path: Path) -> None:
    done = await looked(tmp_path / "nope")
    assert message(done, "home") == f"{tmp_path}/nope does not exist: expected a peer's home"
    (tmp_path / "x").write_text("hello")
    done = await looked(tmp_path)
    assert message(done, "home") == f"{tmp_path} is no peer's home: expected membership.json in it"
    assert set(done) <= {"home", "disk", "memory"}
