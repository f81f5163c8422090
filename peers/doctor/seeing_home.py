"""What a home says: who the peer is, its settings, keys, certificate, what an edge holds to, what is installed.

Reads alone, and of bounded size. Whoever calls does so on a thread of its own: a disk may hang. A home whose peer runs
is read as it is; an edge's state then belongs to that process, which is asked instead.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from federation.certificate_reading import read_pem
from federation.documents import ReleaseRecord, decode
from federation.layout import ImageLayout
from peers.device_mode import read_mode
from peers.doctor.facts import CertificateFacts, DesiredFacts, HomeFacts
from peers.edge_store import EdgeStore
from peers.home_checks import HomeFiles, marks
from peers.homes import BadHome, Home, NotJoined
from peers.settings import ClientSettings, EdgeSettings, NameserverSettings, Settings, read_settings
from peers.store_checks import reading
from query.errors import Problem

RELEASES_MAX: Final = 500  # of a home that are looked at


def home_facts(home: Home, environment: Mapping[str, str]) -> HomeFacts:
    path = str(home)
    if not home.path.is_dir():
        problem = NotJoined(
            f"{path} does not exist: expected a peer's home",
            hint='name one with --home or PEERAGE_HOME, or join: "peerage join --home DIR FILE"',
        )
        return HomeFacts(path, problem=problem.record())
    if not any(file.exists() for file in marks(home)) and read_mode_of(home) is None:
        problem = NotJoined(
            f"{path} is no peer's home: expected membership.json in it",
            hint=f'join with "peerage join --home {path} FILE"',
        )
        return HomeFacts(path, problem=problem.record())
    files = HomeFiles(home)
    settings_problem = None
    try:
        if files.membership is not None:
            settings_of(home, environment)
    except Problem as found:
        settings_problem = found.record()
    return HomeFacts(
        path,
        membership=files.membership,
        autonomous=read_mode_of(home) is not None,
        settings_problem=settings_problem,
        found=tuple(files.findings),
    )


def read_mode_of(home: Home) -> object | None:
    """The fact of the mode AUTONOMOUS; a damaged file is one too: the edge does not start by it."""
    try:
        return read_mode(home)
    except Problem as problem:
        return problem


def settings_of(home: Home, environment: Mapping[str, str]) -> Settings:
    """As the home's peer would read them at its start. Raises ``BadSetting``, ``BadHome`` or ``NotJoined``."""
    match home.membership().kind:
        case "nameserver":
            return read_settings(home, NameserverSettings, environment=environment, flags={})
        case "edge":
            return read_settings(home, EdgeSettings, environment=environment, flags={})
        case _:
            return read_settings(home, ClientSettings, environment=environment, flags={})


def certificate_facts(home: Home, *, offset_s: float) -> CertificateFacts:
    """Raises ``BadCertificate`` or ``BadHome``, which the check of the home tells."""
    shown = read_pem(home.text(home.identity_crt))
    return CertificateFacts(shown.not_before, shown.not_after, time.time(), offset_s)


def desired_facts(home: Home, *, offset_s: float | None) -> DesiredFacts:
    """Of an edge that does not run. ``offset_s``: federation time, where it is known better than the edge knew it.

    Raises :class:`BadHome` where its state cannot be read.
    """
    now = time.time()
    if not home.state_db.exists():
        return DesiredFacts(now, has_state=False)
    try:
        with reading(home.state_db) as connection:
            stored = EdgeStore(connection, str(home.state_db)).read()
    except sqlite3.Error as error:
        raise BadHome(f"cannot read {home.state_db}: {error}") from error
    desired = stored.desired
    return DesiredFacts(
        now + (offset_s if offset_s is not None else stored.clock_offset_s or 0.0),
        has_state=desired is not None,
        generation=desired.generation if desired else None,
        expires=float(desired.expires) if desired else None,
    )


def installed_opsets(home: Home) -> dict[str, dict[str, int]]:
    """The operator sets that the releases of a home need, as their records say."""
    layout = ImageLayout(home.releases)
    found = {}
    for release in layout.releases(development=True)[:RELEASES_MAX]:
        try:
            record = decode(layout.signed(release).payload, ReleaseRecord)
        except (Problem, msgspec.MsgspecError, OSError):
            continue  # fsck tells of damaged releases
        if record.opset:
            found[release.label] = dict(record.opset)
    return found
