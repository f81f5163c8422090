"""Ed25519 keys: making, naming, keeping and using them. The only module that imports PyNaCl.

Owns the key file: PKCS8 PEM, mode 0600, which OpenSSL reads as a TLS key too. Refuses to overwrite a key and to read
one that others may read.

Rules: a key id is the hex sha256 of the 32 bytes of the public key; a private key has no text form but :attr:`pem`,
and its ``repr`` shows the key id alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from pathlib import Path
from typing import Final, NoReturn, Self, final

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from federation.documents import KeyId
from federation.errors import BadKeyFile

SEED_BYTES: Final = 32
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
KEY_FILE_BYTES_MAX: Final = 4096
PKCS8_PREFIX: Final = bytes.fromhex("302e020100300506032b657004220420")  # RFC 8410: Ed25519, 32-byte seed follows

_BEGIN: Final = "-----BEGIN PRIVATE KEY-----"
_END: Final = "-----END PRIVATE KEY-----"


def keyid_of(public: bytes) -> KeyId:
    """The name of a public key in documents."""
    return hashlib.sha256(public).hexdigest()


def signed_by(public: bytes, content: bytes, signature: bytes) -> bool:
    """Whether ``signature`` over ``content`` was made by the owner of ``public``. Never raises on bad bytes."""
    if len(signature) != SIGNATURE_BYTES or len(public) != PUBLIC_BYTES:
        return False
    try:
        crypto_sign_open(signature + content, public)
    except (CryptoError, ValueError):
        return False
    return True


@final
class PrivateKey:
    """The private half of an identity. Immutable; compares by key id."""

    __slots__ = ("_pair", "_public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"expected a seed of {SEED_BYTES} bytes, found {len(seed)}")
        self._public, self._pair = crypto_sign_seed_keypair(seed)

    @classmethod
    def generate(cls) -> Self:
        return cls(secrets.token_bytes(SEED_BYTES))

    @classmethod
    def from_pem(cls, pem: str) -> Self:
        """Raises :class:`BadKeyFile` on anything but the PKCS8 PEM of an Ed25519 key, without showing the text."""
        lines = pem.split()
        body = "".join(lines[3:-3]) if " ".join(lines[:3]) == _BEGIN and " ".join(lines[-3:]) == _END else ""
        try:
            der = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            der = b""
        if len(der) != len(PKCS8_PREFIX) + SEED_BYTES or not der.startswith(PKCS8_PREFIX):
            raise BadKeyFile("expected the PEM of an Ed25519 private key, found something else")
        return cls(der[len(PKCS8_PREFIX) :])

    @property
    def pem(self) -> str:
        """PKCS8, as OpenSSL reads it. Secret."""
        body = base64.b64encode(PKCS8_PREFIX + self._pair[:SEED_BYTES]).decode("ascii")
        return f"{_BEGIN}\n{body}\n{_END}\n"

    @property
    def seed(self) -> bytes:
        """The 32 bytes that the key is made from. Secret."""
        return self._pair[:SEED_BYTES]

    @property
    def public(self) -> bytes:
        return self._public

    @property
    def keyid(self) -> KeyId:
        return keyid_of(self._public)

    def sign_bytes(self, content: bytes) -> bytes:
        """The 64-byte signature. Documents are signed by :mod:`federation.signing`, which adds their type."""
        return crypto_sign(content, self._pair)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"PrivateKey({self.keyid[:16]}…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrivateKey) and self._public == other._public

    def __hash__(self) -> int:
        return hash(self._public)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not pickled or copied; write it with write_key")


# --- key files ------------------------------------------------------------------------------------------------------


def write_key(path: Path, key: PrivateKey) -> None:
    """Write a new key file, mode 0600, whole or not at all, durable on return.

    Raises :class:`BadKeyFile` when ``path`` exists: a key is never overwritten.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key.pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a rename, fails where something is
        except FileExistsError:
            raise BadKeyFile(
                f"{path} exists and a key is never overwritten", hint="use another home, or move that file away"
            ) from None
    finally:
        temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_key(path: Path) -> PrivateKey:
    """The key in a file. Raises :class:`BadKeyFile` when it is missing, readable by others, or not an Ed25519 key."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(KEY_FILE_BYTES_MAX)
    except FileNotFoundError:
        raise BadKeyFile(f"no key file {path}") from None
    except OSError as error:
        raise BadKeyFile(f"cannot read key file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise BadKeyFile(
            f"{path} can be read by others: expected mode 600, found {mode & 0o777:o}",
            hint=f"chmod 600 {path}, and think about who has read it",
        )
    try:
        return PrivateKey.from_pem(raw.decode("ascii"))
    except (UnicodeDecodeError, BadKeyFile):
        raise BadKeyFile(f"{path} is not a key file: expected the PEM of an Ed25519 private key") from None
