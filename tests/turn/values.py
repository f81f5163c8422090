"""Desired states, releases and entries in memory as plain values, by their labels: ``m@1``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from federation.documents import DesiredModel, DesiredState, LoadedEntry
from federation.names import Digest, PeerId

NOW: Final = 1_000_000.0
RUNTIME: Final = "runtime 1"
EDGE: Final = PeerId("00000000-0000-0000-0000-000000000001")


def digest(label: str) -> Digest:
    return Digest(f"sha256:{label}")


def desired_model(label: str, *, needs: Iterable[str] = ()) -> DesiredModel:
    name, _, version = label.partition("@")
    return DesiredModel(name, version, digest(label), "g", 1, tuple(digest(need) for need in needs))


def entry(label: str, origin: str = "group") -> LoadedEntry:
    name, _, version = label.partition("@")
    return LoadedEntry(name, version, digest(label), origin, int(NOW) - 50)  # type: ignore[arg-type]


def desired_state(models: Iterable[DesiredModel], **changes: object) -> DesiredState:
    desired = DesiredState(
        federation="f",
        edge=EDGE,
        name="E1",
        epoch=1,
        generation=1,
        window=1,
        not_before=int(NOW) - 100,
        expires=int(NOW) + 100,
        mode="INTERACTIVE",
        poll_interval="60s",
        root_version=1,
        models=tuple(models),
    )
    return replace(desired, **changes)
