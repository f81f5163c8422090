"""The guides of the documentation: every command is typed as they show it, and prints what they show."""

from pathlib import Path

import pytest

from tests.demo.terminal import terminal
from tests.repository import registries

DOCS = Path(__file__).parents[2] / "docs"


def test_the_guide_to_keys(tmp_path: Path) -> None:
    with terminal(tmp_path) as place:
        place.play(DOCS / "keys.md")


def test_the_guide_to_devices_without_a_network(tmp_path: Path) -> None:
    with terminal(tmp_path) as place:
        place.play(DOCS / "autonomous.md")


@pytest.mark.timeout(300)
def test_the_guide_to_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registries.program("skopeo")
    with registries.docker_registry(tmp_path / "hub", password=True) as hub, terminal(tmp_path) as place:
        monkeypatch.setenv("HUB", hub.address)
        place.play(DOCS / "repositories.md")


def test_the_guide_to_asking_directly(tmp_path: Path) -> None:
    with terminal(tmp_path) as place:
        place.play(DOCS / "direct.md")


def test_the_guide_to_backups(tmp_path: Path) -> None:
    with terminal(tmp_path) as place:
        place.play(DOCS / "backup.md")


def test_the_guide_to_serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registries.program("curl")
    monkeypatch.setenv("EXAMPLES", str(DOCS.parent / "examples"))
    with terminal(tmp_path) as place:
        place.play(DOCS / "serving.md")


def test_the_guide_to_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registries.program("curl")
    monkeypatch.setenv("EXAMPLES", str(DOCS.parent / "examples"))
    with terminal(tmp_path) as place:
        place.play(DOCS / "pipelines.md")


def test_the_guide_to_the_inference_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registries.program("curl")
    monkeypatch.setenv("EXAMPLES", str(DOCS.parent / "examples"))
    with terminal(tmp_path) as place:
        place.play(DOCS / "inference-log.md")
