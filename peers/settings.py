"""Settings: one TOML file in the home, the environment, and flags, as one frozen structure a kind of peer.

A setting has one name in three spellings: ``federation_port = 35021`` in the home's ``peerage.toml``,
``PEERAGE_FEDERATION_PORT=35021`` in the environment, ``--federation-port 35021`` on the command line. A flag goes
before the environment, the environment before the file, the file before the default. Lists are TOML arrays, and comma
lists in the other two.

Owns names, types, bounds, defaults and documentation of the settings; flags and documentation are made from the
structures below (:mod:`peers.setting_texts`). Pure, but for :func:`read_settings`.

Rules: an unknown name is an error that says the nearest known one, also in the environment; a bad value is an error
that names the setting and where it stands. The environment serves every kind of peer, so there a setting of another
kind is passed over; in the file of a home it is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from msgspec import Meta, Struct

from engine.inference_log_segments import quota_of
from engine.providers import CPU, Provider
from federation.documents import Kind
from federation.intervals import DEFAULT_INTERVAL, parse_interval
from federation.names import checked_name, fold
from peers.homes import Home
from peers.setting_texts import PREFIX, BadSetting, converted, declared, from_file
from query.budgets import Budget
from query.errors import Problem, UserProblem, nearest
from query.quantities import parse_bytes

OTHER_VARIABLES: Final = {"LOCAL_INFERENCE_STORAGE": "local_inference_storage"}  # as other servers know it
NOT_SETTINGS: Final = frozenset({"PEERAGE_HOME", "PEERAGE_FAIL_AT"})
FEDERATION_PORT: Final = 35021
APPLICATION_PORT: Final = 8080
DIRECT_PORT: Final = 35022
DIRECT_PEERS_MAX: Final = 64

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[float, Meta(gt=0)]
Bytes = Annotated[int, Meta(ge=1)]
DirectPeers = Annotated[
    tuple[str, ...],
    Meta(
        description="NAME=HOST:PORT of edges that are asked directly, not by way of the nameserver, where they listen"
    ),
]


class PortTaken(UserProblem):
    """Another process listens where this one should; the message names the setting to change."""

    code = "port_taken"


SITE_LENGTH_MAX: Final = 200


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
    statement_rows_max: Annotated[int, Meta(ge=1, description="rows that one statement may give on this peer")] = (
        1_000_000
    )
    statement_bytes_max: Annotated[
        Bytes, Meta(description="bytes that the rows of one statement may take on this peer, as they are sent")
    ] = 256 << 20
    statement_timeout_s: Annotated[Positive, Meta(description="seconds that one statement may take on this peer")] = (
        3600.0
    )
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
    direct_host: Annotated[
        str | None, Meta(description="address where other members may ask this edge directly; default: nowhere")
    ] = None
    direct_port: Annotated[Port, Meta(description="port for that; 0: any free one")] = DIRECT_PORT
    direct_peers: DirectPeers = ()
    direct_discover: Annotated[
        bool, Meta(description="ask edges directly that announce on the local network that they take it")
    ] = False
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
    site: Annotated[
        str,
        Meta(max_length=SITE_LENGTH_MAX, description="where this device is, told as its property site; empty: untold"),
    ] = ""


class ClientSettings(CommonSettings, frozen=True, kw_only=True):
    direct_peers: DirectPeers = ()
    nameserver: Annotated[
        str | None, Meta(description="host:port of the nameserver; default: as joined, and by zeroconf")
    ] = None


def budget_of(settings: CommonSettings) -> Budget:
    """What every statement may spend on a peer."""
    return Budget(settings.statement_rows_max, settings.statement_bytes_max, settings.statement_timeout_s)


Settings: TypeAlias = NameserverSettings | EdgeSettings | ClientSettings
KINDS: Final[Mapping[Kind, type[Settings]]] = {
    "nameserver": NameserverSettings,
    "edge": EdgeSettings,
    "client": ClientSettings,
}
_S = TypeVar("_S", NameserverSettings, EdgeSettings, ClientSettings)


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
    for name, value in from_file(file, file_name).items():
        if name not in known:
            raise _unknown(name, kind, where=f"in {file_name}")
        chosen[name] = converted(known[name], value, where=f"{name} in {file_name}", strict=True)
    environment = environment or {}
    for variable, name in OTHER_VARIABLES.items():
        if variable in environment and name in known:
            where = f"{variable} in the environment"
            chosen[name] = converted(known[name], environment[variable], where=where, strict=False)
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in known:
            chosen[name] = converted(known[name], text, where=f"{variable} in the environment", strict=False)
        elif name not in _ALL:
            raise _unknown(name, kind, where=f"in the environment ({variable})")
    for name, value in (flags or {}).items():
        if value is not None and name in known:
            chosen[name] = converted(known[name], value, where=known[name].flag, strict=False)
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


def direct_addresses(peers: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    """The addresses of ``direct_peers`` by folded name. Raises :class:`BadSetting`."""
    if len(peers) > DIRECT_PEERS_MAX:
        raise BadSetting(f"direct_peers names {len(peers)} addresses: expected at most {DIRECT_PEERS_MAX}")
    found: dict[str, tuple[str, ...]] = {}
    for one in peers:
        name, equals, address = one.partition("=")
        if not equals:
            raise BadSetting(f'direct_peers has "{one[:80]}": expected NAME=HOST:PORT')
        folded = fold(checked_name("peer", name.strip()))
        found[folded] = (*found.get(folded, ()), checked_address(address.strip(), where="direct_peers"))
    return found


def checked_address(text: str, *, where: str) -> str:
    """``host:port`` itself. Raises :class:`BadSetting` for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65535:
        raise BadSetting(f'{where} is "{text[:80]}": expected host:port, as in "nameserver.example:{FEDERATION_PORT}"')
    return text


def _with_port(name: str, port: int) -> str:
    return f"[{name}]:{port}" if ":" in name and not name.startswith("[") else f"{name}:{port}"


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
        else:
            direct_addresses(settings.direct_peers)
            if settings.nameserver is not None:
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


_ALL: Final = frozenset(name for settings in KINDS.values() for name in settings.__struct_fields__)
