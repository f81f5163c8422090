"""One registry at one address, over ``oras``: its session and its upload protocol, everything else overridden.

oras-py checks no digest, retries every failure for two minutes, has no time-outs, follows proxies of the environment
and redirects, reads whole files into memory, and logs in by rules of its own. Here: one attempt, every request within
its time, answers bounded, bodies streamed from disk and counted, manifests sent as the exact bytes that were signed,
credentials only when a challenge asks for them and only to its origin.

Redirects: a blob may be led elsewhere, since registries keep theirs in object stores; only from https to https, at most
``REDIRECTS_MAX`` times, without credentials and without our certificate. What arrives is hashed all the same. Any other
redirect is refused. Importing this costs 130 ms and 22 MB, so whoever needs it imports it then. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import oras.container
import oras.provider
import oras.utils
import requests
import urllib3

from federation.manifests import INDEX_TYPE, MANIFEST_BYTES_MAX, MANIFEST_TYPE
from federation.names import Digest, digest_of
from peers.fetching import Truncated
from peers.oci_authentication import Bearer, read_challenge, read_token
from peers.oci_errors import (
    NoSuchContent,
    RegistryRefused,
    RegistryStalled,
    RegistryUnreachable,
    RegistryUntrusted,
    refusal_of,
    shown,
)
from peers.oci_sessions import PIECE_BYTES, Adapter, Body, Session, reason_of
from peers.oci_transfers import Site, Transfer
from query.errors import Problem

ANSWER_BYTES_MAX: Final = 64 * 1024
REDIRECTS_MAX: Final = 3
CHALLENGES_MAX: Final = 3  # one to log in, one for more rights, one for a token that has expired meanwhile
ACCEPTED: Final = ", ".join((MANIFEST_TYPE, INDEX_TYPE, "application/vnd.docker.distribution.manifest.v2+json"))
_LENGTH = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole small answer."""

    status: int
    headers: requests.structures.CaseInsensitiveDict[str]
    body: bytes


