"""What a release needs of others: conditions on versions, and the releases that meet them all together.

A record's ``needs.releases`` maps names of models to conditions in the form of Python's version specifiers
(https://packaging.python.org/en/latest/specifications/version-specifiers/): ``>=1.2``, ``<2``, ``==1.*``, ``~=1.4``,
joined by commas. ``==X`` takes any text for X and then matches that version alone; a version that is no PEP 440
version is matched by nothing else. A preliminary version (``2.0rc1``) is taken only where a condition names one.

Pure. Owns what a condition means and the choice of releases; refuses to know groups and edges. Rules:

- Of the versions that meet every condition the newest is taken, what edges are assigned already before it, and a
  deprecated one only when nothing else does.
- A choice that leads nowhere is taken back, within ``STEPS_MAX`` tries and ``COMPARISONS_MAX`` comparisons. A refusal
  has the chain that leads to it.
- The order of the answer is that of loading: what others need comes first. Circles are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from federation.names import Digest, checked_model, is_version
from query.errors import LimitExceeded, UserProblem

if TYPE_CHECKING:
    from packaging.specifiers import Specifier, SpecifierSet
    from packaging.version import Version

NEEDS_MAX: Final = 32  # of one release
CONDITION_LENGTH_MAX: Final = 120
DEPTH_MAX: Final = 16  # releases in one chain
PINS_MAX: Final = 64  # releases that one call brings along
STEPS_MAX: Final = 5_000  # releases looked at for one call
COMPARISONS_MAX: Final = 250_000  # of a version with a condition for one call: a second's work
SHOWN_MAX: Final = 8  # versions named in a refusal


class BadNeeds(UserProblem):
    """Needs that no release could meet, as they are written."""

    code = "bad_needs"


class NeedsUnmet(UserProblem):
    """A release whose needs are not met; the message is the chain that leads there."""

    code = "needs_unmet"
    model: str = ""


class StillNeeded(UserProblem):
    """A change that would take from a model what it needs."""

    code = "still_needed"


class Candidate(Struct, frozen=True):
    """A release that may be chosen. ``needs``: model → condition. ``preferred``: edges are assigned it already."""

    name: str
    version: str
    record: Digest
    needs: Mapping[str, str] = {}
    deprecated: bool = False
    preferred: bool = False

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class Standing(Struct, frozen=True):
    """A condition of what stays: ``owner``, a model that is there already, needs ``name``. ``chain`` says whose it is.

    It counts unless the owner itself is replaced by what is chosen.
    """

    owner: str
    name: str
    condition: str
    chain: str


class _Wish(Struct, frozen=True):
    """A need of the release ``by``, and what led there: ``a@1.0 (b>=2)``, the nearest first."""

    name: str
    condition: str
    by: str
    way: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "".join((f"{self.by} needs {self.name}{self.condition}", *(f", wanted by {one}" for one in self.way)))


# --- conditions ------------------------------------------------------------------------------------------------------


def check_needs(name: str, releases: Mapping[str, str]) -> None:
    """That needs can be met at all. Raises :class:`BadNeeds`, ``BadName``, ``LimitExceeded``."""
    if len(releases) > NEEDS_MAX:
        raise LimitExceeded(f"{name} needs {len(releases)} models: expected at most {NEEDS_MAX}")
    for needed, condition in releases.items():
        checked_model(needed)
        if needed == name:
            raise BadNeeds(f'"{name}" needs itself: expected the names of other models')
        check_condition(needed, condition)


def check_condition(needed: str, condition: str) -> None:
    """Raises :class:`BadNeeds` for what is no condition on versions."""
    expected = 'expected one on versions, as ">=1.2", ">=1.2,<2" or "==1.2"'
    if len(condition) > CONDITION_LENGTH_MAX:
        raise BadNeeds(f"a condition on {needed} of {len(condition)} characters: expected {CONDITION_LENGTH_MAX}")
    if _read(condition) is None:
        raise BadNeeds(f'"{condition}" is no condition on {needed}: {expected}')


def satisfies(version: str, condition: str) -> bool:
    """Whether a version meets a condition. One that cannot be read is met by nothing."""
    read = _read(condition)
    if read is None:
        return False
    exact, rest = read
    if any(text != version for text in exact):
        return False
    if not rest:
        return True
    parsed = parsed_version(version)
    return parsed is not None and rest.contains(parsed, prereleases=bool(rest.prereleases))


@lru_cache(maxsize=1024)
def _read(condition: str) -> tuple[tuple[str, ...], SpecifierSet] | None:
    """Versions that are meant by their very text, and everything else; None for what is no condition."""
    from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet

    exact: list[str] = []
    others: list[Specifier] = []
    for clause in condition.split(","):
        stripped = clause.strip()
        text = stripped.removeprefix("==").strip()
        by_text = stripped.startswith("==") and not stripped.startswith("===")
        if by_text and is_version(text) and parsed_version(text) is None:
            exact.append(text)
            continue
        try:
            others.append(Specifier(stripped))
        except InvalidSpecifier:
            return None
    return tuple(exact), SpecifierSet(",".join(map(str, others)))


@lru_cache(maxsize=4096)
def parsed_version(version: str) -> Version | None:
    """A version as PEP 440 has it, None for any other text."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version)
    except InvalidVersion:
        return None


