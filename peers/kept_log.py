"""The log of an AUTONOMOUS edge, kept in its home as JSON lines until somebody carries it away.

    edge.log edge.log.1    the newest lines, and those before; 0600, each at most FILE_BYTES_MAX

Owns the two files. What is secret is hidden as in every log (:mod:`peers.logs`). Rules: bounded, also on a device that
nobody visits for years; a disk that refuses loses lines and nothing else.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from logging.handlers import RotatingFileHandler
from typing import Any, Final

from federation.carried_state import LOG_LINES_MAX
from peers.homes import Home
from peers.logs import ROOT, JsonForm

KEPT: Final = "edge.log"
FILE_BYTES_MAX: Final = 512 * 1024
LINE_BYTES_MAX: Final = 64 * 1024


class _TwoFiles(RotatingFileHandler):
    def _open(self) -> Any:
        os.close(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
        return super()._open()


class KeptLog:
    """Use :meth:`keep` to begin and end; ending twice is no error."""

    def __init__(self, home: Home) -> None:
        self._path = home.path / KEPT
        self._handler: _TwoFiles | None = None

    def keep(self, keeping: bool) -> None:
        """Raises nothing: an edge runs without its log too."""
        logger = logging.getLogger(ROOT)
        if keeping and self._handler is None:
            try:
                self._handler = _TwoFiles(
                    self._path, maxBytes=FILE_BYTES_MAX, backupCount=1, encoding="utf-8", delay=False
                )
            except OSError as error:
                logger.warning("log_not_kept", extra={"reason": str(error)})
                return
            self._handler.setFormatter(JsonForm())
            logger.addHandler(self._handler)
        elif not keeping and self._handler is not None:
            logger.removeHandler(self._handler)
            self._handler.close()
            self._handler = None


def kept_lines(home: Home) -> tuple[str, ...]:
    """The lines that are kept, the oldest first, as many as a report carries."""
    lines: deque[str] = deque(maxlen=LOG_LINES_MAX)
    for file in (home.path / f"{KEPT}.1", home.path / KEPT):
        try:
            with file.open("r", encoding="utf-8", errors="replace") as stream:
                while line := stream.readline(LINE_BYTES_MAX):
                    lines.append(line.rstrip("\n"))
        except OSError:
            continue
    return tuple(lines)
