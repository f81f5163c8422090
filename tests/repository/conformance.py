"""The OCI distribution specification as a table: what is asked of a registry, step by step, and what must be answered.

Ported from the checks of the specification's conformance program (pull, push, content discovery, content management),
with what the specification says beside them. A check is a list of steps on a repository of its own; ``{repo}``,
``{other}`` (a second repository) and ``{at}`` (where the last upload is) stand in paths and expected headers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from federation.manifests import INDEX_TYPE, MANIFEST_TYPE
from federation.names import Digest, digest_of

OCTETS: Final = {"Content-Type": "application/octet-stream"}
ARTIFACT_A, ARTIFACT_B = "application/vnd.test.report", "application/vnd.test.signature"
BLOB: Final = b"0123456789"
CHUNKS: Final = (b"hello ", b"federated ", b"world")
WHOLE: Final = b"".join(CHUNKS)
CONFIG: Final = b'{"a":1}'
EMPTY: Final = b"{}"
ABSENT: Final = digest_of(b"absent")

Holds = Callable[[bytes], bool]


@dataclass(frozen=True)
class Step:
    """One request, and its answer: one of ``status``, the headers ``told`` (None: not there), an error ``code``, a
    body that ``holds``.
    """

    method: str
    path: str
    status: tuple[int, ...]
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, str | None] = field(default_factory=dict)
    code: str | None = None
    holds: bytes | Holds | None = None


def ask(method: str, path: str, *status: int, **rest: Any) -> Step:
    return Step(method, path, status, **rest)


# --- content --------------------------------------------------------------------------------------------------------


def described(content: bytes, media_type: str = "application/octet-stream") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def manifest(*layers: bytes, subject: bytes | None = None, **more: Any) -> bytes:
    """Written unlike anybody would write it, so that a registry that writes it anew is found out."""
    told = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": described(CONFIG, "application/vnd.test.config+json"),
        "layers": [described(layer) for layer in layers],
        **more,
    }
    if subject is not None:
        told["subject"] = described(subject, MANIFEST_TYPE)
    return json.dumps(told, indent=3).encode()


PLAIN: Final = manifest(BLOB)
OTHER: Final = manifest(BLOB, WHOLE)
BARE: Final = manifest(artifactType="application/vnd.test.bare")
REPORT: Final = manifest(subject=PLAIN, artifactType=ARTIFACT_A, annotations={"about": "the report"})
SIGNATURE: Final = manifest(BLOB, subject=PLAIN, artifactType=ARTIFACT_B)
EARLY: Final = manifest(subject=OTHER, artifactType=ARTIFACT_A)
UNTYPED: Final = manifest(BLOB, subject=PLAIN, annotations={"about": "no type"})
LARGE: Final = manifest(BLOB, annotations={f"large.{number}": "x" * 100_000 for number in range(39)})
LISTED: Final = json.dumps(
    {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [described(PLAIN, MANIFEST_TYPE)]}, indent=1
).encode()


def blob_at(content: bytes | Digest) -> str:
    return f"/v2/{{repo}}/blobs/{content if isinstance(content, str) else digest_of(content)}"


def manifest_at(reference: str | bytes) -> str:
    return f"/v2/{{repo}}/manifests/{reference if isinstance(reference, str) else digest_of(reference)}"


def upload(content: bytes, repository: str = "{repo}") -> Iterator[Step]:
    """A blob by POST and PUT."""
    yield ask("POST", f"/v2/{repository}/blobs/uploads/", 202)
    yield ask(
        "PUT",
        f"{{at}}digest={digest_of(content)}",
        201,
        body=content,
        headers=OCTETS,
        told={"Docker-Content-Digest": digest_of(content)},
    )


def put(raw: bytes, reference: str | None = None, *, media_type: str = MANIFEST_TYPE, **rest: Any) -> Step:
    """A manifest, under a tag or by its digest."""
    where = manifest_at(reference or raw)
    return ask("PUT", where, 201, body=raw, headers={"Content-Type": media_type}, **rest)


def parts() -> Iterator[Step]:
    for content in (BLOB, WHOLE, CONFIG):
        yield from upload(content)


def tags(*names: str) -> Holds:
    return lambda body: json.loads(body)["tags"] == list(names)


def referring(*manifests: bytes) -> Holds:
    """Whether an index lists these manifests, each with its type and annotations."""

    def holds(body: bytes) -> bool:
        index = json.loads(body)
        found = {entry["digest"]: entry for entry in index["manifests"]}
        if index["schemaVersion"] != 2 or index["mediaType"] != INDEX_TYPE or len(found) != len(manifests):
            return False
        return all(_describes(found.get(digest_of(raw)), raw) for raw in manifests)

    return holds


def _describes(entry: Any, raw: bytes) -> bool:
    told = json.loads(raw)
    kind = told.get("artifactType", told.get("config", {}).get("mediaType"))
    return (
        entry is not None
        and entry["size"] == len(raw)
        and entry["mediaType"] == told["mediaType"]
        and entry.get("artifactType") == kind
        and entry.get("annotations") == told.get("annotations")
    )


def listing(*manifests: bytes) -> bytes:
    """The index that a client keeps under the fall-back tag."""
    entries = [{**described(raw, MANIFEST_TYPE), "artifactType": json.loads(raw)["artifactType"]} for raw in manifests]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}, indent=2).encode()


# --- the table ------------------------------------------------------------------------------------------------------

FALLBACK: Final = f"sha256-{digest_of(PLAIN).removeprefix('sha256:')}"
ACCEPT: Final = {"Accept": f"{MANIFEST_TYPE}, {INDEX_TYPE}"}
UPLOADS: Final = "/v2/{repo}/blobs/uploads/"


def get(reference: str | bytes, *status: int, method: str = "GET", **rest: Any) -> Step:
    return ask(method, manifest_at(reference), *status, headers=ACCEPT, **rest)


PULL: Final[dict[str, Sequence[Step]]] = {
    "the version": (ask("GET", "/v2/", 200),),
    "a blob that is not there": (
        *upload(BLOB),
        ask("GET", blob_at(ABSENT), 404, code="BLOB_UNKNOWN"),
        ask("HEAD", blob_at(ABSENT), 404),
    ),
    "a blob": (
        *upload(BLOB),
        ask("HEAD", blob_at(BLOB), 200, told={"Content-Length": "10", "Docker-Content-Digest": digest_of(BLOB)}),
        ask("GET", blob_at(BLOB), 200, holds=BLOB, told={"Docker-Content-Digest": digest_of(BLOB)}),
    ),
    "an empty blob": (
        *upload(b""),
        ask("HEAD", blob_at(b""), 200, told={"Content-Length": "0"}),
        ask("GET", blob_at(b""), 200, holds=b""),
    ),
    "a malformed digest": (ask("GET", "/v2/{repo}/blobs/sha256:abc", 400, 404),),
    "pieces of a blob": (
        *upload(BLOB),
        *(
            ask("GET", blob_at(BLOB), 206, headers={"Range": asked}, holds=found, told={"Content-Range": told})
            for asked, found, told in (
                ("bytes=0-0", b"0", "bytes 0-0/10"),
                ("bytes=3-5", b"345", "bytes 3-5/10"),
                ("bytes=3-", b"3456789", "bytes 3-9/10"),
                ("bytes=-2", b"89", "bytes 8-9/10"),
                ("bytes=-99", b"0123456789", "bytes 0-9/10"),
                ("bytes=8-99", b"89", "bytes 8-9/10"),
            )
        ),
    ),
    "a piece that a blob does not have": (
        *upload(BLOB),
        ask("GET", blob_at(BLOB), 416, headers={"Range": "bytes=10-"}, told={"Content-Range": "bytes */10"}),
    ),
    "a manifest that is not there": (
        *upload(CONFIG),
        get("nowhere", 404, code="MANIFEST_UNKNOWN"),
        get("nowhere", 404, method="HEAD"),
        get(ABSENT, 404, code="MANIFEST_UNKNOWN"),
        get(ABSENT, 404, method="HEAD"),
    ),
    "a manifest by tag and by digest": (
        *parts(),
        put(PLAIN, "1.0"),
        *(
            get(
                reference,
                200,
                method=method,
                holds=PLAIN if method == "GET" else b"",
                told={
                    "Content-Type": MANIFEST_TYPE,
                    "Content-Length": str(len(PLAIN)),
                    "Docker-Content-Digest": digest_of(PLAIN),
                },
            )
            for reference in ("1.0", str(digest_of(PLAIN)))
            for method in ("GET", "HEAD")
        ),
    ),
    "a manifest without saying what is accepted": (
        *parts(),
        put(PLAIN, "1.0"),
        ask("GET", manifest_at("1.0"), 200, holds=PLAIN, told={"Content-Type": MANIFEST_TYPE}),
    ),
}

PUSH: Final[dict[str, Sequence[Step]]] = {
    "a blob as a stream": (
        ask("POST", UPLOADS, 202),
        ask("PATCH", "{at}", 202, body=WHOLE, headers=OCTETS, told={"Range": f"0-{len(WHOLE) - 1}"}),
        ask("PUT", f"{{at}}digest={digest_of(WHOLE)}", 201, told={"Location": blob_at(WHOLE)}),
        ask("GET", blob_at(WHOLE), 200, holds=WHOLE),
    ),
    "a blob by POST and PUT": (*upload(BLOB), ask("GET", blob_at(BLOB), 200, holds=BLOB)),
    "a blob by one POST": (
        ask("POST", f"{UPLOADS}?digest={digest_of(BLOB)}", 201, body=BLOB, headers=OCTETS),
        ask("GET", blob_at(BLOB), 200, holds=BLOB),
    ),
    "a blob by one POST, or what else the registry offers": (
        ask("POST", f"{UPLOADS}?digest={digest_of(BLOB)}", 201, 202, body=BLOB, headers=OCTETS),
    ),
    "a blob in chunks": (
        ask("POST", UPLOADS, 202, headers={"Content-Length": "0"}),
        ask("PATCH", "{at}", 202, body=CHUNKS[0], headers={**OCTETS, "Content-Range": "0-5"}, told={"Range": "0-5"}),
        ask("GET", "{at}", 204, told={"Range": "0-5"}),
        ask("PATCH", "{at}", 202, body=CHUNKS[1], headers={**OCTETS, "Content-Range": "6-15"}, told={"Range": "0-15"}),
        ask("PUT", f"{{at}}digest={digest_of(WHOLE)}", 201, body=CHUNKS[2], headers={**OCTETS}),
        ask("GET", blob_at(WHOLE), 200, holds=WHOLE),
        ask("GET", "{at}", 404, code="BLOB_UPLOAD_UNKNOWN"),
    ),
    "chunks out of order": (
        ask("POST", UPLOADS, 202),
        ask("PATCH", "{at}", 416, body=CHUNKS[1], headers={**OCTETS, "Content-Range": "6-15"}),
        ask("PATCH", "{at}", 202, body=CHUNKS[0], headers={**OCTETS, "Content-Range": "0-5"}),
        ask("PATCH", "{at}", 416, body=CHUNKS[0], headers={**OCTETS, "Content-Range": "0-5"}, told={"Range": "0-5"}),
        ask("GET", "{at}", 204, told={"Range": "0-5"}),
        ask("PATCH", "{at}", 202, body=CHUNKS[1], headers={**OCTETS, "Content-Range": "6-15"}),
        ask(
            "PUT", f"{{at}}digest={digest_of(WHOLE)}", 201, body=CHUNKS[2], headers={**OCTETS, "Content-Range": "16-20"}
        ),
        ask("GET", blob_at(WHOLE), 200, holds=WHOLE),
    ),
    "an upload that is called off": (
        ask("POST", UPLOADS, 202),
        ask("PATCH", "{at}", 202, body=CHUNKS[0], headers=OCTETS),
        ask("DELETE", "{at}", 204),
        ask("GET", "{at}", 404, code="BLOB_UPLOAD_UNKNOWN"),
        ask("PATCH", "{at}", 404, body=CHUNKS[0], headers=OCTETS, code="BLOB_UPLOAD_UNKNOWN"),
    ),
    "a blob from another repository": (
        *upload(BLOB, "{other}"),
        ask("POST", f"{UPLOADS}?mount={digest_of(BLOB)}&from={{other}}", 201, told={"Location": blob_at(BLOB)}),
        ask("GET", blob_at(BLOB), 200, holds=BLOB),
    ),
    "a blob from wherever it is, or an upload": (
        *upload(BLOB, "{other}"),
        ask("POST", f"{UPLOADS}?mount={digest_of(BLOB)}", 201, 202),
        ask("POST", f"{UPLOADS}?mount={ABSENT}&from={{other}}", 202),
        ask("PUT", f"{{at}}digest={digest_of(WHOLE)}", 201, body=WHOLE, headers=OCTETS),
    ),
    "a blob with another digest": (
        ask("POST", UPLOADS, 202),
        ask("PUT", f"{{at}}digest={ABSENT}", 400, body=BLOB, headers=OCTETS, code="DIGEST_INVALID"),
        ask("HEAD", blob_at(ABSENT), 404),
    ),
    "a blob without a digest": (
        ask("POST", UPLOADS, 202),
        ask("PUT", "{at}", 400, body=BLOB, headers=OCTETS, code="DIGEST_INVALID"),
    ),
    "a manifest by tag": (
        *parts(),
        put(PLAIN, "1.0", told={"Location": manifest_at(PLAIN), "Docker-Content-Digest": digest_of(PLAIN)}),
        get("1.0", 200, holds=PLAIN),
    ),
    "a manifest by digest": (*parts(), put(PLAIN), get(PLAIN, 200, holds=PLAIN), get("1.0", 404)),
    "a manifest under several tags, again, and a tag that moves": (
        *parts(),
        *(put(PLAIN, tag) for tag in ("1.0", "latest", "1.0")),
        put(OTHER, "latest"),
        get("1.0", 200, holds=PLAIN),
        get("latest", 200, holds=OTHER),
    ),
    "a manifest without layers, of an artifact": (*parts(), put(BARE, "1.0"), get("1.0", 200, holds=BARE)),
    "a manifest of almost four megabytes": (*parts(), put(LARGE, "1.0"), get("1.0", 200, holds=LARGE)),
    "an index": (
        *parts(),
        put(PLAIN),
        put(LISTED, "1.0", media_type=INDEX_TYPE),
        get("1.0", 200, holds=LISTED, told={"Content-Type": INDEX_TYPE}),
    ),
    "a manifest that names what is not there": (
        *upload(CONFIG),
        ask(
            "PUT",
            manifest_at("1.0"),
            400,
            404,
            body=PLAIN,
            headers={"Content-Type": MANIFEST_TYPE},
            code="MANIFEST_BLOB_UNKNOWN",
        ),
        get("1.0", 404),
    ),
    "a manifest with another digest": (
        *parts(),
        ask(
            "PUT",
            manifest_at(ABSENT),
            400,
            body=PLAIN,
            headers={"Content-Type": MANIFEST_TYPE},
            code="DIGEST_INVALID",
        ),
    ),
    "what is no manifest": (
        *parts(),
        ask(
            "PUT",
            manifest_at("1.0"),
            400,
            body=b"blah",
            headers={"Content-Type": MANIFEST_TYPE},
            code="MANIFEST_INVALID",
        ),
    ),
    "a manifest whose subject is not here yet": (*parts(), put(EARLY), get(EARLY, 200, holds=EARLY)),
    "a manifest with a subject, which is named": (
        *parts(),
        put(PLAIN, "1.0"),
        put(REPORT, told={"OCI-Subject": digest_of(PLAIN)}),
    ),
    "a tag that is none": (
        *parts(),
        ask("PUT", manifest_at("b%20d"), 400, 404, body=PLAIN, headers={"Content-Type": MANIFEST_TYPE}),
    ),
}


def tagged(*names: str) -> Iterator[Step]:
    yield from parts()
    for name in names:
        yield put(PLAIN, name)


DISCOVERY: Final[dict[str, Sequence[Step]]] = {
    "tags": (*tagged("b", "a", "C", "1.0"), ask("GET", "/v2/{repo}/tags/list", 200, holds=tags("1.0", "C", "a", "b"))),
    "tags in pages": (
        *tagged("a", "b", "c", "d"),
        ask(
            "GET",
            "/v2/{repo}/tags/list?n=2",
            200,
            holds=tags("a", "b"),
            told={"Link": '</v2/{repo}/tags/list?n=2&last=b>; rel="next"'},
        ),
        ask("GET", "/v2/{repo}/tags/list?n=2&last=b", 200, holds=tags("c", "d"), told={"Link": None}),
        ask("GET", "/v2/{repo}/tags/list?last=c", 200, holds=tags("d")),
        ask("GET", "/v2/{repo}/tags/list?n=9", 200, holds=tags("a", "b", "c", "d"), told={"Link": None}),
        ask("GET", "/v2/{repo}/tags/list?n=0", 200, holds=tags(), told={"Link": None}),
    ),
    "tags in the order of the specification, or any": (
        *tagged("b", "a"),
        ask("GET", "/v2/{repo}/tags/list", 200, holds=lambda body: set(json.loads(body)["tags"]) == {"a", "b"}),
    ),
    "tags of a repository that is not there": (ask("GET", "/v2/{repo}/tags/list", 404, code="NAME_UNKNOWN"),),
    "repositories": (
        *tagged("a"),
        ask("GET", "/v2/_catalog?n=1000", 200, holds=lambda body: "repositories" in json.loads(body)),
        ask("GET", "/v2/_catalog?n=1", 200, holds=lambda body: len(json.loads(body)["repositories"]) == 1),
    ),
    "referrers of nothing": (
        *tagged("1.0"),
        ask("GET", f"/v2/{{repo}}/referrers/{ABSENT}", 200, holds=referring(), told={"Content-Type": INDEX_TYPE}),
    ),
    "referrers": (
        *tagged("1.0"),
        *(put(raw) for raw in (REPORT, SIGNATURE, UNTYPED, REPORT)),
        ask("GET", f"/v2/{{repo}}/referrers/{digest_of(PLAIN)}", 200, holds=referring(REPORT, SIGNATURE, UNTYPED)),
        ask(
            "GET",
            f"/v2/{{repo}}/referrers/{digest_of(PLAIN)}?artifactType={ARTIFACT_A}",
            200,
            holds=referring(REPORT),
            told={"OCI-Filters-Applied": "artifactType"},
        ),
        ask("GET", f"/v2/{{repo}}/referrers/{digest_of(PLAIN)}?artifactType=none", 200, holds=referring()),
    ),
    "referrers of what came later": (
        *parts(),
        put(EARLY),
        put(OTHER, "1.0"),
        ask("GET", f"/v2/{{repo}}/referrers/{digest_of(OTHER)}", 200, holds=referring(EARLY)),
    ),
    "an index with a subject": (
        *tagged("1.0"),
        put(
            listing().replace(b'"manifests"', b'"subject": %s, "manifests"' % json.dumps(described(PLAIN)).encode()),
            media_type=INDEX_TYPE,
            told={"OCI-Subject": digest_of(PLAIN)},
        ),
    ),
    "the fall-back tag as somebody left it": (
        *tagged("1.0"),
        put(REPORT),
        put(SIGNATURE),
        put(listing(REPORT, SIGNATURE), FALLBACK, media_type=INDEX_TYPE),
        get(FALLBACK, 200, holds=listing(REPORT, SIGNATURE), told={"Content-Type": INDEX_TYPE}),
    ),
    "the fall-back tag that nobody wrote": (
        *tagged("1.0"),
        get(FALLBACK, 404, code="MANIFEST_UNKNOWN"),
        put(REPORT),
        get(FALLBACK, 200, holds=referring(REPORT), told={"Content-Type": INDEX_TYPE}),
        put(SIGNATURE),
        get(FALLBACK, 200, holds=referring(REPORT, SIGNATURE)),
        ask("GET", "/v2/{repo}/tags/list", 200, holds=tags("1.0")),
    ),
}

MANAGEMENT: Final[dict[str, Sequence[Step]]] = {
    "deleting a tag": (
        *tagged("1.0", "latest"),
        ask("DELETE", manifest_at("latest"), 202),
        get("latest", 404, code="MANIFEST_UNKNOWN"),
        get("1.0", 200, holds=PLAIN),
        ask("DELETE", manifest_at("1.0"), 202),
        get(PLAIN, 200, holds=PLAIN),
        ask("DELETE", manifest_at("1.0"), 404),
    ),
    "deleting a manifest": (
        *tagged("1.0", "latest"),
        put(OTHER, "2.0"),
        ask("DELETE", manifest_at(PLAIN), 202),
        get(PLAIN, 404, code="MANIFEST_UNKNOWN"),
        *(get(tag, 404) for tag in ("1.0", "latest")),
        ask("GET", "/v2/{repo}/tags/list", 200, holds=tags("2.0")),
        ask("DELETE", manifest_at(PLAIN), 404),
        put(PLAIN, "1.0"),
        get("1.0", 200, holds=PLAIN),
    ),
    "deleting a manifest that is not there": (
        *parts(),
        put(PLAIN, "1.0"),
        ask("DELETE", manifest_at(ABSENT), 404, code="MANIFEST_UNKNOWN"),
    ),
    "deleting what is attached": (
        *tagged("1.0"),
        put(REPORT),
        put(SIGNATURE),
        ask("DELETE", manifest_at(REPORT), 202),
        ask("GET", f"/v2/{{repo}}/referrers/{digest_of(PLAIN)}", 200, holds=referring(SIGNATURE)),
        ask("DELETE", manifest_at(PLAIN), 202),
        ask("GET", f"/v2/{{repo}}/referrers/{digest_of(PLAIN)}", 200, holds=referring()),
    ),
    "deleting a blob": (
        *upload(WHOLE),
        ask("DELETE", blob_at(WHOLE), 202),
        ask("HEAD", blob_at(WHOLE), 404),
        ask("DELETE", blob_at(WHOLE), 404, code="BLOB_UNKNOWN"),
    ),
}

CHECKS: Final = {
    f"{part}: {name}": steps
    for part, checks in (("pull", PULL), ("push", PUSH), ("discovery", DISCOVERY), ("management", MANAGEMENT))
    for name, steps in checks.items()
}
