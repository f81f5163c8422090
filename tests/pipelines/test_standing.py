"""How a pipeline stands on an edge, from what is wanted, what is loaded and what the edge says."""

import pytest

from federation.documents import LoadedEntry, LoadError
from federation.explanation import Waiting
from federation.names import digest_of
from federation.pipeline_standing import (
    EDGES_TOLD_MAX,
    EdgeStanding,
    Status,
    WantedVersion,
    standing_of,
    status_record,
    summary,
)

OLD, NEW = digest_of(b"old"), digest_of(b"new")
WANTED = WantedVersion("v2", NEW, "lab")
TOLD = Waiting("in_progress", "on its way")


def loaded(version: str, record: str = NEW, origin: str = "group") -> LoadedEntry:
    return LoadedEntry("pipe", version, record, origin, 100)  # type: ignore[arg-type]


def error(version: str, code: str = "over_memory", since: int = 5) -> LoadError:
    return LoadError(f"pipe@{version}", code, f"{code} of {version}", since)


@pytest.mark.parametrize(
    ("wanted", "present", "errors", "waiting", "status", "code"),
    [
        (WANTED, loaded("v2"), [], None, "Running", None),
        (WANTED, loaded("v2"), [error("v2", "revoked_key")], None, "Running", "revoked_key"),
        (WANTED, loaded("v2"), [error("v1")], None, "Running", None),
        (WANTED, None, [], TOLD, "Starting", "in_progress"),
        (WANTED, loaded("v1", OLD), [], TOLD, "Starting", "in_progress"),
        (WANTED, loaded("v1", OLD), [error("v2")], TOLD, "Error", "over_memory"),
        (WANTED, None, [error("v1"), error("v2")], TOLD, "Error", "over_memory"),
        (WANTED, None, [error("v1")], TOLD, "Starting", "in_progress"),
        (WANTED, loaded("v2", OLD), [], TOLD, "Starting", "in_progress"),
        (None, loaded("v1", OLD), [], TOLD, "Stopping", "in_progress"),
        (None, loaded("v1", OLD, "manual"), [], None, "Running", None),
        (None, loaded("dev+0", OLD, "development"), [], None, "Running", None),
        (None, None, [error("v1", since=1), error("v2", "bad_record", since=9)], None, "Error", "bad_record"),
    ],
)
def test_one_edge(
    wanted: WantedVersion | None,
    present: LoadedEntry | None,
    errors: list[LoadError],
    waiting: Waiting | None,
    status: Status,
    code: str | None,
) -> None:
    found = standing_of("e1", wanted=wanted, loaded=present, errors=errors, waiting=waiting)
    assert (found.status, found.code) == (status, code)
    assert found.version == (present.version if present else None)
    assert found.wanted == (wanted.version if wanted else None)


@pytest.mark.parametrize(
    ("edges", "worst"),
    [
        ([], "Undeployed"),
        (["Running"], "Running"),
        (["Running", "Stopping"], "Stopping"),
        (["Running", "Starting"], "Starting"),
        (["Starting", "Error", "Running"], "Error"),
    ],
)
def test_all_edges(edges: list[Status], worst: Status) -> None:
    assert summary([EdgeStanding("e", status) for status in edges]) == worst


def test_of_very_many_edges_all_are_counted_and_the_worst_are_told() -> None:
    edges = [EdgeStanding(f"e{number}", "Running") for number in range(EDGES_TOLD_MAX)]
    told = status_record("pipe", [*edges, EdgeStanding("last", "Error"), EdgeStanding("late", "Starting")])
    assert told["counts"] == {"Error": 1, "Starting": 1, "Running": EDGES_TOLD_MAX}
    assert [edge["edge"] for edge in told["edges"][:3]] == ["LAST", "LATE", "E0"]
    assert len(told["edges"]) == EDGES_TOLD_MAX


def test_the_record() -> None:
    found = standing_of("e1", wanted=WANTED, loaded=loaded("v2"), exceeded=("memory",))
    told = status_record("pipe", [found], here="v1")
    assert (told["pipeline"], told["status"], told["here"]) == ("pipe", "Running", "v1")
    (edge,) = told["edges"]
    assert (edge["edge"], edge["since"].timestamp(), edge["exceeded"]) == ("E1", 100, ["memory"])
