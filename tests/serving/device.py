"""A real ``peerage edge`` process, AUTONOMOUS, with models in its memory that were never released."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from peers.client import connect
from peers.homes import Home
from tests.shell.running import ANY, PEERAGE, environment

EDGE = ("edge", "--mode", "AUTONOMOUS", "--name", "T1", "--accept-development", *ANY, "--json")
STOP_S_MAX = 5.0


@dataclass(frozen=True)
class Device:
    """``address`` is its application port, ``versions`` are of the models in its memory."""

    home: Home
    address: str
    versions: dict[str, str]
    process: subprocess.Popen[str]

    @property
    def authorized(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.home.token()}"}

    @property
    def log(self) -> str:
        return (self.home.path.parent / "log").read_text()


@contextmanager
def device(
    folder: Path, models: Mapping[str, bytes], *options: str, told: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Device]:
    """``models``: graphs by name; ``told``: what more their ``model.toml`` says. Ends with the process, which must end
    as it is told to.
    """
    home = Home(folder / "t1").prepare()
    for name, graph in models.items():
        (home.models / name).mkdir(parents=True)
        (home.models / name / "model.toml").write_text(f'name = "{name}"\n{told.get(name, "")}')
        (home.models / name / "model.onnx").write_bytes(graph)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*PEERAGE, *EDGE, *options, "--home", home.path],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "log").read_text()
        with connect(home.path) as edge:
            loaded = [edge.value("models:load(:name)", params={"name": name}) for name in models]
        versions = dict(label.split("@", 1) for label in loaded)
        yield Device(home, json.loads(line)["application"], versions, process)
        process.terminate()
        assert process.wait(timeout=STOP_S_MAX) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
