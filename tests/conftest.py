"""What holds for every test: nobody looks for peers on the network around this device, and what a command makes of its
process's umask ends with the test.

Hundreds of processes are started, so what each of them does before it comes to its work is kept small: they keep what
they compiled, as those of an installed Peerage do, also where Python was told not to; and they read no bundle of
public authorities, none of which a peer trusts, but which aiohttp loads when it is imported.
"""

import os
import sys
from collections.abc import Iterator

import pytest

os.environ.setdefault("PEERAGE_ZEROCONF_INTERFACE", "127.0.0.1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["SSL_CERT_FILE"] = os.devnull


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
