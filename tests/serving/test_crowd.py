"""Ten thousand connections to a real edge: as many as are allowed are answered, the others told so, and it stays up."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.serving.device import device

CONNECTIONS = 10_000
ALLOWED = 3000
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < CONNECTIONS + 200, reason="this machine has fewer descriptors"
)
def test_ten_thousand_connections(tmp_path: Path) -> None:
    with device(tmp_path, {}, "--connections-max", str(ALLOWED)) as edge:
        process = psutil.Process(edge.process.pid)
        before = process.memory_info().rss
        port = edge.address.rpartition(":")[2]
        done = subprocess.run(
            [sys.executable, "-m", "tests.serving.crowd", port, str(CONNECTIONS)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["seen"] == {"200": ALLOWED, "503": CONNECTIONS - ALLOWED, "closed": CONNECTIONS - ALLOWED}
        assert told["again"] >= 50
        assert told["freed"] == "200"
        assert process.memory_info().rss - before < 150 * 1024 * 1024
        assert "Traceback" not in edge.log
        assert edge.log.count("too_many_connections") == 1
