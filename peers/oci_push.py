"""Pushing a release to an OCI registry: what is sent, in which order, under which identity and limits.

Owns the order, the progress and the errors of a push; one address's registry is :mod:`peers.oci_registry`.

Order: files, config, record; then the manifest under its version (a development release: under its digest); then the
attachment that carries the signed record, at whose arrival the nameserver registers the release. A crash between
leaves what nobody looks at. Everything here blocks and runs on one thread; leaving early stops it at the next piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.blobs import DamagedBlob
from federation.documents import encode
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease
from federation.manifests import EMPTY_CONFIG, read_manifest
from federation.names import checked_digest, digest_of
from federation.tls import NAMESERVER_HOSTNAME
from query.declarations import Progress, silent
from query.errors import Cancelled, PeerProblem, Problem, WorldProblem

ATTACHMENT_BYTES_MAX: Final = 64 * 1024
PROGRESS_BYTES: Final = 1024 * 1024


class PushFailed(WorldProblem):
    """The registry could not be reached, fell silent, or failed."""

    code = "push_failed"


class PushRefused(PeerProblem):
    """The registry refused, or is not the one that was meant."""

    code = "push_refused"


@dataclass(frozen=True, slots=True)
class PushIdentity:
    """Files of the mutual TLS: the authority to trust, and who pushes. ``hostname`` is checked, whatever is dialled."""

    ca: Path
    certificate: Path
    key: Path
    hostname: str = NAMESERVER_HOSTNAME


@dataclass(frozen=True, slots=True)
class PushLimits:
    """Time for a connection, and for silence inside an answer: the registry syncs a blob before it answers."""

    connect_s: float = 5.0
    read_s: float = 60.0


async def push(
    layout: ImageLayout,
    release: InstalledRelease,
    *,
    addresses: Sequence[str],
    identity: PushIdentity,
    progress: Progress = silent,
    limits: PushLimits = PushLimits(),
) -> None:
    """Send an installed release to the registry at the first of ``addresses`` (``host:port``) that answers.

    Raises the registry's own problem, :class:`PushRefused` or :class:`PushFailed`.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def told(label: str, done: int, total: int | None, unit: str) -> None:
        loop.call_soon_threadsafe(progress, label, done, total, unit)

    pushing = functools.partial(_push, layout, release, tuple(addresses), identity, told, limits, stop)
    try:
        await asyncio.to_thread(pushing)
    finally:
        stop.set()


def _push(
    layout: ImageLayout,
    release: InstalledRelease,
    addresses: tuple[str, ...],
    identity: PushIdentity,
    progress: Progress,
    limits: PushLimits,
    stop: threading.Event,
) -> None:
    from peers.oci_registry import Registry

    signed = layout.signed(release)
    envelope = encode(signed)
    raw = layout.manifest(release.repository, release.manifest).raw
    attachment = layout.blobs.read(release.attachment, bytes_max=ATTACHMENT_BYTES_MAX)
    manifest = read_manifest(raw)
    blobs = {checked_digest(part.digest): part.size for part in (*manifest.layers, manifest.config)}
    blobs[digest_of(EMPTY_CONFIG)] = len(EMPTY_CONFIG)
    blobs[digest_of(envelope)] = len(envelope)
    for digest, size in blobs.items():
        if layout.blobs.size(digest) != size:
            raise DamagedBlob(f"{release.label}: its blob {digest} of {size} bytes is not whole on this disk")
    counted = Counted(f"publish {release.label}", sum(blobs.values()), progress, stop)
    problem: Problem = PushFailed(f"no address of a registry is known for {release.label}")
    for address in addresses:
        registry = Registry(address, identity, limits, counted)
        with contextlib.closing(registry.session):
            try:
                registry.reach()
            except PushFailed as failed:
                problem = failed
                continue
            for digest, size in blobs.items():
                registry.send_blob(release.repository, layout.blobs.path(digest), digest, size)
            reference = release.manifest if release.development else release.version
            registry.send_manifest(release.repository, reference, raw)
            registry.send_manifest(release.repository, release.attachment, attachment)
            return
    raise problem


class NameserverRepository:
    """The federation's repository at the nameserver, for a home that joined."""

    def __init__(self, layout: ImageLayout, *, addresses: Callable[[], Sequence[str]], identity: PushIdentity) -> None:
        self._layout = layout
        self._addresses = addresses
        self._identity = identity

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it is, ``host:port``."""
        return tuple(self._addresses())

    async def push(self, release: InstalledRelease, *, progress: Progress) -> None:
        """Send an installed release there. Raises as :func:`push`."""
        await push(self._layout, release, addresses=self.addresses, identity=self._identity, progress=progress)


class Counted:
    """The progress over all blobs, and the flag that ends it early."""

    def __init__(self, label: str, total: int, progress: Progress, stop: threading.Event) -> None:
        self._label = label
        self._total = total
        self._progress = progress
        self._stop = stop
        self._done = 0
        self._told = 0

    def sent(self, size: int, *, whole: bool = False) -> None:
        if self._stop.is_set():
            raise Cancelled(f"{self._label} was stopped")
        self._done += size
        if whole or self._done - self._told >= PROGRESS_BYTES:
            self._told = self._done
            self._progress(self._label, self._done, self._total, "bytes")
