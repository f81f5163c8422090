"""Pushing a release to an OCI registry: what is sent, in which order, under which identity and limits.

Owns the order, the progress and the errors of a push; one address's registry is :mod:`peers.oci_registry`.

Order to the nameserver: files, config, record; then the manifest under its version (a development release: under its
digest); then the attachment that carries the signed record, at whose arrival the nameserver registers the release. To
any other registry: the manifest by its digest, the attachment, and the version last, so that nobody finds a version
without its record; one that has other content there is refused before anything is sent. A crash between leaves what
nobody looks at. Everything blocks and runs on one thread; leaving early stops it wherever it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from federation.blobs import DamagedBlob
from federation.documents import encode
from federation.errors import WrongHash
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease, taken
from federation.manifests import EMPTY_CONFIG, read_manifest
from federation.names import Digest, checked_digest, digest_of
from federation.tls import NAMESERVER_HOSTNAME
from peers.oci_errors import RegistryUnreachable
from peers.oci_transfers import USUAL_LIMITS, Site, Transfer, TransferLimits, always, aside, in_loop
from query.declarations import Progress, silent
from query.errors import Problem

if TYPE_CHECKING:
    from peers.oci_registry import Registry

ATTACHMENT_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class PushIdentity:
    """Files of the mutual TLS: the authority to trust, and who pushes. ``hostname`` is checked, whatever is dialled."""

    ca: Path
    certificate: Path
    key: Path
    hostname: str = NAMESERVER_HOSTNAME

    def site(self, address: str) -> Site:
        """A nameserver of this federation."""
        return Site(
            address=address,
            ca=self.ca,
            certificate=self.certificate,
            key=self.key,
            hostname=self.hostname,
            ours=True,
        )


async def push(
    layout: ImageLayout,
    release: InstalledRelease,
    *,
    addresses: Sequence[str],
    identity: PushIdentity,
    progress: Progress = silent,
    limits: TransferLimits = USUAL_LIMITS,
    may_go: Callable[[], None] = always,
) -> None:
    """Send an installed release to the registry at the first of ``addresses`` (``host:port``) that answers.

    Raises the registry's own problem, or a class of :mod:`peers.oci_errors`.
    """
    sites = tuple(identity.site(address) for address in addresses)
    await push_to(
        layout,
        release,
        sites=sites,
        repository=release.repository,
        progress=progress,
        limits=limits,
        may_go=may_go,
    )


async def push_to(
    layout: ImageLayout,
    release: InstalledRelease,
    *,
    sites: Sequence[Site],
    repository: str,
    progress: Progress = silent,
    limits: TransferLimits = USUAL_LIMITS,
    may_go: Callable[[], None] = always,
) -> None:
    """Send an installed release to the first of ``sites`` that answers, into the OCI repository ``repository``."""
    transfer = Transfer(f"publish {release.label}", progress=in_loop(progress), limits=limits, may_go=may_go)
    await aside(transfer, functools.partial(_push, layout, release, tuple(sites), repository, transfer))


def _push(
    layout: ImageLayout, release: InstalledRelease, sites: tuple[Site, ...], repository: str, transfer: Transfer
) -> None:
    from peers.oci_attachments import attach
    from peers.oci_registry import Registry

    blobs = _blobs(layout, release)
    transfer.total = sum(blobs.values())
    raw = layout.manifest(release.repository, release.manifest).raw
    attachment = layout.blobs.read(release.attachment, bytes_max=ATTACHMENT_BYTES_MAX)
    problem: Problem = RegistryUnreachable(f"no address of a registry is known for {release.label}")
    for site in sites:
        with Registry(site, transfer) as registry:
            try:
                registry.reach()
            except RegistryUnreachable as failed:
                problem = failed
                continue
            if not site.ours:
                _check_version(registry, repository, release)
            for digest, size in blobs.items():
                try:
                    registry.send_blob(repository, layout.blobs.path(digest), digest, size)
                except WrongHash as refused:
                    if layout.blobs.hashed(digest)[0] == digest:
                        raise
                    raise DamagedBlob(f"{release.label}: its blob {digest} is damaged on this disk") from refused
            if site.ours:
                registry.send_manifest(repository, release.manifest if release.development else release.version, raw)
                registry.send_manifest(repository, release.attachment, attachment)
                return
            registry.send_manifest(repository, release.manifest, raw)
            attach(registry, repository, attachment)
            if not _check_version(registry, repository, release):
                registry.send_manifest(repository, release.version, raw)
                _check_version(registry, repository, release)
            return
    raise problem


def _check_version(registry: Registry, repository: str, release: InstalledRelease) -> bool:
    """Whether the version is there with this content. Raises ``VersionTaken`` when it is there with other content."""
    known = registry.digest_at(repository, release.version)
    if known not in (None, release.manifest):
        raise taken(release.label, known, release.manifest)
    return known is not None


def _blobs(layout: ImageLayout, release: InstalledRelease) -> dict[Digest, int]:
    """What a release consists of beside its two manifests, by digest with sizes; all of it is here."""
    envelope = encode(layout.signed(release))
    manifest = read_manifest(layout.manifest(release.repository, release.manifest).raw)
    blobs = {checked_digest(part.digest): part.size for part in (*manifest.layers, manifest.config)}
    blobs[digest_of(EMPTY_CONFIG)] = len(EMPTY_CONFIG)
    blobs[digest_of(envelope)] = len(envelope)
    for digest, size in blobs.items():
        if layout.blobs.size(digest) != size:
            raise DamagedBlob(f"{release.label}: its blob {digest} of {size} bytes is not whole on this disk")
    return blobs


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
