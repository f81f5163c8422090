"""The first start of a nameserver: keys, root record, store, certificates, and the first admin's home.

    HOME/         identity.key ca.key director.key state.db ca.crt identity.crt roots.json membership.json
    HOME-root/    root.key roots.json        not needed to run; keep it elsewhere
    HOME-admin/   identity.key identity.crt ca.crt roots.json membership.json      role admin, joined

Owns the order of these steps. Refuses to touch a root folder or an admin home of another federation.

Rules: every step is whole or not done, and none makes anew what an earlier start has made, but for certificates, which
are issued again; so a start after a kill at any point finishes. The federation begins with one append to the store;
before it nothing but keys exists, after it everything follows from store and keys. ``membership.json`` is written
last: who has one is founded.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn
from uuid import uuid4

import msgspec

from federation.bundles import ADDRESSES_MAX
from federation.documents import RootRecord, decode
from federation.keys import PrivateKey, read_key, write_key
from federation.members import Member
from federation.names import PeerId, shown
from peers.homes import BadHome, Home, Membership, write_whole
from peers.settings import NameserverSettings, dial_names
from query.errors import InternalProblem

NAMESERVER_NAME: Final = "nameserver"
ADMIN_NAME: Final = "admin"


@dataclass(frozen=True, slots=True)
class Foundation:
    """What stands after founding. ``new``: this start has made it."""

    membership: Membership
    admin_home: Home
    root_home: Home
    new: bool


def admin_home_of(home: Home, settings: NameserverSettings) -> Home:
    return Home(Path(settings.admin_home or f"{home.path}-admin"))


def root_home_of(home: Home, settings: NameserverSettings) -> Home:
    return Home(Path(settings.root_home or f"{home.path}-root"))


def found(home: Home, settings: NameserverSettings, *, now: float, host_name: str) -> Foundation:
    """Found the federation of ``home``, finish a founding that was interrupted, or do nothing.

    The nameserver's own certificate is issued anew at each start, so that it names what the settings say now.
    The caller holds the home's lock. Raises ``BadHome``, ``BadSetting``, ``BadKeyFile`` and the store's problems.
    """
    admin_home, root_home = admin_home_of(home, settings), root_home_of(home, settings)
    _check_apart(home, admin_home, root_home)
    home.prepare()
    if home.joined:
        membership = home.membership()
        _check_nameserver(home, membership, settings)
        issue_own_certificate(home, membership, names=dial_names(settings, host_name=host_name), now=now)
        return Foundation(membership, admin_home, root_home, new=False)

    names = dial_names(settings, host_name=host_name)
    nameserver, admin = _founded(home, admin_home, root_home, settings=settings, now=now)
    membership = _nameserver_home(home, nameserver, names=names, now=now)
    _admin_home(home, admin_home, admin, federation=membership.federation, now=now)
    home.write_membership(membership)
    return Foundation(membership, admin_home, root_home, new=True)


def issue_own_certificate(home: Home, membership: Membership, *, names: tuple[str, ...], now: float) -> None:
    """Write a new ``identity.crt`` for a nameserver, with the names and addresses that peers and tools dial."""
    from federation.certificates import issue

    certificate = issue(
        ca_pem=home.text(home.ca_crt),
        ca_key=read_key(home.ca_key),
        subject_key=read_key(home.identity_key).public,
        federation=membership.federation,
        kind="nameserver",
        uuid=membership.uuid,
        now=now,
        dns=tuple(name for name in names if not _is_address(name)),
        ips=tuple(name for name in names if _is_address(name)),
    )
    write_whole(home.identity_crt, certificate.encode("ascii"))


def put_addresses(home: Home, federation: str, addresses: tuple[str, ...]) -> None:
    """Tell the home of a peer on this device where its nameserver listens now; nothing for another federation's."""
    if not home.joined:
        return
    membership = home.membership()
    if membership.federation == federation and membership.addresses != addresses:
        home.write_membership(msgspec.structs.replace(membership, addresses=addresses[:ADDRESSES_MAX]))


# --- the steps ------------------------------------------------------------------------------------------------------


def _founded(
    home: Home, admin_home: Home, root_home: Home, *, settings: NameserverSettings, now: float
) -> tuple[Member, Member]:
    """Nameserver and first admin, as the store has them; the store is made when it is not there yet."""
    from federation import commands
    from federation.roots import first_root
    from federation.store import FederationStore

    identity, director = _key(home.identity_key), _key(home.director_key)
    _key(home.ca_key)
    home.state_db.touch(mode=0o600)
    store = FederationStore.open(home.state_db)
    try:
        if not store.state.federation:
            federation = settings.federation or f"federation-{secrets.token_hex(4)}"
            _check_fresh(admin_home, root_home)
            root_key, admin_key = _key(root_home.prepare().root_key), _key(admin_home.prepare().identity_key)
            root = first_root(federation, roots=[root_key], director=director.public, now=now)
            events = commands.found(
                store.state,
                federation,
                root=root,
                nameserver=commands.Founder(uuid=_uuid(), name=NAMESERVER_NAME, key=identity.public),
                admin=commands.Founder(uuid=_uuid(), name=ADMIN_NAME, key=admin_key.public),
                now=now,
                draw=secrets.SystemRandom().random(),
                poll_interval=settings.poll_interval,
            )
            store.append(events, caller=NAMESERVER_NAME, now=now)
        state = store.state
        if settings.federation not in (None, state.federation):
            _other_federation(home, state.federation, settings)
        home.write_roots(state.root_documents)
        if root_home.path.is_dir() and not root_home.roots():
            root_home.write_roots(state.root_documents[:1])
        nameserver = next(member for member in state.members() if member.kind == "nameserver")
        admin = state.member_named(ADMIN_NAME)
        if admin is None:
            raise InternalProblem("the store was founded without its first admin")
        return nameserver, admin
    finally:
        store.close()


