"""Pushing a release to an OCI registry: the one adapter around ``oras``.

oras-py checks no digest, retries every failure for two minutes, has no time-outs, follows proxies of the environment
and redirects, and reads whole files into memory. So its transport and its upload protocol are used and the rest is
overridden here: one attempt, time-outs on every request, bounded answers, bodies streamed from the repository on disk
and counted, manifests sent as the exact bytes that were signed.

Order: files, config, record; then the manifest under its version (a development release: under its digest); then the
attachment that carries the signed record, at whose arrival the nameserver registers the release. A crash between
leaves what nobody looks at. Everything here blocks and runs on one thread; leaving early stops it at the next piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from federation.blobs import DamagedBlob
from federation.documents import encode
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease
from federation.manifests import EMPTY_CONFIG, MANIFEST_TYPE, read_manifest
from federation.names import Digest, checked_digest, digest_of
from federation.tls import NAMESERVER_HOSTNAME
from query.declarations import Progress, silent
from query.errors import Cancelled, ErrorRecord, PeerProblem, Problem, WorldProblem

if TYPE_CHECKING:
    import requests

ANSWER_BYTES_MAX: Final = 64 * 1024
PIECE_BYTES: Final = 256 * 1024
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
    signed = layout.signed(release)
    envelope = encode(signed)
    raw = layout.manifest(release.repository, release.manifest).raw
    attachment = layout.blobs.read(release.attachment, bytes_max=ANSWER_BYTES_MAX)
    manifest = read_manifest(raw)
    blobs = {checked_digest(part.digest): part.size for part in (*manifest.layers, manifest.config)}
    blobs[digest_of(EMPTY_CONFIG)] = len(EMPTY_CONFIG)
    blobs[digest_of(envelope)] = len(envelope)
    for digest, size in blobs.items():
        if layout.blobs.size(digest) != size:
            raise DamagedBlob(f"{release.label}: its blob {digest} of {size} bytes is not whole on this disk")
    counted = _Counted(f"publish {release.label}", sum(blobs.values()), progress, stop)
    problem: Problem = PushFailed(f"no address of a registry is known for {release.label}")
    for address in addresses:
        registry = _registry_class()(address, identity, limits, counted)
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


class _Counted:
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


class _Body(io.RawIOBase):
    """A blob as a request's body, in pieces that are counted as they leave."""

    def __init__(self, path: Path, size: int, counted: _Counted) -> None:
        self._file = path.open("rb")
        self._size = size
        self._counted = counted

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(PIECE_BYTES if size < 0 else min(size, PIECE_BYTES))
        self._counted.sent(len(piece))
        return piece

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