class Registry(oras.provider.Registry):  # type: ignore[misc]
    """The registry of a site. A context manager that ends its connections."""

    def __init__(self, site: Site, transfer: Transfer) -> None:
        verify = str(site.ca) if site.ca is not None else True
        super().__init__(hostname=site.address, insecure=site.scheme == "http", tls_verify=verify, auth_backend="basic")
        self._site = site
        self._transfer = transfer
        self._limits = transfer.limits
        self._authorization: str | None = None
        self._answer: requests.Response | None = None  # the latest
        self._opened: list[requests.Session] = []  # two at most, however often it leads elsewhere
        self.session = self._session(site.hostname)
        if site.certificate is not None and site.key is not None:
            self.session.cert = (str(site.certificate), str(site.key))

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *raised: object) -> None:
        self._drop_answer()
        for session in self._opened:
            session.close()
        self._transfer.connections.forget()

    def _session(self, hostname: str | None) -> requests.Session:
        session = Session()
        session.trust_env = False
        session.cookies.set_policy(self.session.cookies._policy)  # oras': none are taken
        adapter = Adapter(hostname, self._limits, self._transfer.connections)
        for scheme in ("https://", "http://"):
            session.mount(scheme, adapter)
        self._opened.append(session)
        return session

    def _elsewhere(self) -> requests.Session:
        """For whoever is not the registry: it is shown no certificate, and is told no credentials by itself."""
        return self._opened[1] if len(self._opened) > 1 else self._session(None)

    # --- reading ------------------------------------------------------------------------------------------------

    def reach(self) -> None:
        """``GET /v2/``: whether this is a registry that knows us."""
        self.get("/v2/")

    def get(self, path: str, *, bytes_max: int = ANSWER_BYTES_MAX, accept: str = "*/*") -> Answered:
        """A whole small answer with status 200. Raises :class:`NoSuchContent` for 404, the other classes otherwise."""
        return self._whole("GET", path, bytes_max=bytes_max, headers={"Accept": accept})

    def has(self, path: str) -> str | None:
        """Whether ``path`` is there: what ``Docker-Content-Digest`` says of it, which may be nothing; None if not."""
        try:
            answer = self._whole("HEAD", path, bytes_max=0, headers={"Accept": ACCEPTED})
        except NoSuchContent:
            return None
        return answer.headers.get("Docker-Content-Digest", "")

    def digest_at(self, repository: str, reference: str) -> Digest | None:
        """The digest of the manifest under a tag or digest, from its bytes; None when there is none."""
        path = f"/v2/{repository}/manifests/{reference}"
        try:
            return digest_of(self.get(path, bytes_max=MANIFEST_BYTES_MAX, accept=ACCEPTED).body)
        except NoSuchContent:
            return None

    def _whole(self, method: str, path: str, *, bytes_max: int, headers: dict[str, str]) -> Answered:
        url = self._site.origin + path
        with self._transfer.within(self._limits.answer_s, shown(url)):
            response = self._attempts(method, url, headers=headers)
            body = self._read(response, bytes_max)
            self._expect(response, 200, body)
        return Answered(response.status_code, response.headers, body)

    @contextlib.contextmanager
    def stream(self, path: str, *, size: int, offset: int = 0) -> Iterator[requests.Response]:
        """A blob's answer, status 200 or 206, to be read with :meth:`pieces`; within the time of ``size`` bytes."""
        url = self._site.origin + path
        headers = {"Accept": "*/*"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self._transfer.within(self._limits.blob_s(size), shown(url)):
            response = self._attempts("GET", url, headers=headers)
            for _ in range(REDIRECTS_MAX):
                if response.status_code not in (301, 302, 303, 307, 308):
                    break
                response = self._follow(response, headers)
            if response.status_code not in (200, 206):
                raise self.refusal(response, self._read(response, ANSWER_BYTES_MAX))
            with contextlib.closing(response):
                yield response

    def pieces(self, response: requests.Response) -> Iterator[bytes]:
        """The bytes as they come; ends where the connection does."""
        while True:
            self._transfer.check()
            try:
                piece = response.raw.read1(PIECE_BYTES, decode_content=False)
            except urllib3.exceptions.ReadTimeoutError as error:
                raise RegistryStalled(f"{shown(response.url)}: no byte for {self._limits.read_s:g} s") from error
            except (urllib3.exceptions.HTTPError, OSError, ValueError):
                self._transfer.check()
                return  # ended before its announced length; the count tells how early
            if not piece:
                return
            yield piece

    def _follow(self, response: requests.Response, headers: dict[str, str]) -> requests.Response:
        """Where a blob really is. ``_attempts`` never gets here with another origin's credentials."""
        response.close()
        told = _led(response)
        if told.startswith(f"{self._site.origin}/"):
            return self._once(self.session, "GET", told, headers=self._authorized(headers))
        before = str(response.url)
        if not (before.startswith("https://") and told.startswith("https://")) or "@" in told.partition("?")[0]:
            raise RegistryRefused(
                f"{shown(str(response.url))} is led to {shown(told)}: only https to https is followed"
            )
        return self._once(self._elsewhere(), "GET", told, headers=headers)

    # --- writing ------------------------------------------------------------------------------------------------

    def send_blob(self, repository: str, path: Path, digest: Digest, size: int) -> None:
        """Send a blob that the registry does not have yet."""
        container = Place(self._site.address, repository)
        layer = {"digest": str(digest), "size": size}
        with self._transfer.within(self._limits.blob_s(size), f"{self._site.address}: upload of {digest}"):
            response = self.upload_blob(str(path), container, layer)
            if response.request is None:  # it was there: oras makes this answer up
                self._transfer.moved(size, whole=True)
                return
            self._expect(response, 201, self._read(response, ANSWER_BYTES_MAX))
        self._transfer.moved(0, whole=True)

    def send_manifest(
        self, repository: str, reference: str, raw: bytes, *, media_type: str = MANIFEST_TYPE
    ) -> Answered:
        """Exactly these bytes: oras would write the JSON anew, and its digest with it."""
        url = f"{self._site.origin}/v2/{repository}/manifests/{reference}"
        with self._transfer.within(self._limits.answer_s, shown(url)):
            response = self._attempts("PUT", url, headers={"Content-Type": media_type}, body=raw)
            body = self._read(response, ANSWER_BYTES_MAX)
            self._expect(response, 201, body)
        told = response.headers.get("Docker-Content-Digest", "")
        if told and told != digest_of(raw):
            raise RegistryRefused(f"{self._site.address} stored {told[:80]}, expected {digest_of(raw)}")
        return Answered(response.status_code, response.headers, body)

    def blob_exists(self, layer: dict[str, Any], container: Any) -> bool:
        """For ``upload_blob`` of oras."""
        return self.has(f"/v2/{container.api_prefix}/blobs/{layer['digest']}") is not None

    def put_upload(self, blob: str, container: Any, layer: dict[str, Any]) -> requests.Response:
        """As oras does it, POST and PUT, with the body streamed from disk."""
        begun = self._attempts("POST", f"{self._site.origin}/v2/{container.api_prefix}/blobs/uploads/")
        self._expect(begun, 202, self._read(begun, ANSWER_BYTES_MAX))
        location = _led(begun)
        if not location.startswith(f"{self._site.origin}/"):
            raise RegistryRefused(f"{self._site.address} leads the upload elsewhere: {shown(location)!r}")
        url = oras.utils.append_url_params(location, {"digest": layer["digest"]})
        headers = {"Content-Length": str(layer["size"]), "Content-Type": "application/octet-stream"}
        with Body(Path(blob), layer["size"], self._transfer) as body:
            answer: requests.Response = self._attempts("PUT", url, headers=headers, body=body)
        return answer

    # --- requests -----------------------------------------------------------------------------------------------

    def _attempts(
        self, method: str, url: str, *, headers: dict[str, str] | None = None, body: bytes | Body | None = None
    ) -> requests.Response:
        """One attempt, and another for each challenge that can be answered."""
        response = self._once(self.session, method, url, headers=self._authorized(headers), body=body)
        for _ in range(CHALLENGES_MAX):
            if response.status_code != 401 or not self._authenticate(response):
                break
            if isinstance(body, Body):
                body.rewind()
            response = self._once(self.session, method, url, headers=self._authorized(headers), body=body)
        return response

    def _authorized(self, headers: dict[str, str] | None) -> dict[str, str]:
        told = dict(headers or {})
        if self._authorization is not None:
            told["Authorization"] = self._authorization
        return told

    def _authenticate(self, response: requests.Response) -> bool:
        """Prepare an answer to a challenge; False when there is none to give."""
        challenge = read_challenge(response.headers.get("WWW-Authenticate", ""), origin=self._site.origin)
        if challenge is None:
            return False
        credentials = self._site.credentials()
        before = self._authorization
        if isinstance(challenge, Bearer):
            basic = {} if credentials is None else {"Authorization": credentials.basic}
            self._authorization = f"Bearer {self._token(challenge, basic)}"
        elif credentials is not None:
            self._authorization = credentials.basic
        if self._authorization == before:
            return False
        self._read(response, ANSWER_BYTES_MAX)
        return True

    def _token(self, challenge: Bearer, headers: dict[str, str]) -> str:
        home = challenge.realm.startswith(f"{self._site.origin}/")
        answer = self._once(self.session if home else self._elsewhere(), "GET", challenge.url, headers=headers)
        body = self._read(answer, ANSWER_BYTES_MAX)
        if answer.status_code != 200:
            raise self.refusal(answer, body)
        return read_token(body, challenge.realm)

    def _once(
        self,
        session: requests.Session,
        method: str,
        url: str,
        *,
        headers: dict[str, str],
        body: bytes | Body | None = None,
    ) -> requests.Response:
        """One request, its failures in our classes; the body of its answer is still to be read."""
        self._transfer.check()
        self._drop_answer()
        host = shown(url).partition("//")[2].partition("/")[0]
        try:
            self._answer = session.request(
                method,
                url,
                data=body,
                headers={"Accept-Encoding": "identity", **headers},
                stream=True,
                allow_redirects=False,
                verify=self._tls_verify,
            )
        except requests.exceptions.SSLError as error:
            raise RegistryUntrusted(
                f"{host} is not the registry that was meant: {reason_of(error)}",
                hint='a registry with an authority of its own is set with "ca", the PEM file of that authority',
            ) from error
        except requests.exceptions.ConnectTimeout as error:
            raise RegistryUnreachable(f"no connection to {host} within {self._limits.connect_s:g} s") from error
        except requests.exceptions.Timeout as error:
            raise RegistryStalled(f"no answer from {host} in time") from error
        except (requests.exceptions.RequestException, OSError) as error:
            raise RegistryUnreachable(f"cannot reach {host}: {reason_of(error)}") from error
        return self._answer

    def _drop_answer(self) -> None:
        """Whatever was not read of the latest answer is not read any more."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _read(self, response: requests.Response, bytes_max: int) -> bytes:
        """A whole small body."""
        body = bytearray()
        with contextlib.closing(response):
            for piece in self.pieces(response):
                body += piece
                if len(body) > bytes_max:
                    raise RegistryRefused(f"{shown(str(response.url))}: an answer of more than {bytes_max} bytes")
        announced = response.headers.get("Content-Length", "")
        if _LENGTH.fullmatch(announced) and int(announced) > len(body) and response.request.method != "HEAD":
            raise Truncated(f"{shown(str(response.url))}: expected {announced[:20]} bytes, found {len(body)}")
        return bytes(body)

    def _expect(self, response: requests.Response, status: int, body: bytes) -> None:
        if response.status_code != status:
            raise self.refusal(response, body)

    def refusal(self, response: requests.Response, body: bytes) -> Problem:
        """A status that was not wanted, in the class of who must act."""
        asked = f"{response.request.method} {shown(str(response.url))}"
        if 300 <= response.status_code < 400:
            where = shown(_led(response))
            return RegistryRefused(f"{asked}: status {response.status_code} leads to {where}, which is not followed")
        return refusal_of(asked, response.status_code, response.headers, body, ours=self._site.ours)


class Place(oras.container.Container):  # type: ignore[misc]
    """A repository at a registry; what oras reads from a text takes a first part with a dot for a host."""

    def __init__(self, address: str, repository: str) -> None:
        self.registry = address
        self.namespace, _, self.repository = repository.rpartition("/")
        self.tag = self.digest = None


def _led(response: requests.Response) -> str:
    """Where an answer leads; what is no address stays as it is."""
    told = response.headers.get("Location", "")
    try:
        return urljoin(str(response.url), told) if told else ""
    except ValueError:
        return told
