"""Releases to and from any registry: what is asked, in which order, and what is believed of the answers.

A release at a registry is ``<prefix>models/<name>:<version>`` with its signed record attached. Everything that arrives
is hashed here against a digest that was signed or asked for. Rules: at most ``RECORDS_MAX`` records of a version are
looked at; lists are bounded in pages, entries and time; a page that leads elsewhere or back is an error. All of it
blocks: one thread, ended from outside (:mod:`peers.oci_transfers`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import msgspec

from federation.attachments import FALLBACK_PREFIX
from federation.blobs import BlobStore, StagedBlob, StorageFull
from federation.documents import DOCUMENT_BYTES_MAX, RELEASE_TYPE, ReleaseRecord, SignedDocument, decode
from federation.errors import WrongHash, WrongSize
from federation.manifests import MANIFEST_BYTES_MAX, BadManifest, read_manifest
from federation.names import BadName, Digest, checked_digest, checked_model, checked_version, digest_of
from peers.fetching import (
    CONFIG_BYTES_MAX,
    AlteredContent,
    Truncated,
    WrongAnswer,
    WrongLength,
    beginning,
    check_kind,
)
from peers.oci_attachments import attachments
from peers.oci_errors import NoCatalogue, NoSuchContent, RegistryUnauthorized
from peers.oci_registry import ACCEPTED, Registry
from peers.oci_transfers import Transfer
from query.errors import LimitExceeded, Problem, UnknownName

RECORDS_MAX: Final = 16
PAGES_MAX: Final = 1000
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
LISTED_MAX: Final = 20_000  # names of repositories, and releases, in one answer
PAGE_ENTRIES: Final = 200
_NEXT = re.compile(r'<([^<>]{1,2000})>\s*;\s*rel="?next"?', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a registry has under a version: a manifest, and the records that are attached to it, unverified."""

    manifest: bytes
    records: tuple[SignedDocument, ...]
    problem: Problem | None = None  # of the last record that could not be read

    @property
    def digest(self) -> Digest:
        return digest_of(self.manifest)


# --- lists ------------------------------------------------------------------------------------------------------------


def list_models(registry: Registry, prefix: str) -> Iterator[str]:
    """The models at a registry, by its catalogue. Raises :class:`NoCatalogue` when it has none."""
    start = f"{prefix}models/"
    try:
        for name in _listed(registry, "/v2/_catalog", "repositories"):
            if name.startswith(start) and _is(checked_model, name.removeprefix(start)):
                yield name.removeprefix(start)
    except (NoSuchContent, RegistryUnauthorized) as error:
        if isinstance(error, RegistryUnauthorized):
            with contextlib.suppress(NoSuchContent):
                registry.reach()  # who is not let in at all is told so, instead of being told to ask for one model
        raise NoCatalogue(
            f"it does not list its repositories: {error.message}",
            hint='models:available("repository", "model") lists the versions of one model',
        ) from error


def list_versions(registry: Registry, repository: str) -> list[str]:
    """The versions in one repository; nothing for one that is not there."""
    try:
        tags = list(_listed(registry, f"/v2/{repository}/tags/list", "tags"))
    except NoSuchContent:
        return []
    return sorted({tag for tag in tags if not tag.startswith(FALLBACK_PREFIX) and _is(checked_version, tag)})


def _listed(registry: Registry, path: str, key: str) -> Iterator[str]:
    following: str | None = f"{path}?n={PAGE_ENTRIES}"
    seen: set[str] = set()
    count = 0
    for _ in range(PAGES_MAX):
        if following is None:
            return
        if following in seen:
            raise WrongAnswer(f"{path}: its pages lead in a circle")
        seen.add(following)
        answer = registry.get(following, bytes_max=PAGE_BYTES_MAX, accept="application/json")
        for name in _names(answer.body, key, path):
            count += 1
            if count > LISTED_MAX:
                raise LimitExceeded(f"{path}: more than {LISTED_MAX} entries")
            yield name
        following = _next_page(answer.headers.get("Link", ""), path)
    raise LimitExceeded(f"{path}: more than {PAGES_MAX} pages")


def _names(raw: bytes, key: str, path: str) -> list[str]:
    try:
        found = msgspec.json.decode(raw, type=dict[str, Any]).get(key)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise WrongAnswer(f"{path}: expected a list in JSON, found {raw[:60]!r}") from None
    names = found or []  # an emptied repository has null
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WrongAnswer(f'{path}: expected names under "{key}"')
    return names


def _next_page(link: str, path: str) -> str | None:
    """The path of the next page, of this list at this registry and nothing else."""
    told = _NEXT.search(link)
    if told is None:
        return None
    try:
        url = urlsplit(urljoin(f"https://registry{path}", told[1]))
    except ValueError:
        url = urlsplit("")
    if url.path != path or not url.query or not told[1].isprintable():
        raise WrongAnswer(f"{path}: its next page leads elsewhere: {told[1][:100]!r}")
    return f"{path}?{url.query}"


def _is(check: Any, name: str) -> bool:
    try:
        check(name)
    except BadName:
        return False
    return True


# --- a release --------------------------------------------------------------------------------------------------------


