"""Pipelines from Python: ``peers.connect(…).pipeline("house-price")``, and the same from ``peers.connect_async(…)``.

    with peers.connect("~/.ada") as federation:
        price = federation.pipeline("house-price").add_model_step("price-linear", "1.0")
        price.deploy(group="lab")
        price.wait()

Each call is the function of the language of the same name, with types: :class:`AsyncPipeline` waits with ``await``,
:class:`Pipeline` is its synchronous form. What edits gives the pipeline, so that calls can be written one after the
other. Owns no rule of its own: errors are those of the functions.

Rules: the first call that adds something begins the pipeline where the home has none of that name. Steps count from 1,
as in the language. A model is ``"name@version"`` or ``("name", "version")``.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self, TypeVar

from query.errors import WorldProblem

if TYPE_CHECKING:
    from peers.client import AsyncConnection

Model = str | tuple[str, str]
Status = Literal["Starting", "Running", "Error", "Stopping", "Undeployed"]

POLL_S: Final = 0.2
_T = TypeVar("_T")


class PipelineNotRunning(WorldProblem):
    """A pipeline that does not run everywhere where it should; ``status`` says where and why."""

    code = "pipeline_not_running"
    status: PipelineStatus | None = None


class Kept(enum.Enum):
    """An option of :meth:`AsyncPipeline.deploy` that stays as it is; None takes it back."""

    KEPT = "kept"


KEPT: Final = Kept.KEPT


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deployment put to work: in the groups, or with none in the memory of the peer that was asked."""

    pipeline: str
    version: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PipelineVersion:
    """A version that was made in the home. ``current``: what the steps as they are edited now would be."""

    version: str
    created: datetime
    steps: int
    models: tuple[str, ...]
    released: bool
    loaded: bool
    current: bool


@dataclass(frozen=True, slots=True)
class EdgeStatus:
    """One edge. ``version`` answers there now, ``wanted`` should; ``reason`` says why it does not."""

    edge: str
    status: Status
    version: str | None
    wanted: str | None
    group: str | None
    since: datetime | None
    code: str | None
    reason: str | None
    exceeded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """``edges``: the worst first, up to a thousand; ``counts`` are of all. ``here``: the version in the memory of the
    client that asks, and which of its resources it exceeded there.
    """

    pipeline: str
    status: Status
    edges: tuple[EdgeStatus, ...]
    here: str | None
    here_exceeded: tuple[str, ...] = ()
    counts: Mapping[Status, int] = field(default_factory=dict)


