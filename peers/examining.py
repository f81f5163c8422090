"""Whether a home is whole: everything that is looked at, and what the parts of a home say of one another.

    files, keys, root records    peers.home_checks
    stores                       peers.store_checks
    blobs and their listing      peers.repository_checks
    one against another          here: log and repository, root records, who the nameserver is, who signed what is here

Reads alone. Rules: in the home of a peer that runs, the log and the repository are read one after the other; what they
say differently counts only when it stays so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from federation.documents import DOCUMENT_BYTES_MAX, KeyId, SignedDocument, decode
from federation.integrity import (
    Finding,
    ListRelease,
    RewriteRoots,
    UnlistManifest,
    check_record,
    publisher_keys,
    sound_roots,
)
from federation.manifests import MANIFEST_BYTES_MAX, BadManifest, read_manifest
from federation.names import Digest, digest_of
from federation.state import FederationState
from peers.home_checks import HomeFiles, marks
from peers.homes import BadHome, Home
from peers.pipeline_checks import check_members, check_pipelines
from peers.repository_checks import Advice, Inventory, check_repository, listing_of
from peers.store_checks import StoreChecks, check_edge_store, check_nameserver_store
from query.declarations import Progress, silent

SETTLING_S: Final = (0.1, 0.4, 1.5)  # between looks at a peer that writes the log first and its repository next

ADVICE: Final = {
    "nameserver": Advice("publish the release again from where it was made: models:publish", unlists=False),
    "edge": Advice("the edge fetches it again", unlists=True),
    "client": Advice("make the release again, or import it", unlists=True),
}


@dataclass(slots=True)
class Examination:
    """What was found. ``state`` is a nameserver's, as its log has it; ``counts`` what was looked at."""

    home: Home
    kind: str
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    state: FederationState | None = None

    def record(self) -> dict[str, Any]:
        return {"home": str(self.home), "kind": self.kind, **self.counts, "notes": self.notes}


def examine(home: Home, *, progress: Progress = silent) -> Examination:
    """Look at all of a home. Raises :class:`BadHome` for what is no home."""
    if not home.path.is_dir():
        raise BadHome(f"{home} does not exist: expected a home", hint="name one with --home or PEERAGE_HOME")
    if not any(path.exists() for path in marks(home)):
        raise BadHome(f"{home} is no peer's home: expected membership.json or a key in it")
    files = HomeFiles(home)
    kind = "nameserver" if files.nameserver else files.kind
    found = Examination(home, kind, list(files.findings))
    signing: dict[KeyId, bytes] = publisher_keys(files.roots)
    signing |= {key.keyid: key.public for key in _own(files)}
    store = _check_store(files, kind, found, progress)
    if store is not None and store.state is not None:
        found.state = store.state
        found.findings = _with_log(found.findings, files, store.state)
        signing |= publisher_keys(sound_roots(store.state.root_documents))
        signing |= _members_keys(store.state)
    if kind == "root":
        return found
    advice = ADVICE.get(kind, ADVICE["client"])
    inventory = check_repository(home.releases, advice=advice, in_use=home.in_use, progress=progress)
    found.findings += inventory.findings
    found.findings += _check_records(home, inventory, signing, advice)
    if found.state is not None and inventory.read:
        found.findings += _compared(home, found.state, inventory)
    found.findings += check_pipelines(home.pipelines)
    found.counts |= {
        "blobs": len(inventory.whole),
        "bytes": sum(inventory.whole.values()),
        "releases": len(inventory.releases),
        "changes": 0 if store is None else store.changes,
    }
    return found


def _own(files: HomeFiles) -> list[Any]:
    """The keys of this home that releases in it may be signed with."""
    home = files.home
    return [key for path in (home.identity_key, home.publisher_key) if path.exists() and (key := files.key(path))]


def _members_keys(state: FederationState) -> dict[KeyId, bytes]:
    """Members sign development releases with their identity."""
    from federation.keys import keyid_of

    return {keyid_of(member.key): member.key for member in state.members() if member.key is not None}


def _check_store(files: HomeFiles, kind: str, found: Examination, progress: Progress) -> StoreChecks | None:
    home, membership = files.home, files.membership
    if kind == "nameserver":
        store = check_nameserver_store(home.state_db, progress=progress)
    elif kind == "edge" and membership is not None:
        key = files.key(home.identity_key) if home.identity_key.exists() else None
        store = check_edge_store(
            home.state_db,
            edge=membership.uuid,
            federation=membership.federation,
            roots=files.roots,
            own_key=None if key is None else (key.keyid, key.public),
        )
    else:
        return None
    found.findings += store.findings
    found.notes += store.notes
    return store


# --- a nameserver's log against the rest -----------------------------------------------------------------------------


