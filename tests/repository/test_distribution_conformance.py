"""The table of the distribution specification, run against the nameserver's repository and Debian's docker-registry.

The second run proves the table: what docker-registry 2.8.2 is known to do otherwise is named with its reason, and must
fail there, so that the list cannot grow old.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from yarl import URL

from federation.layout import ImageLayout
from federation.tls import NAMESERVER_HOSTNAME, client_context
from tests.repository.conformance import CHECKS, Step
from tests.repository.registries import docker_registry
from tests.repository.site import Federation, registry

NO_REFERRERS = "has no referrers API: whoever attaches something keeps the fall-back tag"

DEVIATIONS = {
    "pull: a manifest without saying what is accepted": "answers 404 to who does not accept manifests of OCI",
    "pull: a piece that a blob does not have": "announces the blob's length with status 416, and sends nothing",
    "push: a blob by one POST": "begins an upload and leaves the body unread, as the specification allows",
    "push: chunks out of order": "does not look at Content-Range and appends what comes",
    "push: a manifest with a subject, which is named": NO_REFERRERS,
    "discovery: tags": "lists tags in no order",
    "discovery: tags in pages": "lists all tags, whatever n and last say",
    "discovery: referrers of nothing": NO_REFERRERS,
    "discovery: referrers": NO_REFERRERS,
    "discovery: referrers of what came later": NO_REFERRERS,
    "discovery: an index with a subject": NO_REFERRERS,
    "discovery: the fall-back tag that nobody wrote": NO_REFERRERS,
    "management: deleting a tag": "deletes by digest alone, and answers 400 to a tag",
    "management: deleting what is attached": NO_REFERRERS,
}


@dataclass
class Asker:
    """A client that runs steps against one registry, each check in repositories of its own."""

    base: str
    session: aiohttp.ClientSession
    hostname: str | None = None
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def check(self, name: str) -> None:
        number = next(self.numbers)
        names = {"repo": f"models/check-{number}", "other": f"models/other-{number}", "at": ""}
        for position, step in enumerate(CHECKS[name], start=1):
            await self._take(step, names, f"{name}, step {position}: {step.method} {step.path[:100]}")

    async def _take(self, step: Step, names: dict[str, str], where: str) -> None:
        path = _filled(step.path, names)
        url = URL(path if path.startswith("http") else self.base + path, encoded=True)
        options: dict[str, Any] = {} if self.hostname is None else {"server_hostname": self.hostname}
        headers = {"Accept": "", **step.headers}
        async with self.session.request(
            step.method, url, data=io.BytesIO(step.body), headers=headers, allow_redirects=False, **options
        ) as response:
            body = await response.read()
            told = response.headers
            shown = f"{where}: {response.status} {dict(told)} {body[:300]!r}"
            assert response.status in step.status, shown
        for header, expected in step.told.items():
            found = told.get(header)
            if header == "Location" and found is not None:
                found = URL(found).path
            assert found == (None if expected is None else _filled(expected, names)), f"{header}: {shown}"
        if step.code is not None:
            assert [entry["code"] for entry in msgspec.json.decode(body)["errors"]] == [step.code], shown
        if isinstance(step.holds, bytes):
            assert body == step.holds, shown
        elif step.holds is not None:
            assert step.holds(body), shown
        if response.status == 202 and "/uploads/" in told.get("Location", ""):
            names["at"] = told["Location"]


def _filled(text: str, names: dict[str, str]) -> str:
    """``{at}`` is where an upload goes on, ready for a further parameter when one follows."""
    at = names["at"]
    if text.startswith("{at}") and text != "{at}":
        at += "&" if "?" in at else "?"
    return re.sub(r"\{(repo|other|at)\}", lambda found: at if found[1] == "at" else names[found[1]], text)


@asynccontextmanager
async def nameserver(tmp_path: Path) -> AsyncIterator[Asker]:
    federation, layout = Federation(tmp_path / "keys"), ImageLayout(tmp_path / "central")
    identity = federation.operator.identity
    context = client_context(identity.ca, identity.certificate, identity.key)
    connector = aiohttp.TCPConnector(ssl=context)
    async with registry(federation, layout) as address, aiohttp.ClientSession(connector=connector) as session:
        yield Asker(f"https://{address}", session, NAMESERVER_HOSTNAME)


@pytest.mark.parametrize("name", CHECKS)
async def test_the_nameserver(tmp_path: Path, name: str) -> None:
    async with nameserver(tmp_path) as asker:
        await asker.check(name)


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("docker")) as running:
        yield running.url


NUMBERS = itertools.count()


@pytest.mark.parametrize("name", CHECKS)
async def test_docker_registry(docker: str, name: str) -> None:
    async with aiohttp.ClientSession() as session:
        asker = Asker(docker, session, numbers=NUMBERS)
        if name in DEVIATIONS:
            with pytest.raises((AssertionError, aiohttp.ClientPayloadError)):
                await asker.check(name)
        else:
            await asker.check(name)


def test_what_is_known_of_docker_registry_is_in_the_table() -> None:
    assert DEVIATIONS.keys() <= CHECKS.keys()
    assert len(DEVIATIONS) < len(CHECKS) / 3
