"""A real neovim, with the configuration of docs/editor.md, on a file with the reference's statements."""

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.wire.living import living

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LONG = "select a + b + c from a in range(1, 60), b in range(1, 60), c in range(1, 60)"


def configuration() -> str:
    """What the guide says to put into init.lua."""
    fences: list[str] = re.findall(r"```lua\n(.*?)```", (ROOT / "docs" / "editor.md").read_text("utf-8"), re.DOTALL)
    (found,) = fences
    return found


async def edited(folder: Path, home: Path) -> dict[str, Any]:
    """What was seen in one session of the editor."""
    workspace = folder / "workspace"
    workspace.mkdir()
    script = workspace / "fleet.pql"
    shutil.copy(HERE / "reference.pql", script)
    (folder / "bin").mkdir()
    command = folder / "bin" / "peerage"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m peers.cli "$@"\n')
    command.chmod(0o755)
    (folder / "init.lua").write_text(configuration())
    environment = {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PEERAGE_HOME": str(home),
        "PEERAGE_ZEROCONF_INTERFACE": "127.0.0.1",
        "SCRIPT": str(script),
        "SEEN": str(folder / "seen.json"),
        "LONG": LONG,
        **{
            name: str(folder / name)
            for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
        },
    }
    arguments = ["nvim", "--headless", "-i", "NONE", "-n", "-u", str(folder / "init.lua")]
    editor = await asyncio.create_subprocess_exec(
        *arguments,
        "-c",
        f"luafile {HERE / 'driving.lua'}",
        cwd=workspace,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(90):
            said, _ = await editor.communicate()
    finally:
        if editor.returncode is None:
            editor.kill()
            await editor.wait()
    assert (folder / "seen.json").exists(), said.decode()
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    assert "failed" not in seen, f"{json.dumps(seen['failed'], indent=1)}\n{said.decode()}"
    return {**seen, "saved": script.read_text(), "settings": (workspace / ".peerage.toml").read_text()}


@pytest.mark.timeout(150)
async def test_a_session_in_neovim(tmp_path: Path) -> None:
    async with living(tmp_path / "federation", "MY-EDGE-1") as federation:
        await federation.value('edge:add_group("MY-EDGE-1", "lab")')
        seen = await edited(tmp_path, federation.admin.path)
    assert seen["filetype"] == "pql"
    assert seen["state"] == {"connected": "ADMIN", "reason": "", "catalogue": "ADMIN"}
    assert seen["clean"] == []
    (mistake,) = seen["mistake"]
    assert mistake["message"] == 'no function "edge:grops" — did you mean "edge:groups"?'
    assert (mistake["column"], mistake["until_"], mistake["severity"]) == (0, 10, 1)
    assert seen["functions"] == ["edge:add_group"]
    assert seen["edges"] == ["MY-EDGE-1"]
    assert {"all", "lab"} <= set(seen["groups"])
    assert seen["keys"] == ["repo", "name", "version"]
    assert seen["peers"] == ["ADMIN", "MY-EDGE-1", "nameserver", "all", "group", "where"]
    assert seen["made"] == ["warm"]
    assert seen["typed"] == "edge:add_group"
    assert "edge:get_config(String edge) -> Record" in seen["hover"]
    assert "at home on the nameserver" in seen["hover"]
    assert seen["signature"]["activeParameter"] == 1
    assert seen["signature"]["signatures"][0]["label"].startswith("edge:add_group(String edge, String group)")
    assert seen["definition"].startswith("create function warm(")
    assert seen["lenses"][:3] == ["default peer: ADMIN", "run on nameserver", "run on nameserver"]
    assert seen["lenses"][-2:] == ["run on MY-EDGE-1", "run on ADMIN"]
    assert [line for line in seen["answers"] if line] == ["2", "['lab']"]
    assert '    [{"repo": "default", "name": "my-sa-model", "version": "5.3"}]' in seen["text"]
    assert "create function is_warm(Number celsius) -> Boolean" in seen["text"]
    assert "select is_warm(t) from t in [20, 30];" in seen["text"]
    assert seen["saved"] == "\n".join(seen["text"]) + "\n"
    assert seen["offered"][0] == "nameserver"
    assert seen["settings"] == f'default_peer = "{seen["offered"][-1]}"\n'
    assert seen["chosen"]["defaultPeer"] == seen["offered"][-1]
