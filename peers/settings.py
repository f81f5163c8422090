"""Settings: one TOML file in the home, the environment, and flags, as one frozen structure a kind of peer.

A setting has one name in three spellings: ``federation_port = 35021`` in the home's ``peerage.toml``,
``PEERAGE_FEDERATION_PORT=35021`` in the environment, ``--federation-port 35021`` on the command line. A flag goes
before the environment, the environment before the file, the file before the default. Lists are TOML arrays, and comma
lists in the other two.

Owns names, types, bounds, defaults and documentation of the settings; flags and documentation are made from the
structures below. Pure, but for :func:`read_settings`.

Rules: an unknown name is an error that says the nearest known one, also in the environment; a bad value is an error
that names the setting and where it stands. The environment serves every kind of peer, so there a setting of another
kind is passed over; in the file of a home it is an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct, inspect
from msgspec.inspect import type_info

from engine.inference_log_segments import quota_of
from engine.providers import CPU, Provider
from federation.documents import Kind
from federation.intervals import DEFAULT_INTERVAL, parse_interval
from federation.names import checked_name
from peers.homes import Home
from query.errors import Problem, UserProblem, nearest
from query.quantities import parse_bytes

PREFIX: Final = "PEERAGE_"
OTHER_VARIABLES: Final = {"LOCAL_INFERENCE_STORAGE": "local_inference_storage"}  # as other servers know it
NOT_SETTINGS: Final = frozenset({"PEERAGE_HOME", "PEERAGE_FAIL_AT"})
FEDERATION_PORT: Final = 35021
APPLICATION_PORT: Final = 8080
SETTINGS_BYTES_MAX: Final = 256 * 1024

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[float, Meta(gt=0)]
Bytes = Annotated[int, Meta(ge=1)]


class BadSetting(UserProblem):
    """``setting`` is its name in the file."""

    code = "bad_setting"


class PortTaken(UserProblem):
    """Another process listens where this one should; the message names the setting to change."""

    code = "port_taken"


class CommonSettings(Struct, frozen=True, kw_only=True):
    """What every kind of peer has."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severe log entries that are written")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "text", "json"],
        Meta(description="form of the log; auto: text on a terminal, JSON lines elsewhere"),
    ] = "auto"
    models: Annotated[str | None, Meta(description="folder of the user's models; default: models in the home")] = None
    accept_development: Annotated[
        bool, Meta(description="load folders that were never released, signed with this device's own key")
    ] = False
    memory_bytes_max: Annotated[
        Bytes,
        Meta(
            description="memory that all loaded models together, or one in its trial, may take; the process of an edge "
            "is held to 1 GiB more than this and what it starts with"
        ),
    ] = 2 << 30
    load_timeout_s: Annotated[Positive, Meta(description="seconds that the trial of a release may take")] = 60.0
    load_on_demand: Annotated[
        bool, Meta(description="let requests load what is installed, and unload such models when memory is short")
    ] = False
    run_timeout_s: Annotated[Positive, Meta(description="seconds that one run of a model may take")] = 10.0
    run_threads: Annotated[
        int, Meta(ge=0, description="threads for runs that take longer than 0.15 ms; 0: one for each core")
    ] = 0
    run_queue_max: Annotated[
        int, Meta(ge=1, description="such runs at once, waiting ones included; more are refused")
    ] = 64
    execution_providers: Annotated[
        tuple[Provider, ...],
        Meta(description="what runs the operators of models, the first preferred; absent ones are left out and told"),
    ] = CPU
    local_inference_storage: Annotated[
        str | int,
        Meta(description="size of the log of what pipelines answered, a number and Ki, Mi, Gi or Ti; 0: none is kept"),
    ] = "0"
    local_inference_free_min: Annotated[
        str | int, Meta(description="free disk space below which inferences are no longer recorded")
    ] = "1G"
    zeroconf: Annotated[bool, Meta(description="announce or find the nameserver on the local network")] = True
    zeroconf_interface: Annotated[
        str | None, Meta(description="address of the only interface to use for zeroconf; default: all")
    ] = None


class ListenerSettings(CommonSettings, frozen=True, kw_only=True):
    """What a peer that stays has: an application face."""

    application_host: Annotated[str, Meta(description="address of the application face")] = "127.0.0.1"
    application_port: Annotated[Port, Meta(description="port of the application face; 0: any free one")] = (
        APPLICATION_PORT
    )
    application_certificate: Annotated[
        str | None,
        Meta(
            description="PEM file with the certificate of the application face beyond this device; default: this peer's"
        ),
    ] = None
    application_key: Annotated[str | None, Meta(description="PEM file with the key of application_certificate")] = None
    connections_max: Annotated[
        int, Meta(ge=1, le=1_000_000, description="connections to the application port at once; more are answered 503")
    ] = 4096


