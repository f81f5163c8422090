"""The parts that an edge's agent works with, over the home, the layout, the engine and the client.

Each is an adapter to one port of :mod:`peers.agent`, :mod:`peers.edge_actions` or :mod:`peers.edge_polling`; none
decides anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from engine.engine import Engine, Verdict
from engine.errors import ModelNotLoaded
from federation.blobs import BlobStore, DamagedBlob
from federation.certificate_reading import read_pem
from federation.documents import ExceededLimit, ReleaseRecord, RootRecord, SignedDocument, decode
from federation.errors import WrongKey
from federation.keys import PrivateKey, read_key, write_key
from federation.layout import ImageLayout
from federation.layout_removal import named_by
from federation.names import Digest
from federation.roots import advance
from federation.tls import client_context
from federation.verification import VerifiedRelease
from peers.edge_actions import ReleaseMissing, StoredRelease
from peers.federation_client import FederationClient
from peers.fetching import fetch
from peers.homes import BadHome, Home, write_whole
from query.errors import LimitExceeded, UnknownName

RENEW_AFTER: Final = 2 / 3  # of a certificate's life

Origin = Literal["group", "manual", "development"]

log = logging.getLogger("peerage.agent")


def _unheard(record: RootRecord) -> None:
    """Nobody listens."""


class HomeTrust:
    """The chain of root records in a home. ``changed`` is told each that comes into force."""

    def __init__(self, home: Home, record: RootRecord) -> None:
        self._home = home
        self._record = record
        self.changed: Callable[[RootRecord], None] = _unheard

    @property
    def root(self) -> RootRecord:
        return self._record

    def extend(self, document: SignedDocument, record: RootRecord) -> None:
        """Keep the next root record, durable before it is trusted."""
        self._home.write_roots((*self._home.roots(), document))
        self._record = record
        self.changed(record)

    async def follow(self, client: FederationClient) -> None:
        """Take up the root records that came after this one, each by the rules of its predecessor.

        Raises what the nameserver says, and the class of a chain that does not hold.
        """
        while True:
            try:
                document = await client.root(self._record.version + 1)
            except UnknownName:
                return
            self.extend(document, advance(self._record, document))


class LayoutReleases:
    """Releases in this home's image layout, fetched from the nameserver."""

    def __init__(self, layout: ImageLayout, client: FederationClient) -> None:
        self._layout = layout
        self._client = client

    def installed(self) -> Mapping[Digest, str]:
        return installed_in(self._layout)

    async def fetch(self, document: SignedDocument, record: ReleaseRecord) -> None:
        await fetch(document, client=self._client, layout=self._layout)

    def read(self, record: Digest) -> StoredRelease:
        release = self._layout.find_record(record)
        if release is None:
            raise ReleaseMissing(f"no release with the record {record} is installed")
        try:
            packed = self._layout.packed(release)
        except (UnknownName, DamagedBlob, LimitExceeded) as problem:
            self._drop_damaged(release.manifest)
            raise ReleaseMissing(f"{release.label} is not complete: {problem.message}") from problem
        return StoredRelease(packed.signed, packed.manifest, packed.files)

    def _drop_damaged(self, manifest: Digest) -> None:
        """Content that is not what its digest says goes, so that a fetch or an import brings that and nothing else."""
        blobs = self._layout.blobs
        parts = {manifest} if _damaged(blobs, manifest) else named_by(blobs, manifest)
        for digest in parts:
            if _damaged(blobs, digest) and blobs.remove(digest):
                log.warning("damaged_blob_dropped", extra={"digest": digest})

    def remove(self, record: Digest) -> None:
        release = self._layout.find_record(record)
        if release is not None:
            self._layout.remove(release)


def _damaged(blobs: BlobStore, digest: Digest) -> bool:
    try:
        return blobs.hashed(digest)[0] != digest
    except UnknownName:
        return False


