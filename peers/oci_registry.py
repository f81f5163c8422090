"""One registry at one address, over ``oras``: its transport and its upload protocol, everything else overridden.

oras-py checks no digest, retries every failure for two minutes, has no time-outs, follows proxies of the environment
and redirects, and reads whole files into memory. Here: one attempt, time-outs on every request, bounded answers,
bodies streamed from disk and counted, manifests sent as the exact bytes that were signed.

Importing this costs 130 ms and 22 MB, so whoever pushes imports it when it pushes. Everything here blocks.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import msgspec
import oras.provider
import oras.utils
import requests
from requests.adapters import HTTPAdapter

from federation.manifests import MANIFEST_TYPE
from federation.names import Digest, digest_of
from peers.oci_push import Counted, PushFailed, PushIdentity, PushLimits, PushRefused
from query.errors import ErrorRecord, Problem

ANSWER_BYTES_MAX: Final = 64 * 1024
PIECE_BYTES: Final = 256 * 1024


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
    """The registry at ``address`` (``host:port``); whoever made it closes its ``session``."""

    def __init__(self, address: str, identity: PushIdentity, limits: PushLimits, counted: Counted) -> None:
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
        with Body(Path(blob), layer["size"], self._counted) as body:
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
            raise PushRefused(f"{self._address} is not the registry that was meant: {_reason(error)}") from error
        except requests.exceptions.Timeout as error:
            raise PushFailed(f"no answer from {self._address} in time") from error
        except (requests.exceptions.RequestException, OSError) as error:
            raise PushFailed(f"cannot reach {self._address}: {_reason(error)}") from error
        return response

    def _expect(self, response: requests.Response, status: int) -> None:
        if response.status_code != status:
            raise _problem(response)


class Body(io.RawIOBase):
    """A blob as a request's body, in pieces that are counted as they leave."""

    def __init__(self, path: Path, size: int, counted: Counted) -> None:
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


def _reason(error: BaseException) -> str:
    """What the system or the TLS library said, below the wrappers that HTTP libraries put around it."""
    cause: BaseException | None = error
    innermost, said = error, ""
    while cause is not None:
        innermost = cause
        if isinstance(cause, OSError):
            said = getattr(cause, "verify_message", None) or cause.strerror or said
        cause = cause.__cause__ or cause.__context__
    return said or str(innermost)


def _problem(response: requests.Response) -> Problem:
    try:
        told = msgspec.json.decode(response.content, type=_OciAnswer)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        told = _OciAnswer()
    if told.error is not None:
        return Problem.from_record(told.error)
    said = "; ".join(f"{entry.get('code')}: {entry.get('message')}"[:200] for entry in told.errors[:3])
    message = f"{response.request.method} {response.request.url}: status {response.status_code} {said}".rstrip()
    return PushFailed(message) if response.status_code >= 500 else PushRefused(message)
