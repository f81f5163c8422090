"""The functions about releases, models in memory and pipelines, composed of the parts of one peer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from federation.documents import RootRecord
from federation.keys import read_key
from federation.layout import ImageLayout
from peers.agent import Agent
from peers.development_functions import DevelopmentFunctions
from peers.homes import Home
from peers.memory import AgentMemory, PlainMemory
from peers.model_functions import ReleaseFunctions
from peers.pipeline_parts import composed_pipelines
from peers.pipeline_standings import Standings
from peers.publisher_keys import publisher_key
from peers.release_folders import ReleaseFolders
from peers.release_ports import ReleaseSite, Statements
from peers.remote_repositories import RemoteRepositories
from peers.repository_functions import RepositoryFunctions

if TYPE_CHECKING:
    from engine.engine import Engine


def composed_releases(
    home: Home,
    models: Path,
    layout: ImageLayout,
    *,
    site: ReleaseSite,
    remotes: RemoteRepositories,
    engine: Engine,
    memory: AgentMemory | PlainMemory,
    root: Callable[[], RootRecord],
    statements: Statements,
    agent: Agent | None,
    standings: Standings | None,
    load_on_demand: bool,
) -> tuple[object, ...]:
    """``models``: the folder of the user's models. ``load_on_demand``: requests may load what is installed."""
    from engine.functions import ModelFunctions
    from engine.template_folder import folders as model_folders

    identity = read_key(home.identity_key)
    folders = ReleaseFolders(models, identity=identity, root=root, trials=engine)
    releases = ReleaseFunctions(
        layout,
        site=site,
        publisher=lambda: publisher_key(home, root()),
        folders=folders,
        root=root,
        trials=engine,
        memory=memory,
    )
    repositories = RepositoryFunctions(
        layout,
        site=site,
        remotes=remotes,
        root=root,
        verified=releases.verified,
        memory=memory,
        needed=releases.needed,
        statements=statements,
    )
    if load_on_demand:
        memory.load_on_demand(releases.find_release, root=root)
    return (
        releases,
        repositories,
        DevelopmentFunctions(
            layout,
            site=site,
            identity=identity,
            folders=folders,
            root=root,
            memory=memory,
            needed=releases.needed,
            statements=statements,
        ),
        *composed_pipelines(
            home,
            layout,
            site=site,
            fetching=repositories,
            root=root,
            folders=lambda: tuple(model_folders(models)),
            memory=memory,
            statements=statements,
            agent=agent,
            standings=standings,
        ),
        ModelFunctions(engine, models_path=models, open_folder=folders.opened, find_release=releases.find_release),
    )
