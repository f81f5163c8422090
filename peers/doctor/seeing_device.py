"""What the machine says: room on disk, memory, whether ports can be listened on.

Owns the reading of ``/proc`` and of control groups, as far as it is needed here; on a system without them less is seen.
Nothing is written; a port is bound for a moment and let go.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from peers.doctor.facts import DiskFacts, MemoryFacts, PortFacts

PROCESSES_MAX: Final = 4096  # looked at for who holds a port
PROC: Final = Path("/proc")
CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")


def disk_facts(path: Path) -> DiskFacts:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    status = os.statvfs(there)
    return DiskFacts(
        path=str(path),
        free_bytes=status.f_bavail * status.f_frsize,
        total_bytes=status.f_blocks * status.f_frsize,
        inodes_free=status.f_favail,
        inodes=status.f_files,
        read_only=bool(status.f_flag & os.ST_RDONLY),
        writable=os.access(there, os.W_OK | os.X_OK),
    )


def memory_facts(models_bytes_max: int, *, proc: Path = PROC, groups: Path = CONTROL_GROUPS) -> MemoryFacts:
    told = {}
    with suppress(OSError):
        for line in (proc / "meminfo").read_text("ascii").splitlines():
            name, _, amount = line.partition(":")
            told[name] = int(amount.split()[0]) * 1024
    whole = told.get("MemTotal", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return MemoryFacts(
        total_bytes=whole,
        available_bytes=told.get("MemAvailable", whole),
        limit_bytes=_group_limit(proc, groups),
        models_bytes_max=models_bytes_max,
        swap_free_bytes=told.get("SwapFree", 0),
    )


def _group_limit(proc: Path, groups: Path) -> int | None:
    """The least ``memory.max`` of this process's control group and those above it; of the first version its own."""
    limits: list[int] = []
    with suppress(OSError, ValueError):
        for line in (proc / "self" / "cgroup").read_text("ascii").splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers == "":
                folder = groups / place.strip("/")
                for one in (folder, *folder.parents):
                    limits += _number(one / "memory.max")
                    if one == groups:
                        break
            elif "memory" in controllers.split(","):
                limits += _number(groups / "memory" / place.strip("/") / "memory.limit_in_bytes")
                limits += _number(groups / "memory" / "memory.limit_in_bytes")
    sensible = [limit for limit in limits if 0 < limit < 1 << 60]
    return min(sensible, default=None)


def _number(file: Path) -> Iterator[int]:
    with suppress(OSError, ValueError):
        yield int(file.read_text("ascii"))


def port_facts(setting: str, host: str, port: int) -> PortFacts:
    """Whether this process could listen there now. ``port`` 0 always can, if the host is this device's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        return PortFacts(setting, host, port, errno.EADDRNOTAVAIL)
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            return PortFacts(setting, host, port, error.errno or 0, holder=_holder(port))
    return PortFacts(setting, host, port)


def _holder(port: int, *, proc: Path = PROC) -> str | None:
    """``name, process 7`` of who listens on a port; None where this user may not know."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError, ValueError, IndexError):
            for line in (proc / "net" / table).read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    numbers = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    for number in numbers[:PROCESSES_MAX]:
        with suppress(OSError):
            if any(str(one.readlink()) in inodes for one in (proc / str(number) / "fd").iterdir()):
                return f"{(proc / str(number) / 'comm').read_text('utf-8').strip()}, process {number}"
    return None


def is_own_address(host: str) -> bool:
    """Whether this device has an address; False for what is none."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except (OSError, ValueError):
        return False
    return True