class NameserverSettings(ListenerSettings, frozen=True, kw_only=True):
    federation: Annotated[
        str | None, Meta(description="name of the federation, at the first start; default: made up")
    ] = None
    federation_host: Annotated[str, Meta(description="address of the federation face")] = "0.0.0.0"  # noqa: S104 — peers dial in
    federation_port: Annotated[Port, Meta(description="port of the federation face; 0: any free one")] = FEDERATION_PORT
    names: Annotated[
        tuple[str, ...],
        Meta(description="names and addresses that peers and registry tools dial, for bundles and certificate"),
    ] = ()
    poll_interval: Annotated[
        str, Meta(description="how often edges poll, at the first start; later edge:set_poll_interval")
    ] = DEFAULT_INTERVAL
    admin_home: Annotated[str | None, Meta(description="the first admin's home; default: HOME-admin")] = None
    root_home: Annotated[str | None, Meta(description="the root key's folder; default: HOME-root")] = None


class EdgeSettings(ListenerSettings, frozen=True, kw_only=True):
    local_inference_storage: Annotated[
        str | int,
        Meta(description="size of the log of what pipelines answered, a number and Ki, Mi, Gi or Ti; 0: none is kept"),
    ] = "1Gi"
    nameserver: Annotated[
        str | None, Meta(description="host:port of the nameserver; default: as joined, and by zeroconf")
    ] = None
    mode: Annotated[
        Literal["INTERACTIVE", "ONLINE", "AUTONOMOUS"],
        Meta(description="mode until the nameserver's first answer says another; AUTONOMOUS: enter it, and stay in it"),
    ] = "INTERACTIVE"


class ClientSettings(CommonSettings, frozen=True, kw_only=True):
    nameserver: Annotated[
        str | None, Meta(description="host:port of the nameserver; default: as joined, and by zeroconf")
    ] = None


Settings: TypeAlias = NameserverSettings | EdgeSettings | ClientSettings
KINDS: Final[Mapping[Kind, type[Settings]]] = {
    "nameserver": NameserverSettings,
    "edge": EdgeSettings,
    "client": ClientSettings,
}
_S = TypeVar("_S", NameserverSettings, EdgeSettings, ClientSettings)


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


