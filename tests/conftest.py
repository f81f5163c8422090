"""What holds for every test: nobody looks for peers on the network around this device, and what a command makes of its
process's umask ends with the test.
"""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("PEERAGE_ZEROCONF_INTERFACE", "127.0.0.1")


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
