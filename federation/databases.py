"""Opening tables with sqlite-utils, and with that alone.

sqlite-utils stores columns of numpy and pandas, and imports both when they are installed. Peers store none, and on a
device where people analyse data pandas is installed: a nameserver would start a second later and hold 60 MB more.

Rules: a database is made here and nowhere else; the first is made before a peer starts threads that may import numpy.
"""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqlite_utils import Database

UNUSED: Final = ("numpy", "pandas")


def database_on(connection: sqlite3.Connection) -> Database:
    """A connection with the ways of sqlite-utils; closing the connection stays with the caller."""
    hidden = [] if "sqlite_utils" in sys.modules else [name for name in UNUSED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails, as if it were not installed
    try:
        from sqlite_utils import Database
    finally:
        for name in hidden:
            del sys.modules[name]
    return Database(connection)