def resolve_settings(
    kind: type[_S],
    *,
    file: str | None = None,
    file_name: str = "peerage.toml",
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> _S:
    """The settings by precedence flag, environment, file, default. Raises :class:`BadSetting`.

    ``file`` is the text of the TOML file. ``flags`` maps names to values; None is a flag that was not given.
    """
    known = {setting.name: setting for setting in declared(kind)}
    chosen: dict[str, Any] = {}
    for name, value in _from_file(file, file_name).items():
        if name not in known:
            raise _unknown(name, kind, where=f"in {file_name}")
        chosen[name] = _converted(known[name], value, where=f"{name} in {file_name}", strict=True)
    environment = environment or {}
    for variable, name in OTHER_VARIABLES.items():
        if variable in environment and name in known:
            where = f"{variable} in the environment"
            chosen[name] = _converted(known[name], environment[variable], where=where, strict=False)
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in known:
            chosen[name] = _converted(known[name], text, where=f"{variable} in the environment", strict=False)
        elif name not in _ALL:
            raise _unknown(name, kind, where=f"in the environment ({variable})")
    for name, value in (flags or {}).items():
        if value is not None and name in known:
            chosen[name] = _converted(known[name], value, where=known[name].flag, strict=False)
    settings = kind(**chosen)
    _check(settings)
    return settings


def read_settings(home: Home, kind: type[_S], *, environment: Mapping[str, str], flags: Mapping[str, Any]) -> _S:
    """The settings of the peer in ``home``, with the home's file read. Raises :class:`BadSetting` or ``BadHome``."""
    file = home.text(home.settings_toml) if home.settings_toml.exists() else None
    return resolve_settings(kind, file=file, file_name=str(home.settings_toml), environment=environment, flags=flags)


def port_taken(setting: str, host: str, port: int) -> PortTaken:
    """The error for an address in use; ``setting`` is the name of the port's setting."""
    return PortTaken(
        f"{setting} {port} on {host} is taken by another process",
        hint=f"set another {setting} (--{setting.replace('_', '-')}, {PREFIX}{setting.upper()}), or 0 for any free one",
    )


def dial_addresses(settings: NameserverSettings, *, port: int, host_name: str) -> tuple[str, ...]:
    """Where peers dial a nameserver that listens on ``port``: for bundles. ``host_name`` is this machine's."""
    return tuple(_with_port(name, port) for name in dial_names(settings, host_name=host_name))


def dial_names(settings: NameserverSettings, *, host_name: str) -> tuple[str, ...]:
    """Host names and addresses of a nameserver: the configured ones, else what follows from where it listens."""
    if settings.names:
        return settings.names
    if settings.federation_host in ("0.0.0.0", "::", ""):  # noqa: S104
        return (host_name, "127.0.0.1")
    return (settings.federation_host,)


def checked_address(text: str, *, where: str) -> str:
    """``host:port`` itself. Raises :class:`BadSetting` for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65535:
        raise BadSetting(f'{where} is "{text[:80]}": expected host:port, as in "nameserver.example:{FEDERATION_PORT}"')
    return text


def _with_port(name: str, port: int) -> str:
    return f"[{name}]:{port}" if ":" in name and not name.startswith("[") else f"{name}:{port}"


def _from_file(text: str | None, file_name: str) -> dict[str, Any]:
    if text is None:
        return {}
    if len(text) > SETTINGS_BYTES_MAX:
        raise BadSetting(f"{file_name} has {len(text)} characters: expected at most {SETTINGS_BYTES_MAX}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"{file_name} is not TOML: {error}") from error


def _converted(setting: Setting, value: Any, *, where: str, strict: bool) -> Any:
    if not strict and isinstance(value, str):
        if setting.is_list:
            value = [part.strip() for part in value.split(",") if part.strip()]
        elif setting.choices:
            value = next((choice for choice in setting.choices if choice.casefold() == value.casefold()), value)
    try:
        return msgspec.convert(value, setting.type, strict=strict)
    except msgspec.ValidationError:
        expected = f"one of {', '.join(setting.choices)}" if setting.choices else _words(type_info(setting.type))
        raise BadSetting(f"{where}: expected {expected}, found {value!r}") from None


def _words(kind: inspect.Type) -> str:
    """What a setting's type takes, for people."""
    match kind:
        case inspect.IntType(ge=int(least), le=int(most)):
            return f"a whole number from {least} to {most}"
        case inspect.IntType(ge=int(least)):
            return f"a whole number of at least {least}"
        case inspect.FloatType(gt=bound) if bound is not None:
            return f"a number above {bound:g}"
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


def _check(settings: Settings) -> None:
    """What types cannot say."""
    if isinstance(settings, ListenerSettings):
        files = settings.application_certificate, settings.application_key
        if any(files) and not all(files):
            raise BadSetting("expected application_certificate and application_key together, found one of them")
    amounts = {"local_inference_storage": quota_of, "local_inference_free_min": parse_bytes}
    for name, read in amounts.items():
        try:
            read(getattr(settings, name))
        except Problem as problem:
            raise BadSetting(f"{name}: {problem.message}", hint=problem.hint) from None
    try:
        if isinstance(settings, NameserverSettings):
            parse_interval(settings.poll_interval)
            if settings.federation is not None:
                checked_name("federation", settings.federation)
        elif settings.nameserver is not None:
            checked_address(settings.nameserver, where="nameserver")
    except BadSetting:
        raise
    except Problem as problem:
        raise BadSetting(problem.message, hint=problem.hint) from None


def _unknown(name: str, kind: type[Settings], *, where: str) -> BadSetting:
    if name in _ALL:
        others = [other for other, settings in KINDS.items() if name in settings.__struct_fields__]
        return BadSetting(f'setting "{name}" {where} is of {" and ".join(others)}, not of {_kind(kind)}')
    close = nearest(name, kind.__struct_fields__)
    tail = f' — did you mean "{close}"?' if close else ""
    return BadSetting(
        f'no setting "{name[:80]}" {where}{tail}',
        hint=f'"peerage {_kind(kind)} --help" lists them' if kind is not ClientSettings else None,
    )


def _kind(settings: type[Settings]) -> Kind:
    return next(kind for kind, structure in KINDS.items() if structure is settings)


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


_ALL: Final = frozenset(name for settings in KINDS.values() for name in settings.__struct_fields__)
