"""Whether the files of a home hold: who may read them, keys, certificates, who the peer is, and its root records.

Reads alone. Rules: a private key is used to compare, never shown; a file that its peer does not need is not missed.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from federation.certificate_reading import PeerCertificate, check_issued, public_key, read_pem
from federation.documents import RootRecord, SignedDocument
from federation.integrity import Finding, Remedy, RemoveFile, SetMode, brief, check_chain, sound_roots
from federation.keys import PrivateKey, read_key
from peers.homes import Home, Membership
from query.errors import Problem

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700

_REJOIN: Final = "put it back, or register and join again in a new home"
_RESTORE: Final = "put it back from a copy, or restore a backup: peerage restore"


def marks(home: Home) -> tuple[Path, ...]:
    """Files one of which makes a folder a home; nothing is said about, or done to, a folder without any."""
    keys = (home.identity_key, home.publisher_key, home.ca_key, home.director_key, home.root_key)
    return (*keys, home.membership_json, home.roots_json)


class HomeFiles:
    """One home, looked at once. ``kind`` is ``root`` for a folder with the federation's root key alone."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.findings: list[Finding] = []
        self.membership: Membership | None = None
        self.documents: tuple[SignedDocument, ...] = ()
        self._keys: dict[Path, PrivateKey | None] = {}
        self._read()

    @property
    def kind(self) -> str:
        if self.membership is not None:
            return self.membership.kind
        home = self.home
        peers_own = (home.identity_key, home.ca_key, home.state_db, home.membership_json)
        alone = home.roots_json.exists() and not any(path.exists() for path in peers_own)
        return "root" if home.root_key.exists() or alone else "unknown"

    @property
    def nameserver(self) -> bool:
        """Whether it is a nameserver's home, also when who the peer is cannot be read."""
        return self.kind == "nameserver" or (self.membership is None and self.home.ca_key.exists())

    @property
    def roots(self) -> tuple[RootRecord, ...]:
        """The root records of the home, as far as their chain holds."""
        return sound_roots(self.documents)

    @property
    def _advice(self) -> str:
        return _RESTORE if self.nameserver else _REJOIN

    def key(self, path: Path) -> PrivateKey | None:
        """A key of the home; a file that is none is found once."""
        if path not in self._keys:
            self._keys[path] = self._read_key(path)
        return self._keys[path]

    # --- what is looked at --------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            self.membership = self.home.read_membership()
        except Problem as problem:
            self._found("bad_file", self.home.membership_json, "who this peer is", problem.message)
        try:
            self.documents = self.home.roots()
        except Problem as problem:
            self._found("bad_file", self.home.roots_json, "the root records that this peer trusts", problem.message)
        self._check_modes()
        self._check_left_over()
        self._check_keys()
        if self.kind == "root":
            self._check_roots()
        elif self.kind != "unknown":
            self._check_certificates()
            self._check_roots()
        elif (self.home.ca_key.exists() or self.home.state_db.exists()) and not self.home.joined:
            self._found("missing_file", self.home.membership_json, "who this peer is", "no such file")

    def _check_modes(self) -> None:
        home = self.home
        modes = [(home.path, FOLDER_MODE)]
        modes += [(path, FILE_MODE) for path in sorted(_files(home.path)) if path.name != home.settings_toml.name]
        for path, wanted in modes:
            try:
                mode = stat.S_IMODE(path.stat().st_mode)
            except OSError:
                continue
            if mode & 0o077:
                expected = f"mode {wanted:o}, for this user alone"
                self.findings.append(
                    Finding(
                        "loose_mode",
                        str(path),
                        expected,
                        f"mode {mode:o}",
                        SetMode(str(path), wanted),
                        "think about who has read it: a key that others know is to be replaced",
                    )
                )

    def _check_left_over(self) -> None:
        """Halves of small files that a kill has left; nobody writes a file of that name twice."""
        for path in sorted(_files(self.home.path)):
            stem, _, random = path.name.rpartition(".")
            if stem.startswith(".") and len(random) == 16 and not self.home.in_use:
                remedy: Remedy = RemoveFile(str(path), "it was not finished")
                self.findings.append(Finding("left_over", str(path), "nothing half-written", "a file", remedy))

    def _check_keys(self) -> None:
        home = self.home
        needed = {"root": [home.root_key], "nameserver": [home.identity_key, home.ca_key]}
        wanted = needed.get(self.kind, [home.identity_key] if self.membership is not None else [])
        for path in wanted:
            if not path.exists():
                self._found("missing_file", path, "a private key", "no such file")
        every = (home.identity_key, home.publisher_key, home.ca_key, home.director_key, home.root_key)
        for path in (*every, home.publisher_next_key, home.director_next_key):
            if path.exists():
                self.key(path)
        if self.kind == "nameserver" and home.root_key.exists():
            advice = "move it to the root folder: who has the nameserver's home must not have the federation"
            self.findings.append(
                Finding("misplaced_key", str(home.root_key), "no root key in a nameserver's home", "one", advice=advice)
            )

    def _read_key(self, path: Path) -> PrivateKey | None:
        try:
            if path.stat().st_mode & 0o077:
                return PrivateKey.from_pem(path.read_bytes()[:4096].decode("ascii", "replace"))
            return read_key(path)
        except (Problem, OSError) as error:
            told = error.message if isinstance(error, Problem) else error.strerror or str(error)
            self._found("bad_key", path, "an Ed25519 private key", told)
            return None

    def _check_certificates(self) -> None:
        home, membership = self.home, self.membership
        assert membership is not None
        authority = self._text(home.ca_crt, "the certificate of the federation's authority")
        own = self._text(home.identity_crt, "the certificate of this peer")
        if authority is None or own is None:
            return
        ca = self.key(home.ca_key) if home.ca_key.exists() else None
        try:
            if ca is not None and public_key(authority) != ca.public:
                self._found("wrong_certificate", home.ca_crt, f"one for {home.ca_key.name}", "another key's")
        except Problem:
            pass  # told below
        try:
            shown: PeerCertificate = read_pem(own)
            check_issued(own, authority)
        except Problem as problem:
            self._found("bad_certificate", home.identity_crt, "a certificate of this federation", problem.message)
            return
        key = self.key(home.identity_key)
        if key is not None and shown.key is not None and shown.key != key.public:
            self._found("wrong_certificate", home.identity_crt, f"one for {home.identity_key.name}", "another key's")
        told = (shown.federation, shown.kind, shown.uuid)
        if told != (membership.federation, membership.kind, membership.uuid):
            expected = f"{membership.kind} {membership.uuid} of {membership.federation}"
            found = f"{shown.kind} {shown.uuid} of {shown.federation}"
            self._found("wrong_certificate", home.identity_crt, expected, found)

    def _check_roots(self) -> None:
        if any(finding.thing == str(self.home.roots_json) for finding in self.findings):
            return
        self.findings += check_chain(self.documents, str(self.home.roots_json), advice=self._advice)
        membership = self.membership
        for record in self.roots[:1] if membership is not None else ():
            if membership is not None and record.federation != membership.federation:
                expected = f"root records of {membership.federation}"
                self._found("broken_chain", self.home.roots_json, expected, f"some of {brief(record.federation)}")

    def _text(self, path: Path, what: str) -> str | None:
        if not path.exists():
            self._found("missing_file", path, what, "no such file")
            return None
        try:
            return self.home.text(path)
        except Problem as problem:
            self._found("bad_file", path, what, problem.message)
            return None

    def _found(self, kind: str, path: Path, expected: str, found: str) -> None:
        self.findings.append(Finding(kind, str(path), expected, brief(found), advice=self._advice))


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    except OSError:
        return