def _with_log(findings: list[Finding], files: HomeFiles, state: FederationState) -> list[Finding]:
    """What is known of the home's files once the log is: root records can be written from it."""
    home, roots_json = files.home, str(files.home.roots_json)
    kept = [finding for finding in findings if finding.thing != roots_json or finding.kind == "loose_mode"]
    known = [document.payload for document in state.root_documents]
    own = [document.payload for document in files.documents]
    if len(kept) != len(findings) or not own or own != known[: len(own)]:
        expected = f"the {len(known)} root records of the log, or the first of them"
        kept.append(Finding("wrong_roots", roots_json, expected, f"{len(own)} records", RewriteRoots()))
    membership = files.membership
    if membership is not None:
        member = state.member(membership.uuid)
        if member is None or member.kind != "nameserver" or membership.federation != state.federation:
            expected = f"the nameserver of {state.federation}"
            told = f"{membership.kind} {membership.uuid} of {membership.federation}"
            kept.append(
                Finding("wrong_membership", str(home.membership_json), expected, told, advice="put the file back")
            )
        key = files.key(home.identity_key) if home.identity_key.exists() else None
        if member is not None and key is not None and member.key != key.public:
            told = f"key {key.keyid[:16]}"
            kept.append(
                Finding(
                    "wrong_key",
                    str(home.identity_key),
                    "the nameserver's key in the log",
                    told,
                    advice="put the file back",
                )
            )
    directors = [files.key(path) for path in (home.director_key, home.director_next_key) if path.exists()]
    if not any(key is not None and key.keyid in state.root.directors for key in directors):
        told = ", ".join(key.keyid[:16] for key in directors if key is not None) or "none"
        advice = "put the file back, or make a new key: peerage keys rotate director"
        kept.append(
            Finding("wrong_key", str(home.director_key), "a director key of the root record", told, advice=advice)
        )
    return kept


def _compared(home: Home, state: FederationState, inventory: Inventory) -> list[Finding]:
    """Log and repository against one another; of a nameserver that runs, what stays different for a while."""
    found = compare(state, inventory)
    for pause_s in SETTLING_S if home.in_use else ():
        if not found:
            break
        time.sleep(pause_s)
        later, listing = check_nameserver_store(home.state_db, progress=silent), listing_of(home.releases)
        if later.state is not None and listing.read:
            listing.whole = inventory.whole
            again = {(finding.kind, finding.thing) for finding in compare(later.state, listing)}
            found = [finding for finding in found if (finding.kind, finding.thing) in again]
    return found


def compare(state: FederationState, inventory: Inventory) -> list[Finding]:
    """Releases that the log has and the repository does not list, and the reverse."""
    found = []
    listed = inventory.releases
    for release in state.releases():
        record = release.record
        if release.digest in listed:
            continue
        parts = {record.manifest: record.manifest_size, **{entry.digest: entry.size for entry in record.files}}
        lacking = [digest for digest, size in parts.items() if inventory.whole.get(digest) != size]
        remedy = None if lacking else ListRelease(release.digest)
        told = f"none, and {len(lacking)} of its {len(parts)} blobs are not here" if lacking else "none"
        found.append(
            Finding(
                "unlisted_release", record.label, "an entry in the repository", told, remedy, ADVICE["nameserver"].lost
            )
        )
    for installed in listed.values():
        if installed.development:
            continue
        known = state.release(installed.name, installed.version)
        if known is not None and known.digest == installed.record_digest:
            continue
        if known is None and state.published.deleted(installed.name, installed.version) == installed.manifest:
            unlist = UnlistManifest(installed.repository, installed.manifest, "the log has deleted it")
            found.append(Finding("deleted_release", installed.label, "no entry: the log deleted it", "one", unlist))
            continue
        told = "none" if known is None else f"record {known.digest}"
        advice = "publish it again if it should be there, or delete its manifest over /v2/"
        expected = f"the log to have record {installed.record_digest}"
        found.append(Finding("unknown_release", f"{installed.label} in the repository", expected, told, advice=advice))
    return found


# --- who signed ------------------------------------------------------------------------------------------------------


def _check_records(home: Home, inventory: Inventory, keys: dict[KeyId, bytes], advice: Advice) -> list[Finding]:
    """The signature of every release that the repository lists and that is whole."""
    found = []
    for release in inventory.releases.values():
        raw = _blob(home, inventory, release.attachment, MANIFEST_BYTES_MAX)
        try:
            layers = read_manifest(raw).layers if raw is not None else ()
        except BadManifest:
            continue  # found already
        envelope = _blob(home, inventory, Digest(layers[0].digest), DOCUMENT_BYTES_MAX) if len(layers) == 1 else None
        try:
            document = None if envelope is None else decode(envelope, SignedDocument)
        except ValueError:
            continue
        if document is None:
            continue
        where = f"{release.label} in the repository"
        problems = check_record(document, where, keys=keys, advice=advice.lost) or check_members(
            document,
            where,
            keys=keys,
            read=lambda entry: _blob(home, inventory, entry.digest, entry.size),
            advice=advice.lost,
        )
        remedy = UnlistManifest(release.repository, release.manifest, advice.lost) if advice.unlists else None
        found += [Finding(one.kind, one.thing, one.expected, one.found, remedy, one.advice) for one in problems]
    return found


def _blob(home: Home, inventory: Inventory, digest: Digest, bytes_max: int) -> bytes | None:
    size = inventory.whole.get(digest)
    if size is None or size > bytes_max:
        return None
    try:
        raw = (home.releases / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
    except OSError:
        return None
    return raw if digest_of(raw) == digest else None
