"""Functions of the language by which a person on a device rules its mode and brings state to it by file.

At home everywhere, so that asking a peer that is no edge is told clearly. Refuses callers from elsewhere for all that
changes something: AUTONOMOUS is entered, fed and left on the device alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.names import shown
from federation.reports import moment
from peers.device_mode import checked_mode
from query.declarations import Call, Effect, Example, Progress, Role, function
from query.errors import Forbidden, WrongArguments, WrongHome

if TYPE_CHECKING:
    from peers.agent import Agent
    from peers.own_mode import OwnMode

Import = Callable[[Path, Progress], Awaitable[dict[str, Any]]]
Attach = Callable[[Path, str, Progress], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Device:
    """What an edge offers to the person on it. ``attach`` is None once it belongs to a federation."""

    agent: Agent
    mode: OwnMode
    import_file: Import
    attach: Attach | None
    report: Callable[[], str]


class DeviceFunctions:
    """``device`` is None on a peer that is not an edge."""

    def __init__(self, device: Device | None, *, uuid: str) -> None:
        self._device = device
        self._uuid = uuid

    @function("edge:mode() -> Record", example=Example("//peer: E1\nedge:mode()"))
    def mode(self, call: Call) -> dict[str, Any]:
        """The mode that this edge is in now, and since when it is AUTONOMOUS; null in every other mode."""
        return self._edge(call, "edge:mode()").mode.record()

    @function(
        "edge:mode(String mode) -> Record",
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example('edge:mode("AUTONOMOUS")'),
    )
    async def set_mode(self, call: Call, mode: str) -> dict[str, Any]:
        """Enter AUTONOMOUS, or leave it for INTERACTIVE or ONLINE, on this device alone; `peerage mode` does it.

        Leaving renews the certificate first. Which of the two other modes it is, the nameserver's next answer says.
        """
        return await self._own(call, "edge:mode(mode)").mode.change(checked_mode(mode))

    @function(
        "edge:import(String file) -> Record",
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example('edge:import("/media/stick/e1.tar")'),
    )
    async def import_file(self, call: Call, file: str) -> dict[str, Any]:
        """Take the signed state and the releases that `peerage export` wrote for this edge, from a file on this device.

        It counts as an answered poll. A file that is refused changes nothing.
        """
        device = self._own(call, "edge:import(file)")
        if device.attach is not None:
            raise WrongArguments(
                "this device belongs to no federation yet: its first import needs the root record's fingerprint",
                hint='use "peerage import FILE", which asks for it',
            )
        return await device.import_file(_absolute(file), call.progress)

    @function(
        "edge:attach(String file, String fingerprint) -> Record",
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example('edge:attach("/media/stick/e1.tar", "3f8a 1c22 …")'),
    )
    async def attach(self, call: Call, file: str, fingerprint: str) -> dict[str, Any]:
        """Make this device, which belongs to nobody, the edge that a file was exported for; `peerage import` does it.

        The fingerprint is that of the federation's root record, as the nameserver's own side shows it. A file that is
        refused changes nothing.
        """
        device = self._own(call, "edge:attach(file, fingerprint)")
        if device.attach is None:
            raise WrongArguments(f"this device is edge {shown(call.peer)} already")
        return await device.attach(_absolute(file), fingerprint, call.progress)

    @function("edge:history() -> Bag of Record", example=Example("//peer: E1\nedge:history()"))
    def history(self, call: Call) -> Iterator[dict[str, Any]]:
        """What this edge did while it was AUTONOMOUS and has not told the nameserver yet, the oldest first."""
        for entry in self._edge(call, "edge:history()").agent.history:
            yield {"time": moment(entry.time), "event": entry.event, "detail": entry.detail}

    @function(
        "edge:make_report() -> String",
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example("edge:make_report()"),
    )
    def make_report(self, call: Call) -> str:
        """What this edge would report, with its history and the end of its log, signed with its own key under a new
        number, as text to be carried to the nameserver; `peerage export --report` writes it to a file.
        """
        return self._own(call, "edge:make_report()").report()

    def _edge(self, call: Call, function_name: str) -> Device:
        if self._device is None:
            raise WrongHome(
                f"{function_name} speaks of the edge that runs it, and {shown(call.peer)} is not an edge",
                hint="put //peer: NAME of an edge above the statement",
            )
        return self._device

    def _own(self, call: Call, function_name: str) -> Device:
        device = self._edge(call, function_name)
        if call.caller.uuid != self._uuid:
            raise Forbidden(
                f"{function_name} is for who is on the device, and {call.caller.name} asks from elsewhere",
                hint="use the peerage command on the device, in the edge's home",
            )
        return device


def _absolute(file: str) -> Path:
    path = Path(file)
    if not path.is_absolute():
        raise WrongArguments(f'"{file[:200]}": expected the whole path of a file on this device')
    return path
