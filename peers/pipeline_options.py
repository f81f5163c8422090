"""The options of ``pipeline:deploy`` and ``pipeline:undeploy``, read strictly.

    group, groups      where to: one name or a vector; without, this peer's memory
    version            an earlier version, as it was made; without, the steps as they are edited
    cpus memory replicas batch log     what the pipeline may take where it runs, and what is recorded; part of the
                       version, kept until told otherwise; null takes one back

Pure. Refuses an unknown option with the nearest, and a value out of bounds, naming the option.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from federation.pipelines import BatchSettings, Deployment, LogSettings
from peers.conversion_words import in_words
from query.errors import WrongArguments, suggestion
from query.quantities import parse_bytes

GROUPS_MAX: Final = 256
_PLACES: Final = ("group", "groups")
_TAKEN: Final = ("cpus", "memory", "replicas", "batch", "log")
_OPTIONS: Final = (*_PLACES, "version", *_TAKEN)


class DeployOptions(Struct, frozen=True):
    """``changes``: fields of a :class:`~federation.pipelines.Deployment` that are set anew."""

    groups: tuple[str, ...] = ()
    version: str | None = None
    changes: dict[str, Any] = {}

    def applied(self, deployment: Deployment) -> Deployment:
        return msgspec.structs.replace(deployment, **self.changes)


def read_options(options: Mapping[str, Any]) -> DeployOptions:
    """Raises :class:`WrongArguments`."""
    _check_known(options, _OPTIONS)
    version = options.get("version")
    taken = {key: value for key, value in options.items() if key in _TAKEN}
    if version is not None:
        if taken:
            raise WrongArguments(
                f'a version has its own "{next(iter(taken))}": expected "version" without it',
                hint="deploy the steps as they are edited to change what they may take",
            )
        version = read_version(version)
    return DeployOptions(read_groups(options), version, _changes(taken))


def read_groups(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The groups that options name, each once. Raises :class:`WrongArguments`."""
    if "group" in options and "groups" in options:
        raise WrongArguments('expected "group" or "groups", found both')
    if "group" in options:
        groups: Any = [options["group"]]
    else:
        groups = options.get("groups", [])
    if not isinstance(groups, list | tuple) or not all(isinstance(group, str) for group in groups):
        raise WrongArguments(f'expected "groups" as a vector of names, found {groups!r:.60}')
    if "groups" in options and not groups:
        raise WrongArguments('expected at least one group in "groups", found none')
    if len(groups) > GROUPS_MAX:
        raise WrongArguments(f"expected at most {GROUPS_MAX} groups, found {len(groups)}")
    return tuple(dict.fromkeys(groups))


def read_places(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The groups of ``pipeline:undeploy``. Raises :class:`WrongArguments`."""
    _check_known(options, _PLACES)
    return read_groups(options)


def read_version(version: Any) -> str:
    """The UUID of a version of a pipeline. Raises :class:`WrongArguments`."""
    try:
        return str(uuid.UUID(version))
    except (ValueError, AttributeError, TypeError):
        pass
    raise WrongArguments(
        f"expected a version of a pipeline, a UUID, found {version!r:.60}", hint="pipeline:versions lists them"
    )


def _check_known(options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in options:
        if key not in known:
            tail = suggestion(str(key), known, otherwise=f": expected one of {', '.join(known)}")
            raise WrongArguments(f'no option "{str(key)[:40]}"{tail}')


def _changes(taken: Mapping[str, Any]) -> dict[str, Any]:
    fresh = Deployment()
    changes: dict[str, Any] = {}
    for key, value in taken.items():
        name = "memory_bytes" if key == "memory" else key
        if value is None:
            changes[name] = getattr(fresh, name)
        elif key == "memory":
            changes[name] = parse_bytes(value)
        elif key == "batch":
            changes[name] = _read(key, {"enabled": value} if isinstance(value, bool) else value, BatchSettings)
        elif key == "log":
            changes[name] = _read(key, value, LogSettings)
        else:
            changes[name] = _of_deployment(name, value)
    return changes


def _of_deployment(name: str, value: Any) -> Any:
    return getattr(_read(name, {name: value}, Deployment), name)


def _read(key: str, value: Any, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(dict(value) if isinstance(value, Mapping) else value, kind)
    except msgspec.ValidationError as error:
        raise WrongArguments(f'option "{key}": {in_words(error, apart_from=key)}') from error
