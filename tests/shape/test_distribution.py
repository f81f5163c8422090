"""What is installed: the public names, the extras, the files that travel with the packages."""

import tomllib
from pathlib import Path

import peers

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_public_face_of_python_programs() -> None:
    assert sorted(peers.__all__) == [
        "Answer",
        "AsyncConnection",
        "Connection",
        "PartialAnswer",
        "Row",
        "connect",
        "connect_async",
    ]
    assert all(getattr(peers, name).__doc__ for name in peers.__all__)


APART = {"houses"}  # what stands in the way of others in one environment; pyproject.toml says how


def test_all_names_every_extra() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (everything,) = extras.pop("all")
    assert everything == f"peerage[{','.join(name for name in extras if name not in APART)}]"


def test_every_dependency_says_what_it_is_for() -> None:
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    start = lines.index("dependencies = [")
    stop = lines.index("]", start)
    assert [line for line in lines[start + 1 : stop] if "#" not in line] == []


def test_the_packages_carry_types_and_their_data() -> None:
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        assert "py.typed" in patterns
        for pattern in patterns:
            assert list((ROOT / package).glob(pattern)), f"{package} has no {pattern}"


def test_the_licence_is_the_whole_text() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
