"""What releases need of each other: conditions, and the releases that meet them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.names import BadName, digest_of
from federation.needs import (
    COMPARISONS_MAX,
    CONDITION_LENGTH_MAX,
    DEPTH_MAX,
    NEEDS_MAX,
    PINS_MAX,
    STEPS_MAX,
    BadNeeds,
    Candidate,
    NeedsUnmet,
    Standing,
    check_needs,
    resolve,
    satisfies,
)
from query.errors import LimitExceeded

Published = Callable[[str], Sequence[Candidate]]


def candidate(label: str, *, deprecated: bool = False, preferred: bool = False, **needs: str) -> Candidate:
    name, version = label.split("@")
    return Candidate(name, version, digest_of(label.encode()), needs, deprecated, preferred)


def among(*candidates: Candidate) -> Published:
    return lambda name: [one for one in candidates if one.name == name]


def found(wanted: Candidate, *candidates: Candidate, standing: Sequence[Standing] = ()) -> list[str]:
    (pins,) = resolve([wanted], among(wanted, *candidates), standing)
    return [pin.label for pin in pins]


@pytest.mark.parametrize(
    ("version", "condition", "met"),
    [
        ("1.2", ">=1.2", True),
        ("1.10", ">=1.2", True),
        ("1.1", ">=1.2", False),
        ("1.5", ">=1.2, <2", True),
        ("2.0", ">=1.2,<2", False),
        ("1.4.9", "~=1.4", True),
        ("1.0.0", "==1.0", True),
        ("1.7", "==1.*", True),
        ("2.0rc1", ">=1.2", False),
        ("2.0rc1", ">=2.0rc1", True),
        ("spring", "==spring", True),
        ("spring", "== spring", True),
        ("autumn", "==spring", False),
        ("spring", ">=1", False),
        ("1.2", "==spring", False),
        ("1.2", "no condition", False),
    ],
)
def test_a_version_meets_a_condition(version: str, condition: str, met: bool) -> None:
    assert satisfies(version, condition) is met


@pytest.mark.parametrize("condition", ["", " ", "1.2", "latest", ">=", "=1", ">=spring", "==a b", ">=1,,<2", "*"])
def test_what_is_no_condition_is_told(condition: str) -> None:
    with pytest.raises(BadNeeds, match="is no condition on features: expected one on versions"):
        check_needs("a", {"features": condition})


def test_needs_are_bounded_and_of_others() -> None:
    with pytest.raises(BadNeeds, match='"a" needs itself'):
        check_needs("a", {"a": ">=1"})
    with pytest.raises(BadName):
        check_needs("a", {"Features!": ">=1"})
    check_needs("a", {f"m{number}": ">=1" for number in range(NEEDS_MAX)})
    with pytest.raises(LimitExceeded):
        check_needs("a", {f"m{number}": ">=1" for number in range(NEEDS_MAX + 1)})
    with pytest.raises(BadNeeds, match="characters"):
        check_needs("a", {"b": ">=1" + "0" * CONDITION_LENGTH_MAX})


def test_the_newest_version_is_taken_and_comes_first_in_the_order_of_loading() -> None:
    a = candidate("a@1", b=">=2")
    b = candidate("b@2.1", c=">=1")
    assert found(a, candidate("c@1.9"), candidate("c@1.10"), b, candidate("b@1")) == ["c@1.10", "b@2.1"]


def test_a_deprecated_version_is_taken_only_when_nothing_else_does() -> None:
    old, new = candidate("b@1"), candidate("b@2", deprecated=True)
    assert found(candidate("a@1", b=">=1"), old, new) == ["b@1"]
    assert found(candidate("a@1", b=">=2"), old, new) == ["b@2"]


def test_what_edges_are_assigned_already_is_taken_before_the_newest() -> None:
    present = candidate("b@1.2", preferred=True)
    assert found(candidate("a@1", b=">=1"), present, candidate("b@3")) == ["b@1.2"]
    assert found(candidate("a@1", b=">=2"), present, candidate("b@3")) == ["b@3"]


def test_a_choice_that_leads_nowhere_is_taken_back() -> None:
    a = candidate("a@1", b=">=1", c="<2")
    newest, older = candidate("b@2", c=">=2"), candidate("b@1", c=">=1")
    assert found(a, newest, older, candidate("c@1"), candidate("c@2")) == ["c@1", "b@1"]


def refusal(wanted: Sequence[Candidate], *candidates: Candidate, standing: Sequence[Standing] = ()) -> str:
    with pytest.raises(NeedsUnmet) as refused:
        resolve(wanted, among(*wanted, *candidates), standing)
    return refused.value.message


def test_a_refusal_has_the_chain_that_leads_to_it() -> None:
    a, b = candidate("a@1.0", b=">=2"), candidate("b@2.1", c="<1")
    assert (
        refusal([a], b, candidate("c@1.0"), candidate("c@1.2"))
        == "b@2.1 needs c<1, wanted by a@1.0 (b>=2): there are c@1.0, c@1.2"
    )
    assert refusal([a], b) == "b@2.1 needs c<1, wanted by a@1.0 (b>=2): there is no c"


def test_a_conflict_is_told_with_both_chains() -> None:
    a = candidate("a@1", b=">=1", c=">=2")
    told = refusal([a], candidate("b@1", c="<2"), candidate("c@1"), candidate("c@2"))
    assert told == "a@1 needs c>=2, and b@1 needs c<2, wanted by a@1 (b>=1): there are c@1, c@2"


def test_a_circle_is_refused_with_its_releases() -> None:
    told = refusal([candidate("a@1", b=">=1")], candidate("b@1", c=">=1"), candidate("c@1", a=">=1"))
    assert told == "a@1 needs b@1 needs c@1 needs a@1: a circle cannot be loaded"
    assert found(candidate("a@1", b=">=1"), candidate("b@2", a=">=1"), candidate("b@1")) == ["b@1"]


def test_what_is_asked_for_together_stands_and_is_needed_in_order() -> None:
    a, b = candidate("a@1", b=">=1"), candidate("b@1")
    pins = resolve([b, a], among(a, b, candidate("b@2")))
    assert [[pin.label for pin in one] for one in pins] == [[], ["b@1"]]
    assert refusal([candidate("a@1", b=">=2"), b], candidate("b@2")) == "a@1 needs b>=2: b@1 is asked for"


def test_what_stands_on_edges_is_respected_or_told() -> None:
    standing = [Standing("q", "c", "<2", 'q@1 of group "line"')]
    one, two = candidate("c@1"), candidate("c@2")
    assert found(candidate("a@1", c=">=1"), one, two, standing=standing) == ["c@1"]
    told = refusal([candidate("a@1", c=">=2")], one, two, standing=standing)
    assert told == 'a@1 needs c>=2, and q@1 of group "line" needs c<2: there are c@1, c@2'
    replaced = candidate("a@1", c=">=2", q=">=1")
    assert found(replaced, one, two, candidate("q@2"), standing=standing) == ["c@2", "q@2"]


def test_chains_counts_and_tries_are_bounded() -> None:
    def row(length: int) -> list[Candidate]:
        needing = [candidate(f"m{n}@1", **{f"m{n + 1}": ">=1"}) for n in range(length)]
        return [*needing, candidate(f"m{length}@1")]

    assert len(found(*row(DEPTH_MAX - 1))) == DEPTH_MAX - 1
    with pytest.raises(LimitExceeded, match="in a row"):
        found(*row(DEPTH_MAX + 2))
    wide = [candidate(f"w{n}@1", **{f"w{n}-{k}": ">=1" for k in range(20)}) for n in range(5)]
    leaves = [candidate(f"w{n}-{k}@1") for n in range(5) for k in range(20)]
    with pytest.raises(LimitExceeded, match=f"at most {PINS_MAX}"):
        found(candidate("a@1", **{f"w{n}": ">=1" for n in range(5)}), *wide, *leaves)
    many = [candidate(f"t{n}@{version}") for n in range(8) for version in range(8)]
    hopeless = candidate("last@1", none=">=1")
    with pytest.raises(LimitExceeded, match=str(STEPS_MAX)):
        found(candidate("a@1", **{f"t{n}": ">=0" for n in range(8)}, last=">=1"), *many, hopeless)


def test_versions_and_conditions_without_number_do_not_take_the_peer_s_time() -> None:
    """As a publisher could make them: each version of one model asks for another of a model with many."""
    many = [candidate(f"z@{version}") for version in range(1_000)]
    asking = [candidate(f"{name}@{version}", z=f">={1_000 + version}") for name in "bc" for version in range(1_000)]
    with pytest.raises(LimitExceeded, match=f"{COMPARISONS_MAX} comparisons"):
        found(candidate("a@1", b=">=0", c=">=0"), *asking, *many)


NAMES = ("a", "b", "c", "d", "e")
CONDITIONS = (">=1", ">=2", "<2", "==1", "==2", "<3", ">=1,<3", "==3")


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Candidate, ...]:
    made = []
    for name in NAMES:
        others = [other for other in NAMES if other != name]
        for version in ("1", "2", "3")[: draw(st.integers(1, 3))]:
            needs: Mapping[str, str] = draw(
                st.dictionaries(st.sampled_from(others), st.sampled_from(CONDITIONS), max_size=2)
            )
            made.append(candidate(f"{name}@{version}", deprecated=draw(st.booleans()), **needs))
    return tuple(made)


@settings(max_examples=300, deadline=None)
@given(worlds(), st.integers(0, 14))
def test_an_answer_meets_every_need_in_order_and_a_refusal_is_right(world: tuple[Candidate, ...], index: int) -> None:
    wanted = world[index % len(world)]
    try:
        (pins,) = resolve([wanted], among(*world))
    except NeedsUnmet:
        assert not possible({wanted.name: wanted}, world)
        return
    loaded: dict[str, str] = {}
    for release in (*pins, wanted):
        assert release.name not in loaded
        for name, condition in release.needs.items():
            assert satisfies(loaded[name], condition)
        loaded[release.name] = release.version


def possible(chosen: dict[str, Candidate], world: tuple[Candidate, ...]) -> bool:
    """By trying everything: whether there is any set of releases that holds and can be loaded in an order."""
    for owner in chosen.values():
        for name, condition in owner.needs.items():
            present = chosen.get(name)
            if present is not None and not satisfies(present.version, condition):
                return False
            if present is None:
                fitting = (one for one in world if one.name == name and satisfies(one.version, condition))
                return any(possible(chosen | {name: one}, world) for one in fitting)
    loaded: set[str] = set()
    while len(loaded) < len(chosen):
        ready = {name for name, one in chosen.items() if name not in loaded and one.needs.keys() <= loaded}
        if not ready:
            return False
        loaded |= ready
    return True
