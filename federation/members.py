"""A member of the federation, as the nameserver's roster knows it.

Rules: identity is the UUID, never the name; a name that was removed and registered again is another member. The key
is None until the member joined. Of the one-time token only the hash is here, until the first renewal after its life.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from federation.documents import Kind, Mode, RoleName
from federation.names import PeerId

PropertyValue: TypeAlias = str | int | float | bool


class Member(Struct, frozen=True, kw_only=True, gc=False):
    """``tags`` and ``properties`` are set on the nameserver; what a device says of itself is in its report.

    ``mode`` is the desired mode. ``poll_interval`` is the text set for this edge alone, None for its groups' or the
    federation's. Times are seconds since the epoch.
    """

    uuid: PeerId
    name: str
    kind: Kind
    role: RoleName
    registered: float
    publisher: bool = False
    key: bytes | None = None
    publisher_key: bytes | None = None
    token_hash: str | None = None
    token_expires: float | None = None
    joined: float | None = None
    removed: bool = False
    tags: tuple[str, ...] = ()
    properties: dict[str, PropertyValue] = {}
    mode: Mode = "INTERACTIVE"
    poll_interval: str | None = None