@functools.cache
def _registry_class() -> Any:
    """Made on first use: importing oras costs 130 ms and 22 MB."""
    import oras.provider
    import oras.utils
    import requests
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        """Expects the registry's name whatever address is dialled, and gives every request its time-outs."""

        def __init__(self, hostname: str, limits: PushLimits) -> None:
            self._hostname = hostname
            self._limits = limits
            super().__init__(max_retries=0)

        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            options |= {"assert_hostname": self._hostname, "server_hostname": self._hostname}
            super().init_poolmanager(*args, **options)

        def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
            options["timeout"] = (self._limits.connect_s, self._limits.read_s)
            options["proxies"] = {}
            return super().send(request, **options)

    class Registry(oras.provider.Registry):  # type: ignore[misc]
        def __init__(self, address: str, identity: PushIdentity, limits: PushLimits, counted: _Counted) -> None:
            super().__init__(hostname=address, tls_verify=str(identity.ca), auth_backend="basic")
            self.session.trust_env = False
            self.session.max_redirects = 0
            self.session.cert = (str(identity.certificate), str(identity.key))
            for scheme in tuple(self.session.adapters):
                del self.session.adapters[scheme]
            self.session.mount("https://", Adapter(identity.hostname, limits))
            self.session.hooks["response"].append(_bounded)
            self._address = address
            self._counted = counted

        def reach(self) -> None:
            """``GET /v2/``: whether this is a registry that knows us."""
            self._expect(self.do_request(f"https://{self._address}/v2/"), 200)

        def send_blob(self, repository: str, path: Path, digest: Digest, size: int) -> None:
            container = self.get_container(f"{self._address}/{repository}@{digest}")
            response = self.upload_blob(str(path), container, {"digest": str(digest), "size": size})
            if response.request is None:  # it was there: oras makes this answer up
                self._counted.sent(size, whole=True)
                return
            self._expect(response, 201)
            self._counted.sent(0, whole=True)

        def send_manifest(self, repository: str, reference: str, raw: bytes) -> None:
            """Exactly these bytes: oras would write the JSON anew, and its digest with it."""
            url = f"https://{self._address}/v2/{repository}/manifests/{reference}"
            response = self.do_request(url, "PUT", data=raw, headers={"Content-Type": MANIFEST_TYPE})
            self._expect(response, 201)
            told = response.headers.get("Docker-Content-Digest", "")
            if told and told != digest_of(raw):
                raise PushRefused(f"{self._address} stored {told}, expected {digest_of(raw)}")

        def put_upload(self, blob: str, container: Any, layer: dict[str, Any]) -> requests.Response:
            """As oras does it, POST and PUT, with the body streamed from disk."""
            begun = self.do_request(f"{self.prefix}://{container.upload_blob_url()}", "POST")
            self._expect(begun, 202)
            location = self._get_location(begun, container)
            if not location.startswith(f"https://{self._address}/"):
                raise PushRefused(f"{self._address} leads the upload elsewhere: {location[:100]!r}")
            url = oras.utils.append_url_params(location, {"digest": layer["digest"]})
            headers = {"Content-Length": str(layer["size"]), "Content-Type": "application/octet-stream"}
            with _Body(Path(blob), layer["size"], self._counted) as body:
                answer: requests.Response = self.do_request(url, "PUT", data=body, headers=headers)
            return answer

        def do_request(self, url: str, method: str = "GET", **options: Any) -> requests.Response:
            """One attempt, its failures in our classes."""
            once = oras.provider.Registry.do_request.__wrapped__
            try:
                response: requests.Response = once(self, url, method, **{**options, "stream": True})
            except requests.exceptions.TooManyRedirects as error:
                raise PushRefused(f"{self._address} redirects elsewhere, which is not followed") from error
            except requests.exceptions.SSLError as error:
                raise PushRefused(f"{self._address} is not the registry that was meant: {error}") from error
            except requests.exceptions.Timeout as error:
                raise PushFailed(f"no answer from {self._address} in time") from error
            except (requests.exceptions.RequestException, OSError) as error:
                raise PushFailed(f"cannot reach {self._address}: {error}") from error
            return response

        def _expect(self, response: requests.Response, status: int) -> None:
            if response.status_code != status:
                raise _problem(response)

    return Registry


def _bounded(response: requests.Response, *args: object, **options: object) -> requests.Response:
    """Reads an answer's body within a bound, and ends what oras would try to log in for."""
    if response.is_redirect:
        return response
    body = response.raw.read(ANSWER_BYTES_MAX + 1, decode_content=True)
    response.close()
    if len(body) > ANSWER_BYTES_MAX:
        raise PushRefused(f"an answer of more than {ANSWER_BYTES_MAX} bytes to {response.request.url}")
    response._content = body
    response._content_consumed = True
    if response.status_code in (401, 403):
        raise _problem(response)
    return response


class _OciAnswer(msgspec.Struct):
    """A registry's error: OCI's, and ours beside it when it is a nameserver."""

    errors: list[dict[str, Any]] = []
    error: ErrorRecord | None = None


def _problem(response: requests.Response) -> Problem:
    try:
        told = msgspec.json.decode(response.content, type=_OciAnswer)
    except msgspec.MsgspecError:
        told = _OciAnswer()
    if told.error is not None:
        return Problem.from_record(told.error)
    said = "; ".join(f"{entry.get('code')}: {entry.get('message')}"[:200] for entry in told.errors[:3])
    message = f"{response.request.method} {response.request.url}: status {response.status_code} {said}".rstrip()
    return PushFailed(message) if response.status_code >= 500 else PushRefused(message)
