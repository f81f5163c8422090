"""Joining a federation with a bundle: keys made here, a certificate fetched, and a home written.

    bundle text → Bundle → keys → POST /v1/join → Admission → verified → home

Owns the order. Refuses a home that joined already, and everything in the answer that does not follow from the bundle:
its federation, name, authority and pinned root record, and the key that was made here.

A device that became an edge by an imported file joins as that very edge, with the root records that it knows; any join
ends the mode AUTONOMOUS of its home.

Rules: a private key never leaves the home; nothing but keys is written before everything was verified, and
``membership.json`` is written last. A join that broke off may be repeated in the same home with the same bundle.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from federation import bundles
from federation.certificate_reading import issued_by, read_pem
from federation.documents import Admission, Bundle, JoinRequest
from federation.errors import BadCertificate, UnknownKey
from federation.keys import PrivateKey, read_key, write_key
from federation.names import fold
from federation.roots import pin_of, trust_chain
from federation.tls import client_context
from peers import device_mode
from peers.errand_book import begin_book
from peers.homes import Home, HomeInUse, Membership, write_whole
from query.errors import PeerProblem, Problem

Discover = Callable[[str], Awaitable[Sequence[str]]]
"""Federation → addresses to try when none of the bundle answers."""


class AlreadyJoined(PeerProblem):
    """The home belongs to a member already."""

    code = "already_joined"


class BadAdmission(PeerProblem):
    """The nameserver answered with something that does not follow from the bundle; nothing was written."""

    code = "bad_admission"


async def join(
    home: Home,
    text: str,
    *,
    addresses: Sequence[str] = (),
    discover: Discover | None = None,
    clock: Callable[[], float] = time.time,
) -> Membership:
    """Join with the text of a bundle. ``addresses`` are tried before those of the bundle, ``discover`` after them.

    Raises ``BadBundle`` for the text, :class:`AlreadyJoined`, the class of the nameserver's refusal,
    ``UntrustedNameserver`` and ``Unreachable`` for what answers or does not, :class:`BadAdmission` and subclasses of
    ``Untrusted`` for the answer.
    """
    bundle = bundles.decode(text)
    attached = home.membership() if home.joined else None
    if attached is not None:
        _check_attached(home, attached, bundle)
    if home.in_use:
        raise HomeInUse(f"{home} is in use by a process", hint="stop it first: joining gives it a new certificate")
    home.prepare()
    key = _key(home.identity_key)
    publisher_key = _key(home.publisher_key) if bundle.publisher else None
    request = bundles.join_request(
        name=bundle.name,
        token=bundle.token,
        key=key,
        publisher_key=publisher_key.public if publisher_key else None,
    )
    admission, offset_s = await _ask(bundle, request, addresses=addresses, discover=discover, clock=clock)
    check(admission, bundle, key)
    if attached is not None:
        _check_same(home, attached, admission)
    return _settle(home, admission, bundle, clock_offset_s=offset_s)


async def _ask(
    bundle: Bundle,
    request: JoinRequest,
    *,
    addresses: Sequence[str],
    discover: Discover | None,
    clock: Callable[[], float],
) -> tuple[Admission, float]:
    from peers.federation_client import FederationClient, Unreachable

    context = client_context(bundle.ca)

    async def ask_at(where: Sequence[str]) -> tuple[Admission, float]:
        async with FederationClient(where, context, clock=clock) as client:
            admission = await client.join(request)
            return admission, client.clock_offset_s

    try:
        return await ask_at((*addresses, *bundle.addresses))
    except Unreachable:
        found = tuple(await discover(bundle.federation)) if discover is not None else ()
        if not found:
            raise
        return await ask_at(found)


def check(admission: Admission, bundle: Bundle, key: PrivateKey) -> None:
    """Raise unless the admission follows from the bundle and is for this key; see the module."""
    expected = (
        ("federation", admission.federation, bundle.federation),
        ("kind", admission.kind, bundle.kind),
        ("role", admission.role, bundle.role),
        ("name", fold(admission.name), fold(bundle.name)),
        ("certificate authority", admission.ca.split(), bundle.ca.split()),
    )
    for what, found, wanted in expected:
        if found != wanted:
            told = f": expected {wanted!r}, found {found!r}" if isinstance(wanted, str) else ""
            raise BadAdmission(f"the nameserver admitted this peer with another {what} than the bundle says{told}")
    try:
        certificate = read_pem(admission.certificate)
        if not issued_by(admission.certificate, bundle.ca):
            raise BadAdmission("the certificate was issued by another authority than the bundle names")
    except BadCertificate as error:
        raise BadAdmission(f"the nameserver sent no certificate: {error.message}") from error
    named = (certificate.federation, certificate.kind, certificate.uuid)
    if named != (bundle.federation, bundle.kind, admission.uuid):
        raise BadAdmission(f"the certificate names {'/'.join(named)}: expected {bundle.kind} {admission.uuid}")
    if certificate.key != key.public:
        raise UnknownKey("the certificate is for another key than the one made here")
    root = trust_chain(admission.roots, bundle.root)
    if root.federation != bundle.federation:
        raise BadAdmission(f"the root record is of federation {root.federation}: expected {bundle.federation}")


def _settle(home: Home, admission: Admission, bundle: Bundle, *, clock_offset_s: float) -> Membership:
    write_whole(home.ca_crt, bundle.ca.encode("ascii"))
    write_whole(home.identity_crt, admission.certificate.encode("ascii"))
    home.write_roots(admission.roots)
    membership = Membership(
        federation=admission.federation,
        uuid=admission.uuid,
        name=admission.name,
        kind=admission.kind,
        role=admission.role,
        addresses=tuple(dict.fromkeys((*admission.addresses, *bundle.addresses)))[: bundles.ADDRESSES_MAX],
        not_after=admission.not_after,
        clock_offset_s=clock_offset_s,
    )
    if membership.kind == "edge" and not home.state_db.exists():
        with suppress(Problem):  # without it what was signed before the edge's first start is refused, and nothing else
            begin_book(home.state_db)
    home.write_membership(membership)
    device_mode.leave(home)
    return membership


def _check_attached(home: Home, membership: Membership, bundle: Bundle) -> None:
    """Raises unless the home is of an edge that never joined, and the bundle is for it."""
    who = f"{membership.kind} {membership.name} in federation {membership.federation}"
    if home.identity_crt.exists():
        same = (bundle.federation, fold(bundle.name)) == (membership.federation, fold(membership.name))
        runs = f'it has joined: "peerage edge --home {home}" runs it' if same and membership.kind == "edge" else None
        hint = "it has joined and needs no bundle any more" if same else "join in a new home (--home)"
        raise AlreadyJoined(f"{home} is the home of {who}", hint=runs or hint)
    if (bundle.federation, bundle.kind, fold(bundle.name)) != (membership.federation, "edge", fold(membership.name)):
        raise AlreadyJoined(
            f"{home} is the home of {who}, by an imported file: the bundle is for {bundle.kind} {bundle.name} in "
            f"federation {bundle.federation}",
            hint=f'make one for this edge: "peerage register {membership.name}", or join in a new home (--home)',
        )


def _check_same(home: Home, membership: Membership, admission: Admission) -> None:
    """Raises unless the nameserver admitted the edge that the device is, and goes on from the root records it knows."""
    if admission.uuid != membership.uuid:
        raise BadAdmission(
            f"the nameserver admitted another {membership.name} than this device is: expected {membership.uuid}, found "
            f"{admission.uuid}; it was removed and registered again meanwhile",
            hint="register once more and join in a new home: what this one holds is of the old edge",
        )
    trust_chain(admission.roots, pin_of(home.roots()[-1]))


def _key(path: Path) -> PrivateKey:
    """The key in a file, made when there is none: a join that broke off goes on with the same key."""
    if not path.exists():
        write_key(path, PrivateKey.generate())
    return read_key(path)
