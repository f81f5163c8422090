"""The remote repositories of a peer, asked: what they offer, fetching releases from them, publishing to them.

Owns the choice of the record that is believed, the order of a fetch, and how much goes on at a time. Rules: a record is
verified against this federation's root, and held against what is here, before a byte of content is fetched; a release
is verified from its bytes before anybody hears of it; what fails leaves nothing but staged parts and blobs that nothing
names. One fetch of a release at a time: whoever comes second finds it here. Errors say which repository it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from federation.assignments import WantedModel
from federation.documents import ReleaseRecord, RootRecord, SignedDocument
from federation.errors import MixedParts, UnknownKey
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease, taken
from federation.manifest_store import check_whole
from federation.manifests import MANIFEST_BYTES_MAX, read_manifest
from federation.names import checked_model, checked_version
from federation.needs import parsed_version, satisfies
from federation.verification import VerifiedRelease, verify_record
from peers.oci_transfers import USUAL_LIMITS, Site, Transfer, TransferLimits, always, aside, in_loop
from peers.release_ports import nothing_newer
from peers.remote_credentials import read_credentials, secret_file
from peers.remote_settings import CERT_FILES, RemoteBook, RemoteSettings
from query.declarations import Progress, silent
from query.errors import Cancelled, LimitExceeded, PeerProblem, Problem

if TYPE_CHECKING:
    from peers.oci_registry import Registry
    from peers.remote_transfers import Offer

IMPORTS_MAX: Final = 64  # releases that one call brings, with all that they need
TRANSFERS_MAX: Final = 4  # at a time; others wait

_T = TypeVar("_T")


class UnsignedRelease(PeerProblem):
    """A repository has a version, and no signed record of it."""

    code = "release_unsigned"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A release whose bytes are all here and verified; nothing lists it yet."""

    signed: SignedDocument
    release: VerifiedRelease


