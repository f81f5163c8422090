"""Registries and tools of others for the tests: Debian's docker-registry, and skopeo.

Both are optional in a checkout: a test that needs one is skipped by its name, and fails where ``CI`` is set. The
registry never sees Debian's configuration, which listens everywhere; it gets one of ours, on a port that the system
chooses, and tells that port in its log.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from federation.certificates import issue, make_authority
from federation.keys import PrivateKey
from federation.names import PeerId

USER, PASSWORD = "mechanic", "correct horse battery staple"
START_S_MAX = 20.0
COPY_S_MAX = 60.0
_NOBODY = "f1111111-0000-4000-8000-000000000000"


def program(name: str) -> str:
    """The path of a program that Debian has; skips, or under CI fails, where it is not installed."""
    found = shutil.which(name)
    if found is None:
        told = f"{name} is not installed: apt install {name}"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)
    return found


@dataclass(frozen=True)
class DockerRegistry:
    """One that runs. ``ca`` is set where it speaks TLS, ``password`` where it wants to know who asks."""

    address: str
    storage: Path
    ca: Path | None = None
    password: bool = False

    @property
    def url(self) -> str:
        return f"{'http' if self.ca is None else 'https'}://{self.address}"

    def options(self, side: str) -> list[str]:
        """What skopeo needs to be told of it; ``side`` is ``src`` or ``dest``, or empty for commands with one side."""
        prefix = f"--{side}-" if side else "--"
        told = [f"{prefix}tls-verify=false"] if self.ca is None else [f"{prefix}cert-dir={self.ca.parent}"]
        return [*told, f"{prefix}creds={USER}:{PASSWORD}"] if self.password else told

    def reference(self, name: str) -> str:
        return f"docker://{self.address}/{name}"

    def blob(self, digest: str) -> Path:
        """The file that it serves for a digest, whatever is in it."""
        plain = digest.removeprefix("sha256:")
        return self.storage / "docker" / "registry" / "v2" / "blobs" / "sha256" / plain[:2] / plain / "data"


@contextmanager
def docker_registry(folder: Path, *, tls: bool = False, password: bool = False) -> Iterator[DockerRegistry]:
    """Debian's registry on 127.0.0.1 while the block runs, with its files in ``folder``."""
    found = program("docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    storage = folder / "storage"
    lines = [
        "version: 0.1",
        "log: {level: info}",
        f"storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}",
        "http:",
        "  addr: 127.0.0.1:0",
    ]
    ca = None
    if tls:
        ca = _write_certificates(folder / "tls")
        lines.append(f"  tls: {{certificate: {folder / 'tls-server.crt'}, key: {folder / 'tls-server.key'}}}")
    if password:
        (folder / "htpasswd").write_text(f"{USER}:{_hashed(PASSWORD)}\n")
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}")
    (folder / "registry.yml").write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(
        [found, "serve", str(folder / "registry.yml")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
    )
    assert process.stderr is not None
    log = _Log(process.stderr)
    try:
        address = log.address()
        yield DockerRegistry(address, storage, ca, password)
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


class _Log:
    """What the registry writes, read to its end so that it never waits for us."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._address = ""
        self._known = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self._stream:
            self._lines.append(line)
            if "listening on 127.0.0.1:" in line:
                self._address = "127.0.0.1:" + line.split("listening on 127.0.0.1:")[1].split(",")[0].split('"')[0]
                self._known.set()
        self._known.set()

    def address(self) -> str:
        self._known.wait(timeout=START_S_MAX)
        assert self._address, f"docker-registry did not start:\n{''.join(self._lines)}"
        return self._address.strip()

    def close(self) -> None:
        self._reader.join(timeout=5)
        self._stream.close()


def _write_certificates(folder: Path) -> Path:
    """A CA in a folder of its own, as skopeo reads them, and beside it the certificate of a server on 127.0.0.1."""
    folder.mkdir()
    authority, server = PrivateKey.generate(), PrivateKey.generate()
    now = time.time()
    pem = make_authority(_NOBODY, authority, now=now)
    certificate = issue(
        ca_pem=pem,
        ca_key=authority,
        subject_key=server.public,
        federation=_NOBODY,
        kind="nameserver",
        uuid=PeerId(_NOBODY),
        now=now,
        ips=["127.0.0.1"],
    )
    (folder / "ca.crt").write_text(pem)
    folder.with_name(f"{folder.name}-server.crt").write_text(certificate)
    folder.with_name(f"{folder.name}-server.key").write_text(server.pem)
    return folder / "ca.crt"


def _hashed(password: str) -> str:
    bcrypt = pytest.importorskip("bcrypt")
    return str(bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=4)).decode())


def skopeo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run skopeo to its end, whatever it says; without a policy for signatures of its own."""
    return subprocess.run(
        [program("skopeo"), "--insecure-policy", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COPY_S_MAX,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )


def copied(*arguments: str | Path) -> str:
    """Run skopeo, which must succeed; what it printed."""
    ran = skopeo(*arguments)
    assert ran.returncode == 0, f"skopeo {' '.join(map(str, arguments))}:\n{ran.stderr}"
    return ran.stdout
