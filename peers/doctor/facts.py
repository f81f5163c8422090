"""What was seen of a peer and its surroundings: plain values, from which :mod:`peers.doctor.judgement` decides.

Owns their form. ``None`` stands for what could not be seen; times are seconds since the epoch by this device's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from federation.integrity import Finding as HomeFinding
from peers.homes import Membership
from query.errors import ErrorRecord

Stage = Literal["resolve", "connect", "handshake", "ask", "done"]


@dataclass(frozen=True, slots=True)
class HomeFacts:
    """``problem``: why the home cannot be read at all. ``found``: what the check of its files has found."""

    path: str
    membership: Membership | None = None
    autonomous: bool = False
    problem: ErrorRecord | None = None
    settings_problem: ErrorRecord | None = None
    found: tuple[HomeFinding, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """``kind`` of the home's peer; ``pid`` of the process that holds the home, ``problem`` of asking it."""

    kind: str
    home: str
    pid: int | None = None
    version: str | None = None
    installed: str | None = None
    problem: ErrorRecord | None = None


@dataclass(frozen=True, slots=True)
class PortFacts:
    """``setting`` is the port's. ``number`` is what the operating system said to binding it, 0 for nothing.

    ``holder`` is the process that has it, as far as this user may know.
    """

    setting: str
    host: str
    port: int
    number: int = 0
    holder: str | None = None
    held_by_us: bool = False


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    not_before: float
    not_after: float
    now: float
    federation_offset_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """Of the file system under the home."""

    path: str
    free_bytes: int
    total_bytes: int
    inodes_free: int
    inodes: int
    read_only: bool
    writable: bool


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """``limit_bytes``: the control group's; ``models_bytes_max``: the setting."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None
    models_bytes_max: int
    swap_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Dialled:
    """One address of the nameserver, and how far dialling it came.

    ``errno`` and ``said``: of the stage that failed. ``presented``: who issued the certificate that was shown there,
    and whom it names. ``refusal``: what a nameserver of this federation answered instead of who we are.
    """

    address: str
    stage: Stage
    errno: int | None = None
    said: str = ""
    took_s: float = 0.0
    presented: tuple[str, str] | None = None
    refusal: ErrorRecord | None = None
    name: str | None = None
    ahead_s: float | None = None  # how much this device's clock is ahead of who answered
    uncertain_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NameserverFacts:
    dialled: tuple[Dialled, ...]
    configured: str | None = None  # the setting nameserver, which replaces what the home knows
    tried: str | None = None  # an address that is only looked at
    announced: tuple[str, ...] = ()
    proxies: Mapping[str, str] = field(default_factory=dict)  # variables of the environment, without passwords
    authority: str = ""  # how this federation's authority names itself

    @property
    def reached(self) -> Dialled | None:
        return next((one for one in self.dialled if one.stage == "done"), None)

    @property
    def ahead_s(self) -> float | None:
        """How much this device's clock is ahead of federation time; None where nobody told the time."""
        return next((one.ahead_s for one in self.dialled if one.ahead_s is not None), None)


@dataclass(frozen=True, slots=True)
class UplinkFacts:
    """``connected``: as the nameserver sees it; ``opened``: whether an uplink could be opened now, where none is."""

    mode: str
    running: bool
    connected: bool | None = None
    opened: bool | None = None
    problem: ErrorRecord | None = None
    polls: str | None = None  # how this edge's last poll ended


@dataclass(frozen=True, slots=True)
class MulticastFacts:
    """``echoed``: whether a multicast packet of this device came back to it; ``heard``: announced addresses."""

    wanted: bool
    interface: str | None
    interface_is_own: bool = True
    echoed: bool | None = None
    said: str = ""
    heard: tuple[str, ...] = ()
    reachable: bool = False  # the nameserver answers at a known address
    announces: bool = False  # this home's nameserver runs, and should be heard
    own: bool = False  # this home is the nameserver's


@dataclass(frozen=True, slots=True)
class VersionFacts:
    own: str
    nameserver: str | None = None
    edges: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpsetFacts:
    """``supported`` by the runtime here, by domain; ``models``: label → operator sets of what is installed here.

    ``failed``: what edges say of models that their own runtime does not take.
    """

    runtime: str | None
    supported: Mapping[str, int]
    models: Mapping[str, Mapping[str, int]]
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DesiredFacts:
    """What an edge holds to. ``contact``: how its last poll ended and since when, of one that runs."""

    now: float
    has_state: bool
    generation: int | None = None
    expires: float | None = None
    contact: str | None = None
    contact_since: float | None = None
    contact_message: str | None = None
    nameserver_generation: int | None = None
    errors: tuple[tuple[str, str, str], ...] = ()  # model, code, message


@dataclass(frozen=True, slots=True)
class EdgesFacts:
    """What a nameserver knows of its edges: records of ``edge:status()``, as they came."""

    now: float
    statuses: tuple[Mapping[str, Any], ...]