class RemoteRepositories:
    """Of one peer. ``may_dial`` raises where no connection may be opened; ``follow_root`` takes up newer roots."""

    def __init__(
        self,
        book: RemoteBook,
        layout: ImageLayout,
        *,
        root: Callable[[], RootRecord],
        follow_root: Callable[[], Awaitable[None]] = nothing_newer,
        may_dial: Callable[[], None] = always,
        limits: TransferLimits = USUAL_LIMITS,
    ) -> None:
        self.book = book
        self._layout = layout
        self._root = root
        self._follow_root = follow_root
        self._may_dial = may_dial
        self._limits = limits
        self._slots = asyncio.Semaphore(TRANSFERS_MAX)
        self._under_way: dict[str, tuple[asyncio.Lock, int]] = {}

    # --- questions ----------------------------------------------------------------------------------------------

    async def available(self, repo: str, model: str | None = None) -> list[str]:
        """The releases there, as ``name@version``, in order; of one model when the registry has no catalogue."""
        from peers.remote_transfers import list_models, list_versions

        name, settings = self.book.find(repo)

        def listed(registry: Registry) -> list[str]:
            models = list(list_models(registry, settings.prefix)) if model is None else [checked_model(model)]
            found = {one: list_versions(registry, settings.repository(one)) for one in dict.fromkeys(models)}
            return [f"{one}@{version}" for one in sorted(found) for version in found[one]]

        return await self._asked(name, settings, f"list {name}", listed)

    async def has(self, repo: str, model: str, version: str) -> bool:
        """Whether the version is there."""
        name, settings = self.book.find(repo)
        path = f"/v2/{settings.repository(checked_model(model))}/manifests/{checked_version(version)}"
        return await self._asked(name, settings, f"ask {name}", lambda registry: registry.has(path) is not None)

    async def _asked(self, name: str, settings: RemoteSettings, label: str, work: Callable[[Registry], _T]) -> _T:
        with _named(name):
            self._may_dial()
            transfer = Transfer(label, limits=self._limits, may_go=self._may_dial)
            site = self._site(settings)
            async with self._slots:
                return await aside(transfer, functools.partial(_with_registry, site, transfer, work))

    # --- releases -----------------------------------------------------------------------------------------------

    async def publish(self, repo: str, release: InstalledRelease, *, progress: Progress = silent) -> None:
        """Send an installed release there. Raises ``VersionTaken`` for a version that has other content there."""
        from peers.oci_push import push_to

        name, settings = self.book.find(repo)
        with _named(name):
            self._may_dial()
            async with self._slots:
                await push_to(
                    self._layout,
                    release,
                    sites=[self._site(settings)],
                    repository=settings.repository(release.name),
                    progress=progress,
                    limits=self._limits,
                    may_go=self._may_dial,
                )

    async def fetch(
        self,
        repo: str,
        model: str,
        version: str,
        *,
        admit: Callable[[SignedDocument], object] = lambda signed: None,
        progress: Progress = silent,
    ) -> Fetched:
        """Bring a release here. ``admit`` raises for a verified record that this peer cannot take."""
        label = f"{checked_model(model)}@{checked_version(version)}"
        name, settings = self.book.find(repo)
        with _named(name):
            self._may_dial()
            site = self._site(settings)
            async with self._alone(label), self._slots:
                signed, offer = await self._record(name, settings, site, model, version)
                admit(signed)
                record = verify_record(signed, self._root())
                if not await asyncio.to_thread(self._whole, signed):
                    transfer = Transfer(
                        f"import {label}", progress=in_loop(progress), limits=self._limits, may_go=self._may_dial
                    )
                    await aside(
                        transfer, functools.partial(self._pull, site, transfer, record, offer.manifest, settings)
                    )
                release = await asyncio.to_thread(self._layout.verified, signed, root=self._root())
        return Fetched(signed, release)

    async def fetch_all(
        self,
        models: Sequence[WantedModel],
        *,
        here: Callable[[str], Sequence[str]],
        admit: Callable[[SignedDocument], object] = lambda signed: None,
        progress: Progress = silent,
    ) -> list[Fetched]:
        """Bring releases here, and of what they need the newest that their repositories have and ``here``, the versions
        of a model that need no bringing, does not meet. A need that nothing meets is for the caller to refuse.
        """
        fetched: list[Fetched] = []
        wanted = list(models)
        for model in wanted:  # grows by what is needed
            if len(wanted) > IMPORTS_MAX:
                raise LimitExceeded(f"{len(wanted)} releases to import in one call: expected at most {IMPORTS_MAX}")
            found = await self.fetch(model.repo, model.name, model.version, admit=admit, progress=progress)
            fetched.append(found)
            for name, condition in found.release.record.needs.releases.items():
                versions = [*here(name), *(one.version for one in wanted if one.name == name)]
                if not any(satisfies(version, condition) for version in versions):
                    newest = await self._newest(model.repo, name, condition)
                    wanted += [] if newest is None else [WantedModel(name, newest, model.repo)]
        return fetched

    async def _newest(self, repo: str, model: str, condition: str) -> str | None:
        """The newest version there that meets a condition."""
        versions = [label.partition("@")[2] for label in await self.available(repo, model)]
        fitting = [version for version in versions if satisfies(version, condition)]
        readable = [(parsed, version) for version in fitting if (parsed := parsed_version(version)) is not None]
        return max(readable)[1] if readable else fitting[-1] if fitting else None

    async def _record(
        self, name: str, settings: RemoteSettings, site: Site, model: str, version: str
    ) -> tuple[SignedDocument, Offer]:
        """The record of a version that this federation's root admits, and what is offered with it."""
        from peers.remote_transfers import find

        repository = settings.repository(model)
        transfer = Transfer(f"find {model}@{version}", limits=self._limits, may_go=self._may_dial)
        work = functools.partial(_with_registry, site, transfer, lambda one: find(one, repository, version))
        offer = await aside(transfer, work)
        known = self._layout.find(model, version)
        if known is not None and known.manifest != offer.digest:
            raise taken(f"{model}@{version}", known.manifest, offer.digest)
        if known is not None:
            offer = replace(offer, records=(self._layout.signed(known),))
        try:
            return chosen(offer, model, version, root=self._root()), offer
        except UnknownKey:  # endorsed, perhaps, after this peer last looked
            await self._follow_root()
        return chosen(offer, model, version, root=self._root()), offer

    def _whole(self, signed: SignedDocument) -> bool:
        """Whether a release is here and unharmed. Of one that nothing lists, no part is garbage for a while then."""
        blobs = self._layout.blobs
        try:
            record = self._layout.verified(signed, root=self._root()).record
            blobs.claim(record.manifest)
            check_whole(blobs, read_manifest(blobs.read(record.manifest, bytes_max=MANIFEST_BYTES_MAX)))
        except Problem:
            return False
        return True

    def _pull(
        self, site: Site, transfer: Transfer, record: ReleaseRecord, manifest: bytes, settings: RemoteSettings
    ) -> None:
        from peers.remote_transfers import pull

        repository = settings.repository(record.name)
        _with_registry(
            site,
            transfer,
            lambda registry: pull(
                registry, self._layout.blobs, record, manifest, transfer=transfer, repository=repository
            ),
        )

    def _site(self, settings: RemoteSettings) -> Site:
        site = Site(address=settings.address, scheme=settings.scheme)
        if settings.certs:
            ca, certificate, key = (Path(settings.certs) / name for name in CERT_FILES)
            secret_file(key)
            site = replace(site, ca=ca, certificate=certificate, key=key)
        if settings.ca:
            site = replace(site, ca=Path(settings.ca))
        if settings.credentials:
            reading = functools.partial(read_credentials, Path(settings.credentials), settings.address)
            site = replace(site, credentials=reading)
        return site

    @contextlib.asynccontextmanager
    async def _alone(self, label: str) -> AsyncIterator[None]:
        """One at a time for a release; nothing is kept of it afterwards."""
        lock, waiting = self._under_way.get(label, (asyncio.Lock(), 0))
        self._under_way[label] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._under_way.pop(label)
            if waiting > 1:
                self._under_way[label] = (lock, waiting - 1)


def chosen(offer: Offer, model: str, version: str, *, root: RootRecord) -> SignedDocument:
    """The first record that is of this version and these bytes and that ``root`` admits.

    Raises why the last one is not, or :class:`UnsignedRelease` when there is none.
    """
    problem = offer.problem
    for signed in offer.records:
        try:
            record = verify_record(signed, root)
        except Problem as refused:
            problem = refused
            continue
        if (record.name, record.version) != (model, version) or record.development:
            problem = MixedParts(f"expected the record of {model}@{version}, found that of {record.label}")
        elif (record.manifest, record.manifest_size) != (offer.digest, len(offer.manifest)):
            problem = MixedParts(f"the record of {record.label} is of {record.manifest}, found {offer.digest}")
        else:
            return signed
    raise problem or UnsignedRelease(
        f"{model}@{version} has no signed record there",
        hint="copy it with its record: the tag sha256-<hex of its manifest> too, where a tool copies tags",
    )


def _with_registry(site: Site, transfer: Transfer, work: Callable[[Registry], _T]) -> _T:
    from peers.oci_registry import Registry

    with Registry(site, transfer) as registry:
        return work(registry)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Whatever goes wrong inside says which repository it was."""
    try:
        yield
    except Cancelled:
        raise
    except Problem as problem:
        problem.message = f'repository "{name}": {problem.message}'
        problem.args = (problem.message,)
        raise