class EngineMemory:
    """The engine, with verdicts as the agent keeps them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def runtime_version(self) -> str:
        return self._engine.runtime_version

    async def trial(self, release: VerifiedRelease) -> msgspec.Raw:
        verdict = await self._engine.trial(release)
        problem = verdict.problem()
        if problem is not None:
            raise problem
        return msgspec.Raw(msgspec.json.encode(verdict))

    async def load(self, release: VerifiedRelease, *, origin: Origin, trial: msgspec.Raw | None) -> None:
        verdict = None if trial is None else msgspec.json.decode(trial, type=Verdict)
        await self._engine.load(release, origin=origin, verdict=verdict)

    async def unload(self, name: str) -> None:
        with contextlib.suppress(ModelNotLoaded):  # what could not be restored is gone already
            self._engine.unload(name)


class FederationClock:
    """Federation time as the client learns it, and waiting for an event or a moment."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    def now(self) -> float:
        return self._client.federation_time()

    def offset_s(self) -> float:
        return self._client.clock_offset_s

    async def wait(self, wake: asyncio.Event, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wake.wait()


class HomeCertificate:
    """The certificate in a home, and its renewal."""

    def __init__(self, home: Home, client: FederationClient, *, key: bytes) -> None:
        self._home = home
        self._client = client
        self._key = key
        self._read()

    def _read(self) -> None:
        shown = read_pem(self._home.text(self._home.identity_crt))
        self._renew_at = shown.not_before + (shown.not_after - shown.not_before) * RENEW_AFTER

    def renew_at(self) -> float:
        return self._renew_at

    async def renew(self, *, by: FederationClient | None = None) -> None:
        """``by``: over another client than the one that goes on with the new certificate."""
        await renew_home(self._home, by or self._client, key=self._key)
        await self._client.use_context(home_context(self._home))
        self._read()


async def renew_home(home: Home, client: FederationClient, *, key: bytes) -> None:
    """Have the nameserver make a new certificate for this home's public key, and keep it. Raises its refusal."""
    admission = await client.renew()
    if read_pem(admission.certificate).key != key:
        raise WrongKey("the nameserver's new certificate is for another key than this peer's")
    write_whole(home.identity_crt, admission.certificate.encode("ascii"))
    membership = home.membership()
    home.write_membership(
        msgspec.structs.replace(
            membership, not_after=admission.not_after, clock_offset_s=round(client.clock_offset_s, 3)
        )
    )


def installed_in(layout: ImageLayout) -> dict[Digest, str]:
    """The releases of a layout, by the digest of their record."""
    blobs = layout.blobs
    return {
        release.record_digest: release.label
        for release in layout.releases(development=True)
        if blobs.size(release.manifest) is not None
    }


def home_context(home: Home) -> ssl.SSLContext:
    """The TLS context of a home that joined."""
    return client_context(home.ca_crt, home.identity_crt, home.identity_key)


def free_bytes(path: Path) -> Callable[[], int]:
    """The free space on a folder's disk, asked at most every few seconds."""
    known = (0.0, 0)

    def free() -> int:
        nonlocal known
        now = time.monotonic()
        if now - known[0] > 5.0 or not known[1]:
            known = (now, shutil.disk_usage(path).free)
        return known[1]

    return free


def own_key(home: Home) -> PrivateKey:
    """The identity key, made on a device that never joined."""
    if not home.identity_key.exists():
        write_key(home.identity_key, PrivateKey.generate())
    return read_key(home.identity_key)


def no_root() -> RootRecord:
    """What a device trusts that belongs to no federation: nobody."""
    return RootRecord(federation="", version=0, threshold=1, roots={}, directors={}, publishers={}, created=0)


def trusted_root(home: Home) -> RootRecord:
    """The newest root record of a home; the chain was verified before each was written."""
    roots = home.roots()
    if not roots:
        raise BadHome(f"{home.roots_json} holds no root record: expected at least one", hint="join again in a new home")
    try:
        return decode(roots[-1].payload, RootRecord)
    except msgspec.MsgspecError as error:
        raise BadHome(f"{home.roots_json} is damaged: {error}") from error


def exceeded_limits(engine: Engine) -> list[ExceededLimit]:
    """The limits that what is loaded ran into, as a report tells them: not what a request alone had loaded."""
    return [
        ExceededLimit(servable.label, one.resource)
        for servable, limits in engine.all_exceeded().items()
        if servable.origin != "demand"
        for one in limits
    ]
