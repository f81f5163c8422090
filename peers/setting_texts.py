"""One setting: how it is declared, and how its value is read from the file, the environment or a flag.

Owns what follows from the type of a field of the structures in :mod:`peers.settings`: flag, variable, words for what is
expected, the conversion of a text. Pure. Rules: a bad value is an error that names the setting and where it stands.
"""

from __future__ import annotations

import tomllib
from typing import Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, inspect
from msgspec.inspect import type_info

from query.errors import UserProblem

PREFIX: Final = "PEERAGE_"
SETTINGS_BYTES_MAX: Final = 256 * 1024


class BadSetting(UserProblem):
    """``setting`` is its name in the file."""

    code = "bad_setting"


class Setting(Struct, frozen=True):
    """One setting as it is declared: for flags and documentation."""

    name: str
    type: Any
    default: Any
    description: str

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        return _core(self.type) is bool

    @property
    def is_list(self) -> bool:
        return isinstance(self.default, tuple)

    @property
    def choices(self) -> tuple[str, ...]:
        """The only values, when there are few."""
        core = _core(self.type)
        return tuple(core.__args__) if getattr(core, "__origin__", None) is Literal else ()


def declared(kind: type[Struct]) -> tuple[Setting, ...]:
    """The settings of one structure, in the order of the source, its own first."""
    fields = [Setting(f.name, f.type, f.default, _description(f.type)) for f in msgspec.structs.fields(kind)]
    own = kind.__annotations__
    return (*(s for s in fields if s.name in own), *(s for s in fields if s.name not in own))


def from_file(text: str | None, file_name: str) -> dict[str, Any]:
    """What a settings file says. Raises :class:`BadSetting`."""
    if text is None:
        return {}
    if len(text) > SETTINGS_BYTES_MAX:
        raise BadSetting(f"{file_name} has {len(text)} characters: expected at most {SETTINGS_BYTES_MAX}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"{file_name} is not TOML: {error}") from error


def converted(setting: Setting, value: Any, *, where: str, strict: bool) -> Any:
    """A setting's value. ``strict``: from a file, whose values have types. Raises :class:`BadSetting`."""
    if not strict and isinstance(value, str):
        if setting.is_list:
            value = [part.strip() for part in value.split(",") if part.strip()]
        elif setting.choices:
            value = next((choice for choice in setting.choices if choice.casefold() == value.casefold()), value)
    try:
        return msgspec.convert(value, setting.type, strict=strict)
    except msgspec.ValidationError:
        expected = f"one of {', '.join(setting.choices)}" if setting.choices else _words(type_info(setting.type))
        raise BadSetting(f"{where}: expected {expected}, found {value!r:.200}") from None


def _words(kind: inspect.Type) -> str:
    """What a setting's type takes, for people."""
    match kind:
        case inspect.IntType(ge=int(least), le=int(most)):
            return f"a whole number from {least} to {most}"
        case inspect.IntType(ge=int(least)):
            return f"a whole number of at least {least}"
        case inspect.FloatType(gt=bound) if bound is not None:
            return f"a number above {bound:g}"
        case inspect.StrType(max_length=int(most)):
            return f"text of at most {most} characters"
        case inspect.BoolType():
            return "true or false"
        case inspect.VarTupleType(item_type=item):
            return f"a list, each element {_words(item)}"
        case inspect.UnionType(types=kinds):
            return _words(kinds[0])
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.Metadata(type=inner):
            return _words(inner)
        case _:
            return "text"


def _core(declared_type: Any) -> Any:
    """The type without its annotations."""
    return (
        getattr(declared_type, "__origin__", declared_type) if hasattr(declared_type, "__metadata__") else declared_type
    )


def _description(declared_type: Any) -> str:
    for extra in getattr(declared_type, "__metadata__", ()):
        if isinstance(extra, Meta) and extra.description:
            return extra.description
    return ""