class AsyncPipeline:
    """One pipeline in the home of a connection. Made by ``connection.pipeline(name)``, which asks nobody."""

    def __init__(self, connection: AsyncConnection, name: str) -> None:
        self._connection = connection
        self.name = name

    # --- editing ------------------------------------------------------------------------------------------------

    async def create(self) -> Self:
        await self._ask("pipeline:create(:name)")
        return self

    async def add_model_step(self, model: str, version: str) -> Self:
        return await self._add("pipeline:add_model_step(:name, :model, :version)", model=model, version=version)

    async def add_pql_step(self, expression: str) -> Self:
        return await self._add("pipeline:add_pql_step(:name, :expression)", expression=expression)

    async def replace_model_step(self, step: int, model: str, version: str) -> Self:
        text = "pipeline:replace_model_step(:name, :step, :model, :version)"
        await self._ask(text, step=step, model=model, version=version)
        return self

    async def add_random_split(self, choices: Sequence[tuple[float, Model]], *, hash_key: str | None = None) -> Self:
        told = [{"weight": weight, "model": _named(model)} for weight, model in choices]
        if hash_key is None:
            return await self._add("pipeline:add_random_split(:name, :choices)", choices=told)
        return await self._add("pipeline:add_random_split(:name, :choices, :key)", choices=told, key=hash_key)

    async def add_key_split(self, default: Model, key: str, choices: Mapping[str, Model]) -> Self:
        return await self._add(
            "pipeline:add_key_split(:name, :default, :key, :choices)",
            default=_named(default),
            key=key,
            choices={value: _named(model) for value, model in choices.items()},
        )

    async def add_shadow(self, champion: Model, challengers: Sequence[Model]) -> Self:
        return await self._add(
            "pipeline:add_shadow(:name, :champion, :challengers)",
            champion=_named(champion),
            challengers=[_named(model) for model in challengers],
        )

    async def add_validation(self, validation: str, condition: str) -> Self:
        text = "pipeline:add_validation(:name, :validation, :condition)"
        return await self._add(text, validation=validation, condition=condition)

    async def remove_validation(self, validation: str) -> Self:
        await self._ask("pipeline:remove_validation(:name, :validation)", validation=validation)
        return self

    async def remove_step(self, step: int) -> Self:
        await self._ask("pipeline:remove_step(:name, :step)", step=step)
        return self

    async def clear(self) -> Self:
        """Take all steps and validations away."""
        await self._ask("pipeline:clear(:name)")
        return self

    async def remove(self) -> None:
        """Forget the pipeline and its versions in this home; releases stay."""
        await self._ask("pipeline:remove(:name)")

    async def steps(self) -> list[dict[str, Any]]:
        """As ``pipeline:steps`` shows them."""
        return list(await self._ask("pipeline:steps(:name)"))

    async def validations(self) -> dict[str, str]:
        """Name and condition."""
        return dict(await self._ask("pipeline:validations(:name)"))

    # --- versions and deployment --------------------------------------------------------------------------------

    async def make_version(self) -> str:
        """Check that the steps fit each other; the version that they are."""
        return str((await self._ask("pipeline:make_version(:name)"))["version"])

    async def versions(self) -> list[PipelineVersion]:
        """The oldest first."""
        told = await self._ask("pipeline:versions(:name)")
        return [_read(PipelineVersion, one, models=tuple(one["models"])) for one in told]

    async def deploy(
        self,
        *,
        group: str | None = None,
        groups: Sequence[str] = (),
        version: str | None = None,
        cpus: float | Kept | None = KEPT,
        memory: str | int | Kept | None = KEPT,
        replicas: int | Kept | None = KEPT,
        batch: bool | Mapping[str, Any] | Kept | None = KEPT,
        log: Mapping[str, Any] | Kept | None = KEPT,
    ) -> Deployed:
        """Make a version, or take an earlier one, and put it to work: in groups, or without any in this peer's memory.

        What it may take stays as it was told last; None takes that back.
        """
        options: dict[str, Any] = _places(group, groups)
        if version is not None:
            options["version"] = version
        taken = {"cpus": cpus, "memory": memory, "replicas": replicas, "batch": batch, "log": log}
        options |= {key: value for key, value in taken.items() if value is not KEPT}
        told = await self._ask("pipeline:deploy(:name, :options)", options=options)
        return Deployed(told["pipeline"], told["version"], tuple(one["group"] for one in told.get("groups", ())))

    async def undeploy(self, *, group: str | None = None, groups: Sequence[str] = ()) -> None:
        """Take it from groups, or without any out of this peer's memory."""
        await self._ask("pipeline:undeploy(:name, :options)", options=_places(group, groups))

    async def status(self) -> PipelineStatus:
        told = await self._ask("pipeline:status(:name)")
        edges = tuple(_read(EdgeStatus, edge, exceeded=tuple(edge["exceeded"])) for edge in told["edges"])
        return PipelineStatus(
            told["pipeline"],
            told["status"],
            edges,
            told.get("here"),
            tuple(told.get("here_exceeded", ())),
            told.get("counts", {}),
        )

    async def wait(self, *, timeout_s: float = 60.0) -> PipelineStatus:
        """Ask until it runs wherever it should. Raises :class:`PipelineNotRunning` at the first edge that could not
        load it, and when the time is over.
        """
        found: PipelineStatus | None = None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = await self.status()
                    if found.status == "Running":
                        return found
                    if found.status in ("Error", "Undeployed"):
                        break
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            pass
        raise _not_running(self.name, found, timeout_s)

    async def infer(
        self, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, peer: str | None = None
    ) -> list[dict[str, Any]]:
        """A record for each row: ``time in out anomaly metadata``. ``peer``: where it runs; without, here."""
        given = dict(rows) if isinstance(rows, Mapping) else [dict(row) for row in rows]
        params = {"name": self.name, "rows": given}
        return await self._connection.values("pipeline:infer(:name, :rows)", params=params, peer=peer)

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _ask(self, text: str, **params: Any) -> Any:
        return await self._connection.value(text, params={"name": self.name, **params})

    async def _add(self, text: str, **params: Any) -> Self:
        await self.create()
        await self._ask(text, **params)
        return self


class Waits(Protocol):
    """Runs a coroutine of the connection to its end."""

    def __call__(self, coroutine: Coroutine[Any, Any, _T]) -> _T: ...


