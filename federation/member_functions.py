"""The functions of the language that put peers on the roster and take them off; at home on the nameserver.

A bundle is a secret until it is used: it is the result of its call and nothing else. The log has the hash of its
token, no event, error or listing has more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast, get_args
from uuid import uuid4

from federation import commands
from federation.bundles import new_token, token_hash
from federation.documents import Kind, RoleName
from federation.members import Member
from federation.names import PeerId, shown
from federation.reports import moment
from query.declarations import Call, Effect, Example, Home, Role, function
from query.errors import InternalProblem, WrongArguments, suggestion, unknown

if TYPE_CHECKING:
    from federation.store import FederationStore

MakeBundle = Callable[[Member, str], str]

_OPTIONS: Final = ("kind", "role", "publisher", "tags")
_KINDS: Final = ("edge", "client")


class MemberFunctions:
    """``make_bundle`` makes the text of a bundle from a member and its one-time token."""

    def __init__(self, store: FederationStore, *, make_bundle: MakeBundle) -> None:
        self._store = store
        self._make_bundle = make_bundle

    @function(
        "edge:register(String edge, Vector tags?) -> String",
        home=Home.NAMESERVER,
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example('edge:register("MY-EDGE-2", ["lab"])'),
    )
    def register(self, call: Call, edge: str, tags: Sequence[Any] = ()) -> str:
        """Register an edge and give its join bundle, which is shown this once and is good for 24 hours.

        For an edge that never joined, a new bundle takes the place of the earlier one; it keeps its groups and tags.
        """
        return self._registered(call, edge, kind="edge", role="viewer", publisher=False, tags=tags)

    @function(
        "edge:remove(String edge) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example('edge:remove("OLD-EDGE")', shows="true"),
    )
    def remove(self, call: Call, edge: str) -> bool:
        """Take an edge off the roster. It is refused from now on, and its name is free for another."""
        return self._removed(call, self._store.state.find_edge(edge))

    @function(
        "peer:register(String name, Record options?) -> String",
        home=Home.NAMESERVER,
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example('peer:register("ada", {"role": "operator", "publisher": true})'),
    )
    def register_peer(self, call: Call, name: str, options: Mapping[str, Any] | None = None) -> str:
        """Register a person, a program or an edge and give the join bundle, shown this once and good for 24 hours.

        Options: ``kind`` (``client``, or ``edge``), ``role`` (``viewer``, ``operator`` or ``admin``), ``publisher``
        (whether its home makes a key to sign releases with), ``tags``.
        """
        options = options or {}
        for key in options:
            if key not in _OPTIONS:
                tail = suggestion(key, _OPTIONS, otherwise=f": expected one of {', '.join(_OPTIONS)}")
                raise WrongArguments(f'no option "{key}"{tail}')
        kind, role = options.get("kind", "client"), options.get("role", "viewer")
        publisher, tags = options.get("publisher", False), options.get("tags", ())
        if kind not in _KINDS:
            raise unknown("kind of peer to register", str(kind), _KINDS)
        if role not in get_args(RoleName):
            raise unknown("role", str(role), get_args(RoleName))
        if not isinstance(publisher, bool):
            raise WrongArguments(f'expected "publisher" as true or false, found {publisher!r:.40}')
        if isinstance(tags, str) or not isinstance(tags, Sequence):
            raise WrongArguments(f'expected "tags" as a vector of texts, found {tags!r:.40}')
        return self._registered(
            call, name, kind=cast(Kind, kind), role=cast(RoleName, role), publisher=publisher, tags=tags
        )

    @function(
        "peer:remove(String name) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example('peer:remove("OLD-CLIENT")', shows="true"),
    )
    def remove_peer(self, call: Call, name: str) -> bool:
        """Take a person, a program or an edge off the roster. Only the nameserver cannot be removed."""
        return self._removed(call, self._store.state.find_member(name))

    @function(
        "peer:list() -> Bag of Record",
        home=Home.NAMESERVER,
        example=Example("peer:list()"),
    )
    def list_peers(self, call: Call) -> Iterator[dict[str, Any]]:
        """Everybody on the roster, the nameserver and people included, in the order of registration."""
        for member in self._store.state.members():
            yield {
                "name": shown(member.name),
                "kind": member.kind,
                "role": member.role,
                "publisher": member.publisher,
                "registered": moment(member.registered),
                "joined": moment(member.joined),
                "tags": list(member.tags),
            }

    def _registered(
        self, call: Call, name: str, *, kind: Kind, role: RoleName, publisher: bool, tags: Sequence[Any]
    ) -> str:
        now, token = call.now.timestamp(), new_token()
        events = commands.register(
            self._store.state,
            name,
            uuid=PeerId(str(uuid4())),
            token_hash=token_hash(token),
            now=now,
            kind=kind,
            role=role,
            publisher=publisher,
            tags=tags,
        )
        self._store.append(events, caller=call.caller.name, now=now)
        member = self._store.state.member_named(name)
        if member is None:
            raise InternalProblem(f'"{name}" was registered and is not on the roster')
        return self._make_bundle(member, token)

    def _removed(self, call: Call, member: Member) -> bool:
        self._store.append(
            commands.remove(self._store.state, member.name), caller=call.caller.name, now=call.now.timestamp()
        )
        self._store.reports.forget(member.uuid)
        self._store.histories.forget(member.uuid)
        return True
