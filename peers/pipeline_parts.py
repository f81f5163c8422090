"""The functions about pipelines, composed of the parts of one peer."""

from __future__ import annotations

from collections.abc import Callable

from federation.documents import RootRecord
from federation.keys import read_key
from federation.layout import ImageLayout
from peers.agent import Agent
from peers.homes import Home
from peers.memory import AgentMemory, PlainMemory
from peers.pipeline_deployment import PipelineDeployment
from peers.pipeline_drafts import PipelineDrafts
from peers.pipeline_functions import PipelineFunctions
from peers.pipeline_models import Fetching, StepModels
from peers.pipeline_releases import PipelineReleases
from peers.pipeline_standings import ClientStandings, EdgeStandings, Standings
from peers.publisher_keys import publisher_key
from peers.release_ports import ReleaseSite, Statements


def composed_pipelines(
    home: Home,
    layout: ImageLayout,
    *,
    site: ReleaseSite,
    fetching: Fetching,
    root: Callable[[], RootRecord],
    folders: Callable[[], tuple[str, ...]],
    memory: AgentMemory | PlainMemory,
    statements: Statements,
    agent: Agent | None,
    standings: Standings | None = None,
) -> tuple[object, ...]:
    """``folders``: the names of the model folders. ``standings`` is the nameserver's, which knows of every edge."""
    drafts = PipelineDrafts(home.pipelines)
    models = StepModels(layout, fetching, root=root, follow_root=site.follow_root, folders=folders)
    if standings is None and agent is not None:
        standings = EdgeStandings(agent, memory, drafts)
    elif standings is None:
        standings = ClientStandings(memory, drafts, statements)
    releases = PipelineReleases(
        drafts,
        models,
        layout,
        site=site,
        publisher=lambda: publisher_key(home, root()),
        identity=read_key(home.identity_key),
        root=root,
    )
    return (
        PipelineFunctions(drafts, models),
        PipelineDeployment(
            drafts,
            releases,
            layout,
            site=site,
            memory=memory,
            fetching=fetching,
            statements=statements,
            standings=standings,
        ),
    )
