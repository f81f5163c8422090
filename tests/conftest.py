"""What holds for every test: nobody looks for peers on the network around this device, and what a command makes of its
process's umask ends with the test.

Hundreds of processes are started, so what each of them does before it comes to its work is kept small: they keep what
they compiled, as those of an installed Peerage do, also where Python was told not to; and they read no bundle of
public authorities, none of which a peer trusts, but which aiohttp loads when it is imported.

The folders whose files take longest come first, so that workers who share out files end together.
"""

import os
import sys
from collections.abc import Iterator

import pytest

LONGEST_FIRST = (
    "demo",
    "turn",
    "shell",
    "repl",
    "many",
    "carrying",
    "backup",
    "badinput",
    "world",
    "repository",
    "wire",
)

os.environ.setdefault("PEERAGE_ZEROCONF_INTERFACE", "127.0.0.1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["SSL_CERT_FILE"] = os.devnull


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {folder: at for at, folder in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