# --- choosing --------------------------------------------------------------------------------------------------------


def resolve(
    wanted: Sequence[Candidate],
    published: Callable[[str], Iterable[Candidate]],
    standing: Sequence[Standing] = (),
) -> tuple[tuple[Candidate, ...], ...]:
    """For each of ``wanted``, which stand together, what it needs, directly or through others, in the order of loading.

    ``published`` gives the releases of a model, in the order of publishing. Raises :class:`NeedsUnmet` with the chain,
    :class:`BadNeeds`, ``LimitExceeded``.
    """
    if not any(candidate.needs for candidate in wanted):
        return tuple(() for _ in wanted)
    for candidate in wanted:
        check_needs(candidate.name, candidate.needs)
    chosen = {candidate.name: candidate for candidate in wanted}
    found = _Search(published, standing, frozenset(chosen)).found(chosen)
    return tuple(_ordered(candidate, found) for candidate in wanted)


class _Search:
    """One resolution: depth first, the best candidate first, one choice taken back at a time."""

    def __init__(
        self, published: Callable[[str], Iterable[Candidate]], standing: Sequence[Standing], fixed: frozenset[str]
    ) -> None:
        self._published = published
        self._standing = standing
        self._fixed = fixed
        self._steps = 0
        self._comparisons = 0
        self._fitting: dict[tuple[str, tuple[str, ...]], tuple[Candidate, ...]] = {}
        self._known: dict[str, tuple[Candidate, ...]] = {}

    def found(self, chosen: dict[str, Candidate]) -> dict[str, Candidate]:
        wishes = [wish for candidate in chosen.values() for wish in _wishes(candidate, None)]
        return self._complete(chosen, tuple(wishes))

    def _complete(self, chosen: dict[str, Candidate], wishes: tuple[_Wish, ...]) -> dict[str, Candidate]:
        """Every wish met, or the first refusal that was come upon."""
        if len(chosen) > len(self._fixed) + PINS_MAX:
            raise LimitExceeded(f"{wishes[0]}: expected at most {PINS_MAX} releases that are needed")
        for wish in wishes:
            present = chosen.get(wish.name)
            if present is not None and not self._meets(present.version, wish.condition):
                raise self._conflict(wish, present, wishes)
        open_wish = next((wish for wish in wishes if wish.name not in chosen), None)
        if open_wish is None:
            self._check_standing(chosen)
            _check_circles(chosen, self._fixed)
            return chosen
        refused: NeedsUnmet | None = None
        for candidate in self._candidates(open_wish, chosen, wishes):
            self._steps += 1
            if self._steps > STEPS_MAX:
                raise LimitExceeded(f"{open_wish}: no answer after looking at {STEPS_MAX} releases")
            try:
                further = _wishes(candidate, open_wish)
                return self._complete(chosen | {candidate.name: candidate}, (*wishes, *further))
            except NeedsUnmet as problem:
                refused = refused or problem
        raise refused or self._nothing(open_wish, wishes)

    def _candidates(self, wish: _Wish, chosen: Mapping[str, Candidate], wishes: Sequence[_Wish]) -> list[Candidate]:
        conditions = tuple(dict.fromkeys(other.condition for other in wishes if other.name == wish.name))
        standing = [one for one in self._standing if one.name == wish.name and one.owner not in chosen]
        fitting = self._fitting.get((wish.name, conditions))
        if fitting is None:
            fitting = self._fitting[wish.name, conditions] = tuple(
                candidate
                for candidate in self._all(wish.name)
                if all(self._meets(candidate.version, condition) for condition in conditions)
            )

        def worse(candidate: Candidate) -> tuple[bool, bool, bool]:
            breaks = any(not self._meets(candidate.version, one.condition) for one in standing)
            return breaks, not candidate.preferred, candidate.deprecated

        return sorted(fitting, key=worse)

    def _meets(self, version: str, condition: str) -> bool:
        self._comparisons += 1
        if self._comparisons > COMPARISONS_MAX:
            raise LimitExceeded(f"no answer after {COMPARISONS_MAX} comparisons of versions with conditions")
        return satisfies(version, condition)

    def _all(self, name: str) -> tuple[Candidate, ...]:
        """The releases of a model, the newest version first."""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = tuple(sorted(self._published(name), key=_newness, reverse=True))
        return known

    def _check_standing(self, chosen: Mapping[str, Candidate]) -> None:
        for one in self._standing:
            present = chosen.get(one.name)
            if one.owner in chosen or present is None or one.name in self._fixed:
                continue
            if not self._meets(present.version, one.condition):
                by = next(c.label for c in chosen.values() if one.name in c.needs)
                raise NeedsUnmet(
                    f"{by} needs {one.name}{chosen_condition(chosen, one.name)}, and {one.chain} needs"
                    f" {one.name}{one.condition}: there {self._versions(one.name)}"
                )

    def _conflict(self, wish: _Wish, present: Candidate, wishes: Sequence[_Wish]) -> NeedsUnmet:
        if present.name in self._fixed:
            return NeedsUnmet(f"{wish}: {present.label} is asked for")
        other = next((one for one in wishes if one.name == wish.name and one is not wish), None)
        against = f", and {other}" if other is not None else ""
        return self._wanting(wish, against)

    def _nothing(self, wish: _Wish, wishes: Sequence[_Wish]) -> NeedsUnmet:
        others = [str(one) for one in wishes if one.name == wish.name and one is not wish]
        against = "".join(f", and {other}" for other in dict.fromkeys(others))
        return self._wanting(wish, against)

    def _wanting(self, wish: _Wish, against: str) -> NeedsUnmet:
        problem = NeedsUnmet(f"{wish}{against}: there {self._versions(wish.name)}")
        problem.model = wish.name
        return problem

    def _versions(self, name: str) -> str:
        known = self._all(name)
        if not known:
            return f"is no {name}"
        shown = [candidate.label for candidate in reversed(known)][-SHOWN_MAX:]
        more = f" and {len(known) - SHOWN_MAX} older" if len(known) > SHOWN_MAX else ""
        return f"{'are' if len(known) > 1 else 'is'} {', '.join(shown)}{more}"


