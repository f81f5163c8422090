"""New model folders: a copy of the template that comes with the program, under a name of its own.

The template is a small real model that loads, answers and tests; its graph is made by ``examples/template/make.py``.
A folder appears whole or not at all. Refuses a name that cannot name a model, and one that is taken.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from importlib import resources
from pathlib import Path

from federation.names import checked_model
from query.errors import UserProblem, WorldProblem


class FolderExists(UserProblem):
    code = "folder_exists"


class FolderNotWritten(WorldProblem):
    code = "folder_not_written"


def create_folder(models: Path, name: str) -> Path:
    """The new folder ``models/name``. Raises ``BadName``, :class:`FolderExists`, :class:`FolderNotWritten`."""
    folder = models / checked_model(name)
    if folder.exists():
        raise FolderExists(f'there is a model folder "{name}" already: {folder}')
    function = re.sub(r"[^a-z0-9]", "_", name)
    if function[0].isdigit():
        function = f"model_{function}"
    try:
        models.mkdir(mode=0o700, parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".new-", dir=models))
        try:
            for entry in resources.files("engine").joinpath("template").iterdir():
                content = entry.read_bytes()
                if not entry.name.endswith(".onnx"):
                    content = content.replace(b"NAME", name.encode()).replace(b"FUNCTION", function.encode())
                (staged / entry.name).write_bytes(content)
            staged.chmod(0o755)
            staged.rename(folder)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    except OSError as error:
        raise FolderNotWritten(f"cannot make the model folder {folder}: {error.strerror}") from error
    return folder


def folders(models: Path) -> list[str]:
    """The names of the model folders, in alphabetic order: those with a description."""
    if not models.is_dir():
        return []
    return sorted(entry.name for entry in models.iterdir() if (entry / "model.toml").is_file())
