"""What peers refuse each other, one class for each reason, so that both sides name it alike.

    Problem
    ├── UserProblem
    │   ├── BadKeyFile             a key file that is missing, readable by others, or not a key
    │   ├── BadBundle              a text that is not a whole bundle
    │   ├── AlreadyEndorsed        an endorsement that would change nothing, or say two things
    │   ├── BadKeyChange           a change of the root record's keys that cannot be
    │   └── NeedsMoreSignatures    a root record that more root keys must sign than are at hand
    ├── PeerProblem
    │   ├── Refused                who called may not: the class of a 403
    │   │   ├── NoCertificate  WrongFederation  UnknownPeer  RemovedPeer  CertificateExpired
    │   │   ├── WrongKey  WrongRole
    │   │   ├── WrongName  TokenUnknown  TokenReused  TokenExpired  BadProof              join
    │   │   └── WrongBody  EnvelopeExpired  NonceReused                                   forwarded statements
    │   ├── BadCertificate         not a certificate of a peer
    │   ├── ForeignCertificate     a certificate that another authority issued
    │   └── Untrusted              a document that must not be acted on
    │       ├── BadSignature  UnknownKey  TooFewSignatures  WrongDocument
    │       ├── KeyRevoked  KeyRetired                                                    releases
    │       ├── WrongRecipient  OldEpoch  Replay  Fork  NotYetValid  Expired              desired state
    │       ├── WrongSize  WrongHash  MixedParts  DevelopmentRefused                      releases
    │       └── WrongRoot                                                                 root records
    └── WorldProblem
        └── NoncesFull             more forwarded statements at once than can be told apart

``Fork`` is an alarm: the director signed two different states under one generation and window.
"""

from __future__ import annotations

from query.errors import PeerProblem, UserProblem, WorldProblem


class BadKeyFile(UserProblem):
    code = "bad_key_file"


class BadBundle(UserProblem):
    code = "bad_bundle"


class AlreadyEndorsed(UserProblem):
    code = "already_endorsed"


class BadKeyChange(UserProblem):
    code = "bad_key_change"


class NeedsMoreSignatures(UserProblem):
    code = "needs_more_signatures"


# --- callers --------------------------------------------------------------------------------------------------------


class Refused(PeerProblem):
    """A caller was refused; ``code`` is the class that the answer names."""

    code = "refused"


class NoCertificate(Refused):
    code = "no_certificate"


class WrongFederation(Refused):
    code = "wrong_federation"


class UnknownPeer(Refused):
    code = "unknown_peer"


class RemovedPeer(Refused):
    code = "removed"


class CertificateExpired(Refused):
    code = "certificate_expired"


class WrongKey(Refused):
    code = "wrong_key"


class WrongRole(Refused):
    code = "wrong_role"


class WrongName(Refused):
    code = "wrong_name"


class TokenUnknown(Refused):
    code = "token_unknown"


class TokenReused(Refused):
    code = "token_reused"


class TokenExpired(Refused):
    code = "token_expired"


class BadProof(Refused):
    code = "bad_proof"


class WrongBody(Refused):
    code = "wrong_body"


class EnvelopeExpired(Refused):
    code = "envelope_expired"


class NonceReused(Refused):
    code = "nonce_reused"


class NoncesFull(WorldProblem):
    code = "nonces_full"


# --- certificates ---------------------------------------------------------------------------------------------------


class BadCertificate(PeerProblem):
    code = "bad_certificate"


class ForeignCertificate(PeerProblem):
    code = "foreign_certificate"


# --- documents ------------------------------------------------------------------------------------------------------


class Untrusted(PeerProblem):
    """A document was refused; nothing of it may be acted on."""

    code = "untrusted"


class BadSignature(Untrusted):
    code = "bad_signature"


class UnknownKey(Untrusted):
    code = "unknown_key"


class KeyRevoked(Untrusted):
    """A release of a publisher whose key was revoked: known, and trusted no more."""

    code = "revoked_key"


class KeyRetired(Untrusted):
    """A new release, signed with a key that was replaced."""

    code = "retired_key"


class TooFewSignatures(Untrusted):
    code = "too_few_signatures"


class WrongDocument(Untrusted):
    code = "wrong_document"


class WrongRecipient(Untrusted):
    code = "wrong_recipient"


class OldEpoch(Untrusted):
    code = "old_epoch"


class Replay(Untrusted):
    code = "replay"


class Fork(Untrusted):
    code = "fork"


class NotYetValid(Untrusted):
    code = "not_yet_valid"


class Expired(Untrusted):
    code = "expired"


class WrongSize(Untrusted):
    code = "size"


class WrongHash(Untrusted):
    code = "hash"


class MixedParts(Untrusted):
    code = "mixed_parts"


class DevelopmentRefused(Untrusted):
    code = "development_refused"


class WrongRoot(Untrusted):
    code = "wrong_root"
