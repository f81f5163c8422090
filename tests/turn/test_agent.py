"""The agent over a real director, a store on disk, and twins for disk space, engine and time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from federation import commands
from federation.documents import PollAnswer, decode, encode
from federation.errors import CertificateExpired, RemovedPeer
from federation.keys import PrivateKey
from federation.polling import PollReply
from peers.edge_actions import ReleaseMissing
from peers.edge_store import EdgeStore, StoreFull
from query.errors import Cancelled, UnknownName, WorldProblem
from tests.turn.bench import DEVELOPER, EDGE, Bench, DirectorTwin
from tests.world.releases import FAILS, made


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class TestTheTurn:
    async def test_an_assignment_ends_in_memory_and_in_a_report(self, bench: Bench) -> None:
        release = bench.published("m", "1.0")
        bench.nameserver.assign(release)
        async with bench.running() as agent:
            report = await bench.loaded("m@1.0")
        assert bench.engine.history == ["load m@1.0"]
        assert bench.engine.with_trial == [True]
        assert report.edge == EDGE
        assert report.generation == bench.nameserver.store.state.generation(EDGE)
        assert report.properties == {"arch": "test"}
        assert agent.actual_state().loaded[0].origin == "group"

    async def test_a_poll_says_where_the_edge_stands_within_200_bytes(self, bench: Bench) -> None:
        async with bench.running() as agent:
            await bench.poll(agent)
            await bench.poll(agent)
            etag, status = bench.nameserver.polls[-1]
        assert agent.desired is not None
        assert etag == agent.desired.etag
        assert status.startswith(f"generation={agent.desired.generation};report=")
        assert status.endswith(";clock=1750000001;free=12345")
        assert len(status) <= 200

    async def test_versions_go_up_and_down(self, bench: Bench) -> None:
        one, two = bench.published("m", "1.0"), bench.published("m", "2.0")
        async with bench.running() as agent:
            for release in (one, two, one):
                bench.nameserver.assign(release)
                await bench.poll(agent)
                await bench.loaded(release.label)
        assert bench.engine.history == ["load m@1.0", "load m@2.0", "load m@1.0"]
        assert bench.shelf.fetches == ["m@1.0", "m@2.0"]
        assert bench.engine.trials == ["m@1.0", "m@2.0"]

    async def test_what_no_group_wants_is_unloaded_and_pruned(self, bench: Bench) -> None:
        one, two = bench.published("m", "1.0"), bench.published("n", "1.0")
        bench.nameserver.assign(one, two)
        async with bench.running() as agent:
            await bench.loaded("m@1.0", "n@1.0")
            bench.nameserver.unassign("m")
            await bench.poll(agent)
            await bench.reported(lambda report: report.installed == ("n@1.0",))
        assert set(bench.shelf.here) == {two.record}

    async def test_the_release_before_is_kept_and_the_one_before_that_is_not(self, bench: Bench) -> None:
        async with bench.running() as agent:
            for version in ("1", "2", "3"):
                bench.nameserver.assign(bench.published("m", version))
                await bench.poll(agent)
                await bench.loaded(f"m@{version}")
            await bench.reported(lambda report: report.installed == ("m@2", "m@3"))

    async def test_a_release_that_fails_its_vectors_is_reported_and_not_tried_again(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"))
        async with bench.running() as agent:
            await bench.loaded("m@1.0")
            bench.nameserver.assign(bench.published("m", "2.0", content=FAILS))
            await bench.poll(agent)
            report = await bench.reported(lambda report: bool(report.errors))
            bench.nameserver.change(commands.set_property(bench.nameserver.store.state, "E1", "k", 1))
            await bench.poll(agent)
            await bench.poll(agent)
        (error,) = report.errors
        assert (error.model, error.error) == ("m@2.0", "failed_vectors")
        assert bench.engine.trials == ["m@1.0", "m@2.0"]
        assert bench.engine.labels() == ["m@1.0"]

    async def test_a_full_disk_is_reported_and_passes(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"))
        bench.shelf.problem = WorldProblem("no space left")
        async with bench.running():
            report = await bench.reported(lambda report: bool(report.errors))
            assert report.errors[0].message == "no space left"
            bench.shelf.problem = None
            bench.clock.advance(10)
            report = await bench.loaded("m@1.0")
        assert report.errors == ()

    async def test_too_little_memory_passes_without_another_trial(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"))
        agent_started = bench.running()
        async with agent_started:
            bench.engine.full = True
            await bench.reported(lambda report: bool(report.errors) and report.errors[0].error == "over_memory")
            bench.engine.full = False
            bench.clock.advance(10)
            await bench.loaded("m@1.0")
        assert bench.engine.trials == ["m@1.0"]

    async def test_a_release_of_an_unknown_publisher_is_refused_until_it_is_endorsed(self, bench: Bench) -> None:
        stranger = PrivateKey(b"s" * 32)
        release = made("m", "1.0", stranger)
        bench.shelf.offered[release.record] = release
        bench.nameserver.endorse("stranger", stranger)
        bench.nameserver.publish(release)
        bench.nameserver.assign(release)
        async with bench.running():
            await bench.loaded("m@1.0")
        assert bench.trust.root.version == 2
        assert len(bench.trust.documents) == 1


class TestRestarts:
    async def test_what_was_loaded_is_back_before_any_network(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"), bench.published("n", "1.0"))
        async with bench.running():
            await bench.loaded("m@1.0", "n@1.0")
        agent = bench.agent(nameserver=None)
        await agent.restore()
        assert agent.ready.is_set()
        assert bench.engine.labels() == ["m@1.0", "n@1.0"]
        assert bench.engine.trials == []
        bench.store.close()

    async def test_a_manual_load_survives_until_a_poll_is_answered(self, bench: Bench) -> None:
        one, two = bench.published("m", "1.0"), bench.published("m", "2.0")
        bench.nameserver.assign(one)
        async with bench.running() as agent:
            await bench.loaded("m@1.0")
            bench.shelf.here[two.record] = two
            entry = await agent.load_manual("m", "2.0", two.record)
            assert entry.origin == "manual"
            await bench.loaded("m@2.0")
        bench.nameserver.problem = WorldProblem("gone")
        async with bench.running() as agent:
            assert bench.engine.labels() == ["m@2.0"]
            with pytest.raises(WorldProblem, match="gone"):
                await bench.poll(agent)
            assert bench.engine.labels() == ["m@2.0"]
            bench.nameserver.problem = None
            await bench.poll(agent)
            await bench.loaded("m@1.0")

    async def test_an_interrupted_fetch_is_taken_up_again(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"))
        bench.shelf.gate = asyncio.Event()
        async with bench.running():
            await bench.shelf.begun.wait()
        bench.shelf.gate = None
        bench.nameserver.problem = WorldProblem("gone")
        async with bench.running():
            await bench.loaded("m@1.0")

    async def test_another_runtime_tries_again(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"))
        async with bench.running():
            await bench.loaded("m@1.0")
        async with bench.running(runtime="runtime 2"):
            assert bench.engine.trials == ["m@1.0"]
            assert bench.engine.labels() == ["m@1.0"]

    async def test_damaged_files_are_fetched_again(self, bench: Bench) -> None:
        release = bench.published("m", "1.0")
        bench.nameserver.assign(release)
        async with bench.running():
            await bench.loaded("m@1.0")
        bench.shelf.damaged.add(release.record)
        async with bench.running() as agent:
            assert bench.engine.labels() == []
            await bench.poll(agent)
            bench.clock.advance(10)
            await bench.loaded("m@1.0")
        assert bench.shelf.fetches == ["m@1.0", "m@1.0"]

    async def test_damaged_files_of_a_manual_load_are_fetched_again(self, bench: Bench) -> None:
        release = bench.published("own", "1.0")
        bench.shelf.here[release.record] = release
        async with bench.running() as agent:
            await agent.load_manual("own", "1.0", release.record)
            await bench.loaded("own@1.0")
        bench.shelf.damaged.add(release.record)
        async with bench.running():
            await bench.reported(lambda report: [error.error for error in report.errors] == ["hash"])
            bench.clock.advance(10)
            await bench.loaded("own@1.0")
        assert bench.shelf.fetches == ["own@1.0"]

    async def test_the_same_state_is_not_reported_twice(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"))
        async with bench.running():
            await bench.loaded("m@1.0")
        async with bench.running() as agent:
            await bench.poll(agent)
            await bench.poll(agent)
        assert bench.nameserver.reports.empty()

    async def test_a_corrected_clock_is_remembered(self, bench: Bench) -> None:
        bench.clock.offset = 86_400.0
        async with bench.running() as agent:
            await bench.poll(agent)
        assert EdgeStore.open(bench.path / "state.db").read().clock_offset_s == 86_400.0


class TestRequests:
    async def test_a_request_that_fails_is_told_and_forgotten(self, bench: Bench) -> None:
        release = bench.published("m", "1.0", content=FAILS)
        bench.shelf.here[release.record] = release
        async with bench.running() as agent:
            await bench.poll(agent)
            with pytest.raises(Exception, match="vector 1 otherwise") as caught:
                await agent.load_manual("m", "1.0", release.record)
            assert caught.value.code == "failed_vectors"
            assert agent.actual_state().errors == ()
            with pytest.raises(Exception, match="cannot run here") as caught:
                await agent.load_manual("m", "1.0", release.record)
            assert caught.value.code == "not_runnable"
        assert bench.engine.trials == ["m@1.0"]

    async def test_a_release_that_is_not_here_is_refused(self, bench: Bench) -> None:
        release = bench.published("m", "1.0")
        async with bench.running() as agent:
            with pytest.raises(ReleaseMissing, match=r"m@1\.0 is not installed"):
                await agent.load_manual("m", "1.0", release.record)

    async def test_an_unload_takes_effect_until_the_next_answered_poll(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"))
        async with bench.running() as agent:
            await bench.loaded("m@1.0")
            await agent.unload_manual("m")
            assert bench.engine.labels() == []
            with pytest.raises(UnknownName, match='no loaded model "m"'):
                await agent.unload_manual("m")
            await bench.loaded()
            await bench.poll(agent)
            await bench.loaded("m@1.0")

    async def test_a_development_release_needs_the_devices_consent(self, bench: Bench) -> None:
        release = made("m", "ignored", DEVELOPER, development=True)
        bench.shelf.here[release.record] = release
        async with bench.running() as agent:
            with pytest.raises(Exception, match="which this peer does not accept") as caught:
                await agent.load_manual("m", release.version, release.record, origin="development")
            assert caught.value.code == "development_refused"
        async with bench.running(development_key=DEVELOPER.public) as agent:
            entry = await agent.load_manual("m", release.version, release.record, origin="development")
            assert entry.origin == "development"

    async def test_a_full_disk_refuses_a_request_and_changes_nothing(self, bench: Bench) -> None:
        release = bench.published("m", "1.0")
        bench.shelf.here[release.record] = release
        async with bench.running() as agent:
            await bench.poll(agent)
            bench.store.full = True
            with pytest.raises(StoreFull):
                await agent.load_manual("m", "1.0", release.record)
            assert bench.engine.history == []
            before = agent.desired
            bench.nameserver.assign(release)
            with pytest.raises(StoreFull):
                await bench.poll(agent)
            assert agent.desired == before
            bench.store.full = False
            await bench.poll(agent)
            await bench.loaded("m@1.0")

    async def test_a_request_gives_way_to_a_group(self, bench: Bench) -> None:
        one, two = bench.published("m", "1.0"), bench.published("m", "2.0")
        bench.nameserver.assign(one)
        async with bench.running() as agent:
            await bench.loaded("m@1.0")
            bench.shelf.here[two.record] = two
            bench.engine.trying = asyncio.Event()
            asking = asyncio.create_task(agent.load_manual("m", "2.0", two.record))
            await bench.engine.begun.wait()
            await bench.poll(agent)
            with pytest.raises(Cancelled, match="gave way to what a group wants"):
                await asking
            assert bench.engine.labels() == ["m@1.0"]


class TestRefusals:
    async def test_a_removed_edge_goes_on_running_and_asks_slowly(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"))
        async with bench.running() as agent:
            await bench.loaded("m@1.0")
            bench.nameserver.problem = RemovedPeer('"E1" was removed')
            with pytest.raises(RemovedPeer):
                await bench.poll(agent)
            assert agent.contact.state == "refused"
            assert agent.contact.problem is not None
            assert agent.contact.problem.code == "removed"
            assert agent.contact.next_poll_at is not None
            assert agent.contact.next_poll_at - bench.clock.now() >= 150
            assert bench.engine.labels() == ["m@1.0"]

    async def test_a_replay_is_refused_and_reported(self, bench: Bench) -> None:
        one, two = bench.published("m", "1.0"), bench.published("m", "2.0")
        bench.nameserver.assign(one)
        async with bench.running() as agent:
            await bench.loaded("m@1.0")
            old = bench.nameserver.director.answer(EDGE, None, now=bench.clock.now(), draw=0.5)
            bench.nameserver.assign(two)
            await bench.poll(agent)
            await bench.loaded("m@2.0")
            bench.nameserver.tamper = lambda reply: old
            with pytest.raises(Exception, match="expected generation") as caught:
                await bench.poll(agent)
            assert caught.value.code == "replay"
            report = await bench.reported(lambda report: bool(report.alarms))
            assert report.alarms[0].startswith("replay: ")
            assert bench.engine.labels() == ["m@2.0"]
            bench.nameserver.tamper = lambda reply: reply
            bench.nameserver.assign(one)
            await bench.poll(agent)
            report = await bench.loaded("m@1.0")
        assert report.alarms == ()

    async def test_a_tampered_answer_changes_nothing(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"))

        def forged(reply: PollReply) -> PollReply:
            answer = decode(reply.body, PollAnswer)
            document = msgspec.structs.replace(answer.desired, payload=answer.desired.payload.replace(b"m", b"n"))
            return msgspec.structs.replace(reply, body=encode(msgspec.structs.replace(answer, desired=document)))

        bench.nameserver.tamper = forged
        async with bench.running() as agent:
            with pytest.raises(Exception, match="signature") as caught:
                await bench.poll(agent)
            assert caught.value.code == "bad_signature"
            assert agent.desired is None
            assert agent.contact.state == "untrusted"

    async def test_a_missing_record_is_a_mixture(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"))
        bench.nameserver.tamper = lambda reply: msgspec.structs.replace(
            reply, body=encode(msgspec.structs.replace(decode(reply.body, PollAnswer), releases=()))
        )
        async with bench.running() as agent:
            with pytest.raises(Exception, match=r"names m@1\.0, whose record did not come") as caught:
                await bench.poll(agent)
            assert caught.value.code == "mixed_parts"

    async def test_garbage_is_no_answer(self, bench: Bench) -> None:
        bench.nameserver.tamper = lambda reply: msgspec.structs.replace(reply, body=b"<html>")
        async with bench.running() as agent:
            with pytest.raises(WorldProblem, match="expected an answer to a poll"):
                await bench.poll(agent)

    async def test_an_expired_certificate_is_renewed_and_the_poll_made_again(self, bench: Bench) -> None:
        certificate = Certificate(bench.nameserver, renew_at=bench.clock.now() + 1e9)
        bench.nameserver.problem = CertificateExpired("expired yesterday")
        async with bench.running(certificate=certificate) as agent:
            await bench.poll(agent)
            assert agent.contact.state == "answered"
        assert certificate.renewals == 1

    async def test_a_certificate_is_renewed_at_two_thirds_of_its_life(self, bench: Bench) -> None:
        certificate = Certificate(bench.nameserver, renew_at=bench.clock.now() + 100)
        async with bench.running(certificate=certificate) as agent:
            await bench.poll(agent)
            assert certificate.renewals == 0
            bench.clock.advance(100)
            await bench.poll(agent)
        assert certificate.renewals == 1


class Certificate:
    def __init__(self, nameserver: DirectorTwin, *, renew_at: float) -> None:
        self._nameserver = nameserver
        self._renew_at = renew_at
        self.renewals = 0

    def renew_at(self) -> float:
        return self._renew_at

    async def renew(self) -> None:
        self._nameserver.problem = None
        self._renew_at += 1e9
        self.renewals += 1


class TestRhythm:
    async def test_the_nameserver_says_when_to_poll(self, bench: Bench) -> None:
        async with bench.running():
            await bench.nameserver.polled.get()
            bench.clock.advance(9.9)
            assert bench.nameserver.polled.empty()
            bench.clock.advance(0.2)
            await bench.nameserver.polled.get()

    async def test_a_nudge_polls_at_once(self, bench: Bench) -> None:
        async with bench.running() as agent:
            await bench.nameserver.polled.get()
            agent.nudge()
            await bench.nameserver.polled.get()

    async def test_failures_back_off_and_keep_the_cursor(self, bench: Bench) -> None:
        async with bench.running() as agent:
            await bench.nameserver.polled.get()
            bench.nameserver.problem = WorldProblem("gone")
            for _ in range(4):
                bench.clock.advance(60)
                await bench.nameserver.polled.get()
            assert agent.contact.state == "unreachable"
            bench.nameserver.problem = None
            await bench.poll(agent)
        assert len({etag for etag, _ in bench.nameserver.polls[1:]}) == 1
        assert bench.nameserver.polls[1][0] is not None

    async def test_an_online_edge_keeps_its_place_after_a_boot(self, bench: Bench) -> None:
        bench.nameserver.change(commands.set_mode(bench.nameserver.store.state, "E1", "ONLINE"))
        async with bench.running():
            await bench.nameserver.polled.get()
        async with bench.running():
            assert bench.nameserver.polled.empty()
            assert bench.clock.next_at is not None
            assert bench.clock.now() < bench.clock.next_at <= bench.clock.now() + 10
            bench.clock.advance(10)
            await bench.nameserver.polled.get()

    async def test_the_mode_is_told_when_it_changes(self, bench: Bench) -> None:
        async with bench.running() as agent:
            await bench.poll(agent)
            bench.nameserver.change(commands.set_mode(bench.nameserver.store.state, "E1", "ONLINE"))
            await bench.poll(agent)
            report = await bench.reported(lambda report: report.mode == "ONLINE")
            bench.nameserver.change(commands.set_mode(bench.nameserver.store.state, "E1", "INTERACTIVE"))
            await bench.poll(agent)
        assert bench.modes == ["INTERACTIVE", "ONLINE", "INTERACTIVE"]
        assert report.generation < bench.nameserver.store.state.generation(EDGE)

    async def test_a_report_that_fails_is_sent_again(self, bench: Bench) -> None:
        bench.nameserver.report_problem = WorldProblem("gone")
        async with bench.running() as agent:
            await bench.poll(agent)
            bench.nameserver.report_problem = None
            bench.clock.advance(5)
            await bench.reported(lambda report: report.generation > 0)

    async def test_an_expired_desired_state_keeps_what_runs(self, bench: Bench) -> None:
        bench.nameserver.assign(bench.published("m", "1.0"))
        async with bench.running():
            await bench.loaded("m@1.0")
        bench.clock.advance(30 * 86_400)
        bench.nameserver.problem = WorldProblem("gone")
        async with bench.running():
            assert bench.engine.labels() == ["m@1.0"]
