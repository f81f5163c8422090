"""Pipelines in a home's folder: edited, versions kept for good, and what a damaged file does."""

import os
import threading
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from federation.names import BadName
from federation.pipelines import BadPipeline, ModelStep, PipelineDefinition, Validation, version_of
from peers import pipeline_drafts
from peers.pipeline_drafts import VERSIONS_MAX, BadPipelineFile, PipelineDrafts
from query.errors import LimitExceeded, UnknownName
from tests.pipelines.defining import DOUBLE, TRIPLE, ref_of

D, T = ModelStep(ref_of(DOUBLE)), ModelStep(ref_of(TRIPLE))


def with_steps(*steps: ModelStep) -> PipelineDefinition:
    return PipelineDefinition(name="pipe", steps=steps)


@pytest.fixture
def drafts(tmp_path: Path) -> PipelineDrafts:
    made = PipelineDrafts(tmp_path / "pipelines")
    assert made.create("pipe")
    return made


def test_what_is_edited_is_there_afterwards_and_for_others(drafts: PipelineDrafts, tmp_path: Path) -> None:
    assert drafts.change("pipe", lambda draft: replace(draft, steps=(*draft.steps, D))) == with_steps(D)
    assert not drafts.create("pipe")
    again = PipelineDrafts(tmp_path / "pipelines")
    assert again.names() == ("pipe",)
    assert again.draft("pipe") == with_steps(D)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "pipelines").rglob("*")}
    assert set(modes.values()) <= {0o600, 0o700}


def test_an_edit_that_raises_changes_nothing(drafts: PipelineDrafts) -> None:
    twice = (Validation("a", "true"), Validation("a", "false"))
    with pytest.raises(BadPipeline, match='"a" of pipeline "pipe" stands twice'):
        drafts.change("pipe", lambda draft: replace(draft, validations=twice))
    assert drafts.draft("pipe") == with_steps()


def test_versions_are_made_once(drafts: PipelineDrafts, tmp_path: Path) -> None:
    first = drafts.keep(with_steps(D), now=10.0)
    second = drafts.keep(with_steps(D, T), now=20.0)
    assert drafts.keep(with_steps(D), now=30.0) == first
    assert drafts.versions("pipe") == (first, second)
    assert drafts.version("pipe", version_of(with_steps(D))) == first
    assert drafts.version("pipe", "../draft") is None
    assert drafts.version("pipe", "nothing") is None
    assert (first.created, second.version) == (10, version_of(with_steps(D, T)))


def test_versions_of_one_second_stay_in_their_order(drafts: PipelineDrafts, tmp_path: Path) -> None:
    steps = [with_steps(*[D] * count) for count in range(1, 6)]
    for number, definition in enumerate(steps):
        drafts.keep(definition, now=10.0)
        path = tmp_path / "pipelines" / "pipe" / "versions" / f"{version_of(definition)}.json"
        os.utime(path, ns=(number, number))
    assert [kept.definition for kept in drafts.versions("pipe")] == steps


def test_two_writers_lose_nothing(drafts: PipelineDrafts) -> None:
    def add(number: int) -> None:
        one = Validation(f"v{number}", "true")
        drafts.change("pipe", lambda draft: replace(draft, validations=(*draft.validations, one)))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.name for one in drafts.draft("pipe").validations} == {f"v{number}" for number in range(20)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no definition of a pipeline"),
        (b"\xff", "is no definition of a pipeline"),
        (b"[" * 100_000, "is no definition of a pipeline"),
        (b'{"name": "pipe", "steps": [{"step": "magic"}]}', "is no definition of a pipeline: Invalid value 'magic'"),
        (b'{"name": "pipe", "more": 1}', "unknown field"),
        (b'{"name": "other"}', 'expected the name "pipe" of its folder, found "other"'),
        (b'{"name": "pipe", "validations": [{"name": "count", "condition": "true"}]}', '"count" of pipeline'),
        (b" " * (1024 * 1024 + 1), "expected at most 1048576 bytes"),
    ],
)
def test_a_draft_that_is_none_is_named_and_can_be_removed(
    content: bytes, said: str, drafts: PipelineDrafts, tmp_path: Path
) -> None:
    path = tmp_path / "pipelines" / "pipe" / "draft.json"
    path.write_bytes(content)
    for ask in (drafts.draft, lambda name: drafts.change(name, lambda draft: draft)):
        with pytest.raises(BadPipelineFile, match=said) as caught:
            ask("pipe")
        assert str(path) in caught.value.message
    drafts.remove("pipe")
    assert drafts.names() == ()
    assert drafts.create("pipe")


def test_a_version_that_was_changed_is_none(drafts: PipelineDrafts, tmp_path: Path) -> None:
    kept = drafts.keep(with_steps(D), now=1.0)
    path = tmp_path / "pipelines" / "pipe" / "versions" / f"{kept.version}.json"
    path.write_bytes(msgspec.json.encode(replace(kept, definition=with_steps(T))))
    with pytest.raises(BadPipelineFile, match="expected the version of its name, found the definition of"):
        drafts.versions("pipe")


def test_a_file_that_nobody_may_read(drafts: PipelineDrafts, tmp_path: Path) -> None:
    path = tmp_path / "pipelines" / "pipe" / "draft.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(BadPipelineFile, match="cannot read"):
        drafts.draft("pipe")


def test_names(drafts: PipelineDrafts, tmp_path: Path) -> None:
    for name in ("Pipe", "../pipe", ".lock", "", "a" * 200):
        with pytest.raises(BadName):
            drafts.create(name)
    with pytest.raises(UnknownName, match='no pipeline "pipes" — did you mean "pipe"') as caught:
        drafts.draft("pipes")
    assert caught.value.hint == 'pipeline:create("pipes") begins one'
    assert sorted(path.name for path in (tmp_path / "pipelines").iterdir()) == [".lock", "pipe"]
    assert PipelineDrafts(tmp_path / "nowhere").names() == ()


def test_versions_are_bounded(drafts: PipelineDrafts, tmp_path: Path) -> None:
    folder = tmp_path / "pipelines" / "pipe" / "versions"
    for number in range(VERSIONS_MAX):
        (folder / f"{number}.json").touch()
    with pytest.raises(LimitExceeded, match=f"has {VERSIONS_MAX} versions"):
        drafts.keep(with_steps(D), now=1.0)


def test_pipelines_are_bounded(tmp_path: Path) -> None:
    for number in range(pipeline_drafts.PIPELINES_MAX):
        (tmp_path / f"p{number}").mkdir()
    with pytest.raises(LimitExceeded, match="the most it can have"):
        PipelineDrafts(tmp_path).create("one-more")