def chosen_condition(chosen: Mapping[str, Candidate], name: str) -> str:
    """The first condition that what was chosen puts on a model."""
    return next((candidate.needs[name] for candidate in chosen.values() if name in candidate.needs), "")


def _wishes(candidate: Candidate, wish: _Wish | None) -> list[_Wish]:
    """The needs of what was chosen for a wish."""
    way = () if wish is None else (f"{wish.by} ({wish.name}{wish.condition})", *wish.way)
    if len(way) >= DEPTH_MAX:
        raise LimitExceeded(f"{wish}: expected at most {DEPTH_MAX} releases that need each other in a row")
    return [_Wish(name, condition, candidate.label, way) for name, condition in candidate.needs.items()]


def _newness(candidate: Candidate) -> tuple[bool, Version | str]:
    parsed = parsed_version(candidate.version)
    return (False, candidate.version) if parsed is None else (True, parsed)


def _check_circles(chosen: Mapping[str, Candidate], fixed: frozenset[str]) -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            circle = (*way[way.index(name) :], name)
            raise NeedsUnmet(f"{' needs '.join(chosen[one].label for one in circle)}: a circle cannot be loaded")
        if name in done:
            return
        for needed in chosen[name].needs:
            visit(needed, (*way, name))
        done.add(name)

    for name in sorted(chosen, key=lambda one: one not in fixed):
        visit(name, ())


def _ordered(wanted: Candidate, found: Mapping[str, Candidate]) -> tuple[Candidate, ...]:
    """What ``wanted`` needs among what was found, each after what it needs itself."""
    order: dict[str, Candidate] = {}

    def visit(candidate: Candidate) -> None:
        for name in candidate.needs:
            if name not in order:
                visit(found[name])
        order[candidate.name] = candidate

    visit(wanted)
    del order[wanted.name]
    return tuple(order.values())
