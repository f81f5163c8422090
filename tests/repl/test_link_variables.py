"""What ``set`` leaves lasts over the requests of a link, whatever the link is."""

from pathlib import Path

import pytest

from peers.link_variables import LinkVariables, Mentioned, asking_values, mentioned
from query.errors import LimitExceeded
from query.limits import VARIABLES_MAX
from tests.wire.living import living


def test_what_a_text_says_of_variables() -> None:
    assert mentioned("1 + 1") == Mentioned()
    assert mentioned('set :A = 1; {"k": :b}; :c; set :a = :a + 1') == Mentioned(frozenset("abc"), ("a",), 4)
    assert mentioned('set :a = "not closed') == Mentioned()


def test_a_remark_at_the_end_does_not_swallow_what_is_asked() -> None:
    text = "set :a = 1 // one"
    assert asking_values(text, mentioned(text), here="E1") == "set :a = 1 // one\n;\n//peer: E1\n:a"


def test_only_what_a_text_names_travels() -> None:
    kept = LinkVariables()
    kept.keep("a", 1)
    kept.keep("b", 2)
    assert kept.for_text(mentioned(":A + 1"), {}) == {"a": 1}
    assert kept.for_text(mentioned(":a + :b"), {"A": 5}) == {"b": 2, "A": 5}


def test_variables_are_bounded() -> None:
    kept = LinkVariables()
    for number in range(VARIABLES_MAX):
        kept.keep(f"v{number}", number)
    kept.keep("v0", 5)
    with pytest.raises(LimitExceeded, match="variables"):
        kept.keep("more", 1)


async def test_a_session_over_a_socket(tmp_path: Path) -> None:
    async with living(tmp_path, "E1") as federation, federation.connection("E1") as edge:
        answer = await edge.query("set :all = (select n from n in iota(1, 3))")
        assert (answer.rows, [str(ledger.outcomes[0]) for ledger in answer.ledgers]) == ([], ["empty"])
        assert await edge.value("count(:all) + :ALL[3]") == 6
        await edge.query('set :peer = this_peer(); set :r = {"k": :all}')
        assert await edge.value("[:peer, :r.k[1]]") == ["E1", 1]
        assert dict(edge.variables) == {"all": [1, 2, 3], "peer": "E1", "r": {"k": [1, 2, 3]}}
        await edge.query("set :there = this_peer()", peer="nameserver")
        assert await edge.value("this_peer() + :there", peer="nameserver") == "NAMESERVERNAMESERVER"
        failed = await edge.query("set :all = 1 + nonsense()")
        assert [problem.code for problem in failed.errors] == ["unknown_name"]
        assert await edge.value("count(:all)") == 3


async def test_parameters_of_a_request_do_not_last(tmp_path: Path) -> None:
    async with living(tmp_path, "E1") as federation:
        for home in ("ns-admin", "E1"):
            async with federation.connection(home) as peer:
                assert await peer.value(":x + 1", params={"x": 1}) == 2
                assert [p.code for p in (await peer.query(":x")).errors] == ["unknown_name"], home
                assert dict(peer.variables) == {}
