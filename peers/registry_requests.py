"""What a request to the repository says: who asks, about which repository, which digest, which piece of a list.

Owns the permissions and the reading of what every endpoint has. Rules: every member may pull; pushing and deleting need
the role operator or a publisher key, and a repository ``models/NAME`` or ``development/NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote

from aiohttp import web

from federation.errors import WrongRole
from federation.members import Member
from federation.names import BadName, Digest, checked_digest, checked_model
from peers.registry_answers import BadDigest
from peers.registry_uploads import UploadOutOfOrder
from query.errors import UserProblem

PAGE_MAX: Final = 1000  # names in one answer
NAME_LENGTH_MAX: Final = 255
_CHUNK = re.compile(r"(?:bytes )?(\d+)-(\d+)(?:/(?:\d+|\*))?")


class Access:
    """Who may ask what; ``member_of`` admits or raises."""

    def __init__(self, member_of: Callable[[web.Request], Member]) -> None:
        self.member = member_of

    def puller(self, request: web.Request) -> str:
        """The repository that an admitted member asks about."""
        self.member(request)
        return repository_of(request)

    def pusher(self, request: web.Request) -> tuple[Member, str]:
        """The repository that a member may change."""
        member = self.member(request)
        if member.role not in ("operator", "admin") and member.publisher_key is None:
            raise WrongRole(
                f'"{member.name}" may not push or delete: expected the role operator or a publisher key',
                hint="publish from the home of a publisher: peerage register NAME --publisher makes one",
            )
        repository = repository_of(request)
        kind, _, model = repository.partition("/")
        if kind not in ("models", "development"):
            raise BadName(f'"{repository}" cannot be pushed to: expected models/NAME or development/NAME')
        checked_model(model)
        return member, repository


def repository_of(request: web.Request) -> str:
    name = request.match_info["name"]
    if len(name) > NAME_LENGTH_MAX:
        raise BadName(f"a repository name of {len(name)} characters, expected at most {NAME_LENGTH_MAX}")
    for part in name.split("/"):
        checked_model(part)
    return name


def digest_in(text: str) -> Digest:
    """Raises :class:`BadDigest`."""
    try:
        return checked_digest(text)
    except BadName as error:
        raise BadDigest(error.message) from error


def chunk_start(request: web.Request) -> int | None:
    """Where a chunk begins, by its Content-Range (OCI's ``0-99`` or HTTP's ``bytes 0-99/*``); None when not told.

    Raises :class:`UploadOutOfOrder`, also when it is not as long as the body.
    """
    told = request.headers.get("Content-Range")
    if told is None:
        return None
    match = _CHUNK.fullmatch(told.strip())
    if match is None or len(match[1]) > 18 or len(match[2]) > 18:
        raise UploadOutOfOrder(f"expected a Content-Range such as 0-99, found {told[:60]!r}")
    start, last = int(match[1]), int(match[2])
    length = request.content_length
    if length is not None and length != last - start + 1:
        raise UploadOutOfOrder(f"expected a body as long as the Content-Range {told[:60]!r}, found {length} bytes")
    return start


def page(names: Sequence[str], request: web.Request, path: str) -> tuple[list[str], dict[str, str]]:
    """The piece of a sorted list that ``n`` and ``last`` ask for, and the header that leads to the next."""
    asked = request.query.get("n", str(PAGE_MAX))
    if not asked.isascii() or not asked.isdecimal() or len(asked) > 9:
        raise UserProblem(f"expected a number of names, found n={asked[:20]!r}")
    last = request.query.get("last")
    left = [name for name in names if last is None or name > last]
    shown = left[: min(int(asked), PAGE_MAX)]
    if not shown or len(shown) == len(left):
        return shown, {}
    return shown, {"Link": f'<{path}?n={len(shown)}&last={quote(shown[-1], safe="")}>; rel="next"'}
