"""Groups and assignments against a model of a few lines, whatever the order of calls; and one state by three ways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from federation import commands, release_commands, retention
from federation.entries import Entry
from federation.layout_index import VersionTaken
from federation.names import digest_of
from federation.projections import PROJECTIONS, load_state
from federation.state import FederationState
from federation.store import FederationStore
from tests.membership.small import Small, identity, release_document

EDGES = st.sampled_from(["e1", "e2", "E3", "e4"])
GROUPS = st.sampled_from(["staging", "Production", "lab"])
ANY_GROUP = st.one_of(GROUPS, st.just("all"))
LABELS = st.sampled_from(["m@1", "m@2", "m@3", "n@1", "n@2"])
CONTENTS = st.sampled_from([b"weights", b"other weights"])


def fingerprint(state: FederationState) -> dict[str, Any]:
    """Everything that a state knows, as plain values."""

    def entry_of(entry: Entry) -> tuple[Any, ...]:
        return entry.member, entry.touched, [group.name for group in entry.groups]

    uuids = [member.uuid for member in state.members()]
    return {
        "facts": state.facts,
        "members": [state.member(identity(name)) for name in ("e1", "e2", "E3", "e4", "hub", "root-admin")],
        "entries": [entry_of(entry) for uuid in uuids if (entry := state.entry(uuid)) is not None],
        "generations": [state.generation(uuid) for uuid in uuids],
        "groups": [
            (group.name, sorted(group.members), group.assignments, group.touched, group.interval, group.interval_seq)
            for group in state.group_objects()
        ],
        "before": [group.before for group in state.group_objects()],
        "releases": state.releases(),
        "deleted": [
            state.published.deleted(*label.split("@")) for label in ("m@1", "m@2", "m@3", "n@1", "n@2", "s@1", "s@2")
        ],
        "roots": state.root_documents,
        "edge_count": state.edge_count,
    }


class Federation(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.small = Small()
        self.small.publish("m@1", "m@2", "m@3", "n@1", "n@2")
        self.edges: set[str] = set()
        self.members: dict[str, set[str]] = {"all": self.edges}
        self.models: dict[str, dict[str, tuple[int, str]]] = {"all": {}}  # group → model → (recency, label)
        self.intervals: dict[str, tuple[int, str]] = {}  # group → recency, text
        self.own_intervals: dict[str, str] = {}
        self.contents = dict.fromkeys(("m@1", "m@2", "m@3", "n@1", "n@2"), b"weights")  # of every version that ever was
        self.reasons: dict[str, str | None] = dict.fromkeys(self.contents)  # of every release, why it is deprecated
        self.before: dict[str, dict[str, str]] = {}  # group → model → the label that it had before
        self.ended: set[str] = set()  # labels that an assignment named that ended
        self.calls = 0
        self.generations: dict[str, int] = {}
        self.desired: dict[str, list[str]] = {}
        self.used: set[str] = set()
        for edge, groups in (("e1", ("staging", "lab")), ("e2", ("staging",)), ("E3", ("lab",))):
            self.register(edge)
            for group in groups:
                self.joined(edge, group)

    @rule(edge=EDGES)
    def register(self, edge: str) -> None:
        if edge not in self.used:  # an identity is used once; a name that returns is another edge
            self.small.edge(edge, joined=len(self.used) % 2 == 0)
            self.edges.add(edge)
            self.used.add(edge)

    @precondition(lambda self: self.edges)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        edge = data.draw(st.sampled_from(sorted(self.edges)))
        self.small.write(commands.remove(self.small.state, edge.upper()))
        for members in self.members.values():
            members.discard(edge)
        self.generations.pop(edge, None)

    @precondition(lambda self: self.edges)
    @rule(data=st.data(), group=GROUPS)
    def join(self, data: st.DataObject, group: str) -> None:
        self.joined(data.draw(st.sampled_from(sorted(self.edges))), group)

    def joined(self, edge: str, group: str) -> None:
        self.small.join(edge.swapcase(), group.swapcase())
        self.members.setdefault(group, set()).add(edge)
        self.models.setdefault(group, {})

    @rule(edge=EDGES, group=GROUPS)
    def leave(self, edge: str, group: str) -> None:
        if edge in self.edges and group in self.members:
            self.small.leave(edge, group)
            self.members[group].discard(edge)

    @rule(group=GROUPS)
    def delete(self, group: str) -> None:
        if group in self.members:
            self.small.write(commands.delete_group(self.small.state, group))
            self.ended |= {label for _, label in self.models[group].values()}
            del self.members[group], self.models[group]
            self.before.pop(group, None)
            self.intervals.pop(group, None)

    @rule(group=ANY_GROUP, labels=st.lists(LABELS, min_size=1, max_size=2, unique_by=lambda label: label[0]))
    def assign(self, group: str, labels: list[str]) -> None:
        if group not in self.members or not set(labels) <= self.reasons.keys():
            return
        before = {edge: self.expected_winner(edge) for edge in self.members[group]}
        made = self.small.assign(group, *labels)
        for label in labels:
            name = label.split("@")[0]
            own = self.models[group].get(name)
            expected = {(winner[name][1], winner[name][2]) for winner in before.values() if name in winner}
            expected.discard((own[1] if own else "", group))
            if own and own[1] != label:
                expected.add((own[1], group))
            told = {(o.assignment.label, self.spelled(o.group)) for o in made.overtaken if o.assignment.name == name}
            assert told == expected
        self.calls += 1
        for label in labels:
            self.end(group, label.split("@")[0], unless=label)
            self.models[group][label.split("@")[0]] = (self.calls, label)

    def end(self, group: str, name: str, *, unless: str = "") -> None:
        """An assignment ends, for another or for none."""
        was = self.models[group].get(name)
        if was is not None:
            self.ended.add(was[1])
            if was[1] != unless:
                self.before.setdefault(group, {})[name] = was[1]

    @rule(group=ANY_GROUP, name=st.sampled_from(["m", "n"]))
    def unassign(self, group: str, name: str) -> None:
        if name in self.models.get(group, {}):
            self.small.unassign(group, name)
            self.end(group, name)
            del self.models[group][name]

    @rule(label=st.one_of(LABELS, st.just("s@1")), content=CONTENTS)
    def publish(self, label: str, content: bytes) -> None:
        document = release_document(label, content=content)
        known = self.contents.get(label)
        if known not in (None, content):
            with pytest.raises(VersionTaken):
                release_commands.publish_release(self.small.state, document)
            return
        self.small.write(release_commands.publish_release(self.small.state, document))
        self.contents[label] = content
        self.reasons.setdefault(label, None)

    @rule(label=LABELS, reason=st.sampled_from(["too slow", "leaks", None]))
    def deprecate(self, label: str, reason: str | None) -> None:
        if label in self.reasons:
            name, version = label.split("@")
            self.small.write(release_commands.deprecate_release(self.small.state, name, version, reason))
            self.reasons[label] = reason

    @rule(label=LABELS, days=st.sampled_from([0, 17]))
    def delete_release(self, label: str, days: int) -> None:
        """Of what no group names or had before, once what it told edges is too old to matter."""
        if label not in self.reasons:
            return
        state, (name, version) = self.small.state, label.split("@")
        release = state.find_release(name, version)
        held = retention.holders(state, release, now=self.small.now + days * 86_400)
        assert (release.digest in retention.held(state, now=self.small.now + days * 86_400)) == bool(held)
        named = {found for models in self.models.values() for _, found in models.values()}
        before = {found for models in self.before.values() for found in models.values()}
        assert {holder.kind for holder in held} - {"desired"} == {
            kind for kind, labels in (("group", named), ("rollback", before)) if label in labels
        }
        assert ("desired" in {holder.kind for holder in held}) == (days == 0 and label in self.ended)
        if held:
            with pytest.raises(retention.ReleaseHeld, match="is held by"):
                release_commands.delete_release(state, name, version, holders=held)
            return
        self.small.write(release_commands.delete_release(state, name, version, holders=held))
        del self.reasons[label]
        self.ended.discard(label)

    @invariant()
    def releases_are_those_of_the_model(self) -> None:
        state = self.small.state
        assert {release.record.label: release.deprecated for release in state.releases()} == self.reasons
        for label, content in self.contents.items():
            deleted = state.published.deleted(*label.split("@"))
            assert deleted == (None if label in self.reasons else digest_of(b"manifest of " + content))

    @rule(group=ANY_GROUP, text=st.sampled_from(["5s", "7s~20%", "default"]))
    def set_group_interval(self, group: str, text: str) -> None:
        if group in self.members:
            known = self.intervals.get(group, (0, "default"))[1]
            self.small.write(commands.set_poll_interval(self.small.state, group, text))
            if text != known:
                self.calls += 1
                self.intervals[group] = (self.calls, text)

    @rule(edge=EDGES, text=st.sampled_from(["11s", "default"]))
    def set_edge_interval(self, edge: str, text: str) -> None:
        if edge in self.edges:
            self.small.write(commands.set_poll_interval(self.small.state, edge, text))
            self.own_intervals[edge] = text

    def expected_interval(self, edge: str) -> str:
        if self.own_intervals.get(edge, "default") != "default":
            return self.own_intervals[edge]
        of_groups = [
            self.intervals[g]
            for g in self.members
            if g in self.intervals and g != "all" and edge in self.members[g] and self.intervals[g][1] != "default"
        ]
        everybody = self.intervals.get("all", (0, "default"))[1]
        return max(of_groups, default=(0, everybody if everybody != "default" else "60s~10%"))[1]

    def entry(self, edge: str) -> Entry:
        entry = self.small.state.entry(identity(edge))
        assert entry is not None
        return entry

    def spelled(self, group: str) -> str:
        return next(name for name in self.members if name.casefold() == group.casefold())

    def expected_winner(self, edge: str) -> dict[str, tuple[int, str, str]]:
        winner: dict[str, tuple[int, str, str]] = {}
        for group, members in self.members.items():
            if edge in members:
                for name, (recency, label) in self.models[group].items():
                    winner[name] = max(winner.get(name, (0, "", "")), (recency, label, group))
        return winner

    @invariant()
    def edges_should_run_what_the_model_says(self) -> None:
        for edge in self.edges:
            expected = sorted(label for _, label, _ in self.expected_winner(edge).values())
            assert self.small.desired(edge) == expected
            assert self.small.state.interval(self.entry(edge)) == self.expected_interval(edge)
            generation = self.small.generation(edge)
            assert generation >= self.generations.get(edge, 0)
            if expected != self.desired.get(edge, expected):
                assert generation > self.generations.get(edge, 0)
            self.generations[edge], self.desired[edge] = generation, expected

    @invariant()
    def groups_are_those_of_the_model(self) -> None:
        state = self.small.state
        assert {name.casefold() for name in state.groups()} == {name.casefold() for name in self.members}
        for group, members in self.members.items():
            assert {member.name for member in state.members_of(group)} == members

    def teardown(self) -> None:
        store = self.small.store
        known = fingerprint(store.state)
        tables = {table: store.rows(table) for table in PROJECTIONS}
        folded = FederationState()
        for change in store.read_from(1):
            folded.apply(change)
        assert fingerprint(folded) == known, "the fold over the log"
        assert fingerprint(reloaded(store)) == known, "the tables"
        store.rebuild()
        assert {table: store.rows(table) for table in PROJECTIONS} == tables, "the tables rebuilt from the log"
        assert fingerprint(store.state) == known
        store.close()


def reloaded(store: FederationStore) -> FederationState:
    return load_state(store._db.conn)


TestFederation = Federation.TestCase
TestFederation.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
