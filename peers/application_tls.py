"""TLS of an application face that is bound wider than this device.

Owns its context, and taking up certificate and key as they are on disk now: this peer's own are renewed, configured
ones replaced by whoever made them. Nobody is asked for a certificate: the token is the proof.

Refuses to serve beyond this device without TLS.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final

from peers.homes import Home
from peers.setting_texts import BadSetting
from peers.settings import ListenerSettings

log = logging.getLogger("peerage.http")

OWN_HINT: Final = "join a federation first, or set application_certificate and application_key"


class WideTls:
    """``context`` for new connections; :meth:`renew` before each of them."""

    def __init__(self, home: Home, settings: ListenerSettings) -> None:
        """Raises :class:`~peers.settings.BadSetting` for files that are no certificate and key."""
        self._files = _files(home, settings)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen = self._stamps()
        try:
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            certificate, key = self._files
            raise BadSetting(
                f"application_certificate {certificate} and application_key {key}: expected a certificate and its key "
                f"in PEM, found {_said(error)}"
            ) from error

    def renew(self) -> None:
        """Take up files that changed; what cannot be read leaves what was there."""
        stamps = self._stamps()
        if stamps == self._seen:
            return
        self._seen = stamps
        try:
            # Tried apart first: a certificate whose key is still the old one would leave the context without any.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)
            self.context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            log.warning("certificate_not_taken", extra={"file": str(self._files[0]), "reason": _said(error)})

    def _stamps(self) -> tuple[int, ...]:
        found = []
        for path in self._files:
            try:
                found.append(path.stat().st_mtime_ns)
            except OSError:
                found.append(0)
        return tuple(found)


def _files(home: Home, settings: ListenerSettings) -> tuple[Path, Path]:
    certificate, key = settings.application_certificate, settings.application_key
    if certificate and key:
        return Path(certificate).expanduser(), Path(key).expanduser()
    if not home.identity_crt.exists():
        raise BadSetting(
            f'application_host is "{settings.application_host}": beyond this device it needs a certificate, found none',
            hint=OWN_HINT,
        )
    return home.identity_crt, home.identity_key


def _said(error: Exception) -> str:
    return (getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)).lower()
