"""A living edge that serves a model and two pipelines, for tests of its whole application face."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.homes import Home
from tests.models.making import scaling
from tests.wire.living import Living, living, publish, publisher_in


@dataclass(frozen=True)
class Served:
    """``url`` of the application port, ``home`` of the edge, ``versions`` of the pipelines by name."""

    federation: Living
    url: str
    home: Home
    versions: dict[str, str]

    @property
    def token(self) -> str:
        return self.home.token()


def write_model(home: Home, name: str, factor: float) -> None:
    """x[-1,4] → y = factor * x."""
    folder = home.models / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(f'name = "{name}"\nvectors = "vectors.json"\n')
    (folder / "model.onnx").write_bytes(scaling(factor))
    answer = {"input": {"x": [[1, 2, 3, 4]]}, "output": {"y": [[factor * x for x in (1, 2, 3, 4)]]}}
    (folder / "vectors.json").write_text(json.dumps([answer]))


@asynccontextmanager
async def served(folder: Path, *, pipelines: int = 1) -> AsyncIterator[Served]:
    """``pipelines``: ``pipe`` with a shadow and a validation, then ``other``."""
    async with living(folder, "e1") as federation:
        ada = await publisher_in(federation)
        await federation.value('edge:add_group("e1", "lab")')
        for name, factor in (("double", 2.0), ("triple", 3.0)):
            write_model(ada, name, factor)
            await publish(federation, name, "1.0", home="ada")
        versions: dict[str, str] = {}
        for name in ("pipe", "other")[:pipelines]:
            for text in (
                f'pipeline:create("{name}")',
                f'pipeline:add_shadow("{name}", "double@1.0", ["triple@1.0"])',
                f'pipeline:add_validation("{name}", "high", "out.y[1] > 100")',
            ):
                await federation.value(text, home="ada")
            made = await federation.value(f'pipeline:deploy("{name}", {{"group": "lab"}})', home="ada")
            versions[name] = made["version"]
        await federation.value('edge:set_group_models("lab", [{"name": "double", "version": "1.0"}])')
        wanted = {f"{name}@{version}" for name, version in versions.items()} | {"double@1.0"}
        async with asyncio.timeout(20), federation.connection("e1") as edge:
            while not wanted <= set(await edge.value("models:loaded()")):  # noqa: ASYNC110 — a poll, bounded above
                await asyncio.sleep(0.05)
        record = federation.peers["e1"].record
        yield Served(federation, f"http://{record.application}", federation.home("e1"), versions)
