"""What a person wants of the prompt, kept in ``$XDG_CONFIG_HOME/peerage/repl.toml``; see docs/repl.md.

Owns names, values and the file. Rules: a file that says something unknown is told, and the defaults hold; only what
differs from the defaults is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from query.errors import UserProblem

FILE_BYTES_MAX: Final = 64 * 1024
CONVERGE_S_MAX: Final = 3600.0


class Preferences(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``pager``: a command, ``off``, or nothing for ``$PAGER``. ``converge``: seconds to wait for edges, 0 for none."""

    keys: Literal["emacs", "vi"] = "emacs"
    theme: Literal["auto", "dark", "light", "none"] = "auto"
    pager: str = ""
    time: bool = True
    table: bool = False
    converge: Annotated[float, Meta(ge=0, le=CONVERGE_S_MAX)] = 20.0


class BadPreferences(UserProblem):
    """The file of preferences says something that the prompt does not know."""

    code = "bad_preferences"


def preferences_file(environment: Mapping[str, str]) -> Path:
    base = environment.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "peerage" / "repl.toml"


def read_preferences(path: Path) -> Preferences:
    """The preferences of a file; the defaults where there is none. Raises :class:`BadPreferences`."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX)
    except FileNotFoundError:
        return Preferences()
    except OSError as error:
        raise BadPreferences(f"cannot read {path}: {error.strerror}") from error
    try:
        return msgspec.toml.decode(raw, type=Preferences)
    except (msgspec.MsgspecError, ValueError) as error:
        names = ", ".join(Preferences.__struct_fields__)
        raise BadPreferences(f"{path}: {error}", hint=f"it knows {names}; see docs/repl.md") from error


def write_preferences(path: Path, preferences: Preferences) -> None:
    """Keep what differs from the defaults."""
    lines = ["# What `\\save` of peerage repl keeps."]
    for name, default in zip(Preferences.__struct_fields__, Preferences.__struct_defaults__, strict=True):
        value = getattr(preferences, name)
        if value != default:
            lines.append(f"{name} = {_written(value)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", "utf-8")
    except OSError as error:
        raise BadPreferences(f"cannot write {path}: {error.strerror}") from error


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else msgspec.json.encode(value).decode("utf-8")