def _nameserver_home(home: Home, member: Member, *, names: tuple[str, ...], now: float) -> Membership:
    from federation.certificate_reading import read_pem
    from federation.certificates import make_authority

    federation = _federation_of(home)
    if not home.ca_crt.exists():
        write_whole(home.ca_crt, make_authority(federation, read_key(home.ca_key), now=now).encode("ascii"))
    membership = Membership(
        federation=federation,
        uuid=member.uuid,
        name=member.name,
        kind="nameserver",
        role=member.role,
        addresses=(),
        not_after=0,
    )
    issue_own_certificate(home, membership, names=names, now=now)
    not_after = int(read_pem(home.text(home.identity_crt)).not_after)
    return msgspec.structs.replace(membership, not_after=not_after)


def _admin_home(home: Home, admin_home: Home, member: Member, *, federation: str, now: float) -> None:
    from federation.certificate_reading import read_pem
    from federation.certificates import issue

    if admin_home.joined:
        return
    key = read_key(admin_home.identity_key)
    if key.public != member.key:
        raise BadHome(
            f"{admin_home.identity_key} is not the key of {shown(member.name)} in this federation",
            hint=f"the founding of {home} was interrupted: give back its admin home, or remove {home} and start again",
        )
    authority = home.text(home.ca_crt)
    certificate = issue(
        ca_pem=authority,
        ca_key=read_key(home.ca_key),
        subject_key=key.public,
        federation=federation,
        kind="client",
        uuid=member.uuid,
        now=now,
    )
    write_whole(admin_home.identity_crt, certificate.encode("ascii"))
    write_whole(admin_home.ca_crt, authority.encode("ascii"))
    admin_home.write_roots(home.roots())
    admin_home.write_membership(
        Membership(
            federation=federation,
            uuid=member.uuid,
            name=member.name,
            kind="client",
            role="admin",
            addresses=(),
            not_after=int(read_pem(certificate).not_after),
        )
    )


# --- what is refused ------------------------------------------------------------------------------------------------


def _check_apart(home: Home, admin_home: Home, root_home: Home) -> None:
    """Root key and admin lie outside the nameserver's home: who has that folder has not the federation."""
    for other, setting in ((admin_home, "admin_home"), (root_home, "root_home")):
        if other.path.is_relative_to(home.path) or home.path.is_relative_to(other.path):
            raise BadHome(f"{setting} is {other}: expected a folder outside of {home}", hint=f"set another {setting}")
    if admin_home.path == root_home.path:
        raise BadHome(f"admin_home and root_home are both {admin_home}: expected two folders")


def _check_fresh(admin_home: Home, root_home: Home) -> None:
    """A new federation takes no folder of another one; keys of an interrupted founding are taken up."""
    if admin_home.joined:
        raise BadHome(
            f"{admin_home} belongs to federation {admin_home.membership().federation}: expected a new folder",
            hint="set another admin_home (--admin-home)",
        )
    if root_home.roots():
        raise BadHome(
            f"{root_home} holds the root key of federation {_root_of(root_home).federation}: expected a new folder",
            hint="set another root_home (--root-home)",
        )


def _check_nameserver(home: Home, membership: Membership, settings: NameserverSettings) -> None:
    if membership.kind != "nameserver":
        raise BadHome(
            f"{home} is the home of {membership.kind} {membership.name}: expected a nameserver's home",
            hint="give another --home",
        )
    if settings.federation not in (None, membership.federation):
        _other_federation(home, membership.federation, settings)


def _other_federation(home: Home, found_name: str, settings: NameserverSettings) -> NoReturn:
    raise BadHome(
        f"{home} holds federation {found_name}: expected {settings.federation}",
        hint="leave --federation out, or give another --home",
    )


# --- small parts ----------------------------------------------------------------------------------------------------


def _key(path: Path) -> PrivateKey:
    """The key in a file, made when there is none."""
    if not path.exists():
        write_key(path, PrivateKey.generate())
    return read_key(path)


def _uuid() -> PeerId:
    return PeerId(str(uuid4()))


def _federation_of(home: Home) -> str:
    return _root_of(home).federation


def _root_of(home: Home) -> RootRecord:
    """The first root record of a home of one's own; what strangers send goes through ``trust_chain``."""
    try:
        return decode(home.roots()[0].payload, RootRecord)
    except msgspec.MsgspecError as error:
        raise BadHome(f"{home.roots_json} is damaged: {error}") from error


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