def manifest_at(registry: Registry, repository: str, reference: str) -> bytes:
    """A manifest's bytes; by digest, exactly those. Raises :class:`WrongAnswer` for what is none."""
    path = f"/v2/{repository}/manifests/{reference}"
    answer = registry.get(path, bytes_max=MANIFEST_BYTES_MAX, accept=ACCEPTED)
    check_kind(path, answer.headers, "a manifest")
    if reference.startswith("sha256:") and digest_of(answer.body) != reference:
        raise AlteredContent(f"{path}: found content of {digest_of(answer.body)}")
    told = answer.headers.get("Docker-Content-Digest", "")
    if told.startswith("sha256:") and told != digest_of(answer.body):
        raise AlteredContent(f"{path}: announced as {told[:80]}, found content of {digest_of(answer.body)}")
    return answer.body


def find(registry: Registry, repository: str, version: str) -> Offer:
    """The manifest of a version and the signed records attached to it. Raises :class:`UnknownName` for no version."""
    try:
        raw = manifest_at(registry, repository, version)
    except NoSuchContent as error:
        raise UnknownName(f'no version "{version}" of "{repository}" there: {error.message}') from error
    try:
        read_manifest(raw)
    except (BadManifest, BadName) as error:
        raise WrongAnswer(f"{repository}:{version}: {error.message}") from error
    records: list[SignedDocument] = []
    problem: Problem | None = None
    for entry in attachments(registry, repository, digest_of(raw), RELEASE_TYPE)[:RECORDS_MAX]:
        try:
            records.append(_record(registry, repository, checked_digest(entry.digest)))
        except (WrongAnswer, WrongLength, AlteredContent, NoSuchContent, BadManifest, BadName) as error:
            problem = error  # one that cannot be read hides no other
    return Offer(raw, tuple(records), problem)


def _record(registry: Registry, repository: str, digest: Digest) -> SignedDocument:
    manifest = read_manifest(manifest_at(registry, repository, digest))
    if manifest.artifact_type != RELEASE_TYPE or len(manifest.layers) != 1:
        raise WrongAnswer(f"{digest} is attached, but is no release record")
    layer = manifest.layers[0]
    path = f"/v2/{repository}/blobs/{layer.digest}"
    if layer.size > DOCUMENT_BYTES_MAX:
        raise WrongLength(f"{path}: a record of {layer.size} bytes, expected at most {DOCUMENT_BYTES_MAX}")
    content = bytearray()
    with registry.stream(path, size=layer.size) as response:
        check_kind(path, response.headers, "a record")
        for piece in registry.pieces(response):
            content += piece
            if len(content) > layer.size:
                raise WrongLength(f"{path}: expected {layer.size} bytes, found more")
    if digest_of(bytes(content)) != layer.digest:
        raise AlteredContent(f"{path}: found content of {digest_of(bytes(content))}")
    try:
        return decode(bytes(content), SignedDocument)
    except msgspec.MsgspecError as error:
        raise WrongAnswer(f"{path}: expected a signed record: {error}") from error


def pull(
    registry: Registry, blobs: BlobStore, record: ReleaseRecord, manifest: bytes, *, transfer: Transfer, repository: str
) -> None:
    """Bring every blob of a verified record here; what is here is not asked for. The release is not listed yet."""
    config = read_manifest(manifest).config
    if config.size > CONFIG_BYTES_MAX:
        raise WrongLength(f"the config of {record.label} has {config.size} bytes, expected at most {CONFIG_BYTES_MAX}")
    wanted = {checked_digest(config.digest): config.size, **{entry.digest: entry.size for entry in record.files}}
    transfer.total = sum(wanted.values()) + len(manifest)
    missing = {digest: size for digest, size in wanted.items() if blobs.claim(digest) != size}
    reserve = transfer.limits.disk_reserve_bytes
    if sum(missing.values()) + reserve > blobs.free_bytes():
        raise StorageFull(
            f"{record.label} needs {sum(missing.values())} bytes and {reserve} in reserve, "
            f"the disk has {blobs.free_bytes()}",
            hint="free some disk space; the import goes on where it was",
        )
    for digest, size in wanted.items():
        if digest in missing:
            _pull_blob(registry, blobs, repository, digest=digest, size=size, transfer=transfer)
        else:
            transfer.moved(size, whole=True)
    blobs.put(manifest)
    transfer.moved(len(manifest), whole=True)


def _pull_blob(
    registry: Registry, blobs: BlobStore, repository: str, *, digest: Digest, size: int, transfer: Transfer
) -> None:
    path = f"/v2/{repository}/blobs/{digest}"
    with blobs.stage(digest, size=size) as staged:
        resumed = staged.resumed
        transfer.moved(staged.offset)
        if staged.offset < size or size == 0:
            _receive(registry, staged, path, size, transfer)
        try:
            staged.finish(digest)
        except WrongHash as error:
            if not resumed:
                raise AlteredContent(f"{path}: {error.message}") from error
            transfer.moved(-size)
        else:
            transfer.moved(0, whole=True)
            return
    # A part that a crash left may be damaged itself: what was sent now is not to blame yet.
    _pull_blob(registry, blobs, repository, digest=digest, size=size, transfer=transfer)


def _receive(registry: Registry, staged: StagedBlob, path: str, size: int, transfer: Transfer) -> None:
    with registry.stream(path, size=size, offset=staged.offset) as response:
        begins = beginning(path, response.status_code, response.headers, offset=staged.offset, size=size)
        if begins != staged.offset:
            transfer.moved(begins - staged.offset)
            staged.restart()
        for piece in registry.pieces(response):
            try:
                staged.write(piece)
            except WrongSize as error:
                staged.discard()
                raise WrongLength(f"{path}: expected {size} bytes, found more") from error
            transfer.moved(len(piece))
    if staged.offset != size:
        raise Truncated(f"{path}: expected {size} bytes, the answer ended after {staged.offset}")