class Pipeline:
    """The synchronous form of :class:`AsyncPipeline`: same calls, same meanings."""

    def __init__(self, pipeline: AsyncPipeline, wait: Waits) -> None:
        self._pipeline = pipeline
        self._wait = wait

    @property
    def name(self) -> str:
        return self._pipeline.name

    def create(self) -> Self:
        self._wait(self._pipeline.create())
        return self

    def add_model_step(self, model: str, version: str) -> Self:
        self._wait(self._pipeline.add_model_step(model, version))
        return self

    def add_pql_step(self, expression: str) -> Self:
        self._wait(self._pipeline.add_pql_step(expression))
        return self

    def replace_model_step(self, step: int, model: str, version: str) -> Self:
        self._wait(self._pipeline.replace_model_step(step, model, version))
        return self

    def add_random_split(self, choices: Sequence[tuple[float, Model]], *, hash_key: str | None = None) -> Self:
        self._wait(self._pipeline.add_random_split(choices, hash_key=hash_key))
        return self

    def add_key_split(self, default: Model, key: str, choices: Mapping[str, Model]) -> Self:
        self._wait(self._pipeline.add_key_split(default, key, choices))
        return self

    def add_shadow(self, champion: Model, challengers: Sequence[Model]) -> Self:
        self._wait(self._pipeline.add_shadow(champion, challengers))
        return self

    def add_validation(self, validation: str, condition: str) -> Self:
        self._wait(self._pipeline.add_validation(validation, condition))
        return self

    def remove_validation(self, validation: str) -> Self:
        self._wait(self._pipeline.remove_validation(validation))
        return self

    def remove_step(self, step: int) -> Self:
        self._wait(self._pipeline.remove_step(step))
        return self

    def clear(self) -> Self:
        self._wait(self._pipeline.clear())
        return self

    def remove(self) -> None:
        self._wait(self._pipeline.remove())

    def steps(self) -> list[dict[str, Any]]:
        return self._wait(self._pipeline.steps())

    def validations(self) -> dict[str, str]:
        return self._wait(self._pipeline.validations())

    def make_version(self) -> str:
        return self._wait(self._pipeline.make_version())

    def versions(self) -> list[PipelineVersion]:
        return self._wait(self._pipeline.versions())

    def deploy(
        self,
        *,
        group: str | None = None,
        groups: Sequence[str] = (),
        version: str | None = None,
        cpus: float | Kept | None = KEPT,
        memory: str | int | Kept | None = KEPT,
        replicas: int | Kept | None = KEPT,
        batch: bool | Mapping[str, Any] | Kept | None = KEPT,
        log: Mapping[str, Any] | Kept | None = KEPT,
    ) -> Deployed:
        return self._wait(
            self._pipeline.deploy(
                group=group,
                groups=groups,
                version=version,
                cpus=cpus,
                memory=memory,
                replicas=replicas,
                batch=batch,
                log=log,
            )
        )

    def undeploy(self, *, group: str | None = None, groups: Sequence[str] = ()) -> None:
        self._wait(self._pipeline.undeploy(group=group, groups=groups))

    def status(self) -> PipelineStatus:
        return self._wait(self._pipeline.status())

    def wait(self, *, timeout_s: float = 60.0) -> PipelineStatus:
        return self._wait(self._pipeline.wait(timeout_s=timeout_s))

    def infer(
        self, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, peer: str | None = None
    ) -> list[dict[str, Any]]:
        return self._wait(self._pipeline.infer(rows, peer=peer))


def _read(kind: type[_T], record: Mapping[str, Any], **changed: Any) -> _T:
    """What is known here of a record, which a newer peer may say more in."""
    known = {name: value for name, value in record.items() if name in kind.__annotations__}
    return kind(**{**known, **changed})


def _named(model: Model) -> str:
    return model if isinstance(model, str) else "@".join(model)


def _places(group: str | None, groups: Sequence[str]) -> dict[str, Any]:
    places: dict[str, Any] = {} if group is None else {"group": group}
    return places | ({"groups": list(groups)} if groups else {})


def _not_running(name: str, found: PipelineStatus | None, timeout_s: float) -> PipelineNotRunning:
    if found is None:
        return PipelineNotRunning(f'nobody told within {timeout_s:g} s how pipeline "{name}" stands')
    missing = [edge for edge in found.edges if edge.status != "Running"]
    told = "; ".join(f"{edge.edge} {edge.status}: {edge.reason or 'no reason told'}" for edge in missing[:4])
    within = f" within {timeout_s:g} s" if found.status == "Starting" else ""
    problem = PipelineNotRunning(f'pipeline "{name}" does not run{within}: {told or found.status}')
    problem.status = found
    return problem
