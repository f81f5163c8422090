"""What holds for every test: nobody looks for peers on the network around this device, and what a command makes of its
process's umask ends with the test.

Processes under test keep what they compiled, as those of an installed Peerage do, also where Python was told not to:
hundreds are started, and compiling all modules anew is a third of the work of each start.
"""

import os
import sys
from collections.abc import Iterator

import pytest

os.environ.setdefault("PEERAGE_ZEROCONF_INTERFACE", "127.0.0.1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
