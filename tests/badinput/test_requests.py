"""Requests that are too large, too deep or cut off: told by class on every way in, at once, and the peer goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from federation.documents import REPORT_BYTES_MAX
from federation.tls import client_context
from peers.client import Answer
from peers.federation_client import SERVER_HOSTNAME
from query import limits
from query.frames import decode_frame
from tests.wire.living import Living, living, publisher_in

pytestmark = pytest.mark.timeout(120)

BRACKETS_MAX = f"nesting is over its limit of {limits.NESTING_DEPTH_MAX} open brackets: found more"
BYTES_MAX = f"the text is over its limit of {limits.TEXT_BYTES_WIRE_MAX} bytes: found "
DEEP = b"[" * 100_000
OVER = {
    "[" * 100_000: BYTES_MAX + "100000",
    "[" * 100_000 + "]" * 100_000: BYTES_MAX + "200000",
    "[" * 60_000: BRACKETS_MAX,
    "(" * 32_000 + "1" + ")" * 32_000: BRACKETS_MAX,
    '{"a":' * 12_000: BRACKETS_MAX,
    "1" + " " * limits.TEXT_BYTES_WIRE_MAX: BYTES_MAX + "65537",
    "1;" * (limits.STATEMENTS_MAX + 1): "the script is over its limit of 1000 statements: found more",
    "1+" * (limits.TOKENS_WIRE_MAX // 2) + "1": "the text is over its limit of 20000 words and signs: found more",
    "[" + "1," * limits.LITERAL_ELEMENTS_MAX + "1]": "a literal is over its limit of 5000 elements: found more",
    "1" * (limits.NUMBER_DIGITS_MAX + 1): "a number is over its limit of 1000 digits: found 1001",
    "not " * 10_000 + "true": "the expression is over its limit of 128 levels: found more",
    "select 1 from " + ", ".join(f"a{n} in [1]" for n in range(17)): "a select is over its limit of 16 variables: "
    "found 17",
    f"'a' like '{'%' * 1001}'": "a pattern is over its limit of 1000 characters: found 1001",
    f"//timeout: {int(limits.DURATION_S_MAX) + 1}s\n1": '"604801s" is not a usable duration: '
    "expected more than 0 and at most 604800s",
}
NO_REQUEST = {
    "half a body": b'{"text": "1", "par',
    "nothing": b"",
    "no JSON": b"\xff\xfe\x00",
    "no UTF-8": b'{"text": "\xff"}',
    "a list": b'["text"]',
    "a number as text": b'{"text": 1}',
    "a deep list": DEEP,
    "deep parameters": b'{"text": ":v", "params": {"v": ' + DEEP + b"]" * 100_000 + b"}}",
    "deep and unknown": b'{"text": "1", "more": ' + DEEP + b"]" * 100_000 + b"}",
    "an unknown field": b'{"text": "1", "peer": "e1"}',
    "no time": b'{"text": "1", "timeout": 0}',
}


class Ways:
    """Every way to hand a nameserver the body of a request."""

    def __init__(self, federation: Living) -> None:
        run = federation.peers["ns"].record
        assert run.socket is not None
        home = federation.admin
        context = client_context(home.ca_crt, home.identity_crt, home.identity_key)
        bearer = {"Authorization": f"Bearer {federation.home('ns').token()}"}
        self._sessions = {
            "socket": aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(run.socket)),
            "port": aiohttp.ClientSession(f"http://{run.application}", headers=bearer),
            "federation": aiohttp.ClientSession(
                f"https://{run.federation}", connector=aiohttp.TCPConnector(ssl=context)
            ),
        }

    async def post(self, way: str, body: bytes) -> tuple[int, bytes]:
        name = SERVER_HOSTNAME if way == "federation" else None
        async with self._sessions[way].post("/v1/query", data=body, server_hostname=name) as response:
            return response.status, await response.read()

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()


WAYS = ("socket", "port", "federation")


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path, "e1") as made:
        yield made


@pytest.fixture
async def ways(federation: Living) -> AsyncIterator[Ways]:
    made = Ways(federation)
    yield made
    await made.close()


async def test_a_text_over_a_limit_is_named_on_every_way_in(federation: Living, ways: Ways) -> None:
    for text, message in OVER.items():
        answers = [await federation.ask(text), await federation.ask(text, home="e1")]
        for way in WAYS:
            status, raw = await ways.post(way, msgspec.json.encode({"text": text}))
            assert status == 200, raw
            answer = Answer()
            for line in raw.splitlines():
                answer.add(decode_frame(line))
            answers.append(answer)
        for answer in answers:
            assert [problem.message for problem in answer.errors] == [message], text[:40]
            assert answer.rows == []
    assert await federation.value("1 + 1") == 2


async def test_a_body_that_is_no_request_is_refused_by_its_class(federation: Living, ways: Ways) -> None:
    for case, body in NO_REQUEST.items():
        for way in WAYS:
            status, raw = await ways.post(way, body)
            error = msgspec.json.decode(raw)["error"]
            assert (status, error["code"]) == (400, "user"), (case, way, error)
            assert "expected" in error["message"], case
    assert await federation.value("1 + 1") == 2


async def test_what_peers_send_each_other_is_refused_by_its_class(federation: Living) -> None:
    await publisher_in(federation)
    where = federation.peers["ns"].record.federation
    uuid = federation.home("e1").membership().uuid
    deep = b'{"more": ' + DEEP + b"]" * 100_000 + b"}"
    cases = [
        ("ns-admin", "POST", "/v1/join", {}, deep, 413),
        ("ns-admin", "POST", "/v1/join", {}, deep[:30_000], 400),
        ("ns-admin", "POST", "/v1/join", {}, b'{"name": "x"', 400),
        ("e1", "PUT", f"/v1/edges/{uuid}/report", {}, deep[: REPORT_BYTES_MAX // 2], 403),
        ("e1", "PUT", f"/v1/edges/{uuid}/report", {}, b'{"edge": "', 403),
        ("e1", "PUT", f"/v1/edges/{uuid}/report", {}, b" " * (REPORT_BYTES_MAX + 1), 413),
        ("e1", "POST", "/v1/query", {"Peerage-Envelope": "[" * 6_000}, b'{"text": "1"}', 400),
        ("e1", "POST", "/v1/query", {"Peerage-Envelope": '{"more": ' + "[" * 6_000}, b'{"text": "1"}', 400),
    ]
    for name, method, path, headers, body, status in cases:
        home = federation.home(name)
        context = client_context(home.ca_crt, home.identity_crt, home.identity_key)
        connector = aiohttp.TCPConnector(ssl=context)
        async with (
            aiohttp.ClientSession(f"https://{where}", connector=connector) as session,
            session.request(method, path, data=body, headers=headers, server_hostname=SERVER_HOSTNAME) as response,
        ):
            told = msgspec.json.decode(await response.read())["error"]
            assert (response.status, told["code"] != "internal") == (status, True), (path, told)
    assert await federation.value('//peer: nameserver\nedge:groups("e1")') == []
