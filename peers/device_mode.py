"""The mode AUTONOMOUS as a fact of a device: entered and left on it, kept in its home, asked of nobody.

    mode.json    {"mode": "AUTONOMOUS", "since": seconds, "name": what it is called until it belongs to a federation}

Owns that file. Refuses, in this mode, every connection and every listener beyond this device. Rules: the file is there
or it is not, durable either way; no desired state changes it; what the nameserver wants counts again once it is gone.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from federation.blobs import sync_folder
from federation.documents import Mode
from federation.names import PeerId, checked_name
from peers.homes import BadHome, Home, Membership, write_whole
from peers.setting_texts import BadSetting
from query.errors import UserProblem, WrongArguments

UNATTACHED_NAME: Final = "EDGE"
MODES: Final[tuple[Mode, ...]] = ("INTERACTIVE", "ONLINE", "AUTONOMOUS")


class Autonomous(UserProblem):
    """Something that needs a network, on a device that was told to do without."""

    code = "autonomous"


class DeviceMode(Struct, frozen=True, forbid_unknown_fields=True):
    """``since`` by this device's clock."""

    mode: Literal["AUTONOMOUS"]
    since: int
    name: str = UNATTACHED_NAME


def autonomous() -> Autonomous:
    """The refusal of whatever would open a connection."""
    return Autonomous(
        "this edge is AUTONOMOUS: it opens no connection",
        hint='what it needs comes by file ("peerage import"); "peerage mode ONLINE" on the device leaves the mode',
    )


def mode_file(home: Home) -> Path:
    return home.path / "mode.json"


def read_mode(home: Home) -> DeviceMode | None:
    """None on a device whose mode the nameserver decides. Raises ``BadHome`` for a damaged file."""
    if not mode_file(home).exists():
        return None
    try:
        return msgspec.json.decode(home.text(mode_file(home)), type=DeviceMode)
    except msgspec.MsgspecError as error:
        raise BadHome(
            f"{mode_file(home)} is damaged: {error}", hint='enter the mode again: "peerage mode AUTONOMOUS"'
        ) from error


def enter(home: Home, *, now: float, name: str | None = None) -> DeviceMode:
    """Make it a fact, durable on return. ``name``: of a device that belongs to no federation yet."""
    fact = DeviceMode("AUTONOMOUS", int(now), checked_name("edge", name) if name else UNATTACHED_NAME)
    write_whole(mode_file(home), msgspec.json.format(msgspec.json.encode(fact), indent=2) + b"\n")
    return fact


def leave(home: Home) -> None:
    """Durable on return. Whoever calls has renewed the certificate or joined before."""
    with suppress(FileNotFoundError):
        mode_file(home).unlink()
    sync_folder(home.path)


def is_local(application_host: str) -> bool:
    """Whether an application face that is bound there stays on this device."""
    host = application_host.strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.casefold() == "localhost"


def check_local(application_host: str) -> None:
    """Raises ``BadSetting`` unless the application face stays on this device."""
    if not is_local(application_host):
        raise BadSetting(
            f'application_host is "{application_host}": an AUTONOMOUS edge listens on this device alone',
            hint="take application_host out of peerage.toml, PEERAGE_APPLICATION_HOST and the command line, or set it "
            "to 127.0.0.1",
        )


def unattached(name: str) -> Membership:
    """Who a device is before anything tied it to a federation: nobody knows it, and nothing signed is for it."""
    return Membership(federation="", uuid=PeerId(""), name=name, kind="edge", role="viewer", addresses=(), not_after=0)


def checked_mode(text: str) -> Mode:
    """Raises ``WrongArguments`` for another word."""
    for mode in MODES:
        if text.upper() == mode:
            return mode
    raise WrongArguments(f'no mode "{text[:40]}": expected one of {", ".join(MODES)}')
