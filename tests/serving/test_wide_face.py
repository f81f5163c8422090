"""The application face bound wider than this device: TLS and the token for everything.

``127.1`` is this device in a spelling that the peer does not know as such, so that it takes it for another address.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from aiohttp import ClientSession
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import peers
from peers.federation_client import BadAnswer
from peers.setting_texts import BadSetting
from peers.settings import EdgeSettings, resolve_settings
from tests.serving.face import Face, identity, serving
from tests.serving.refused import asking, good
from tests.wire.living import living

WIDE = "127.1"
GOOD = asking(good())


def write_certificate(folder: Path, *, serial: int = 1) -> dict[str, str]:
    """A self-signed certificate for 127.0.0.1, as settings name it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    (folder / "face.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "face.key").write_bytes(key.private_bytes(*form))
    return {"application_certificate": str(folder / "face.crt"), "application_key": str(folder / "face.key")}


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "face.crt"))


def wide(folder: Path) -> EdgeSettings:
    return EdgeSettings(application_host=WIDE, application_port=0, **write_certificate(folder))


async def ask(
    face: Face, context: ssl.SSLContext, method: str, path: str, body: bytes | None = None, **headers: str
) -> Any:
    async with (
        ClientSession() as session,
        session.request(method, f"https://127.0.0.1:{face.port}{path}", ssl=context, data=body, headers=headers) as got,
    ):
        return got.status, dict(got.headers), await got.read()


async def test_a_client_says_that_it_does_not_trust_the_certificate(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, identity("one"), settings=wide(tmp_path / "tls")) as face,
        peers.connect_async(url=f"https://127.0.0.1:{face.port}", token="t") as link,
    ):
        with pytest.raises(BadAnswer, match=r"the certificate of .* is not trusted: self.signed certificate"):
            await link.value("1 + 1")


async def test_everything_needs_the_token(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    async with serving(tmp_path, identity("one"), settings=wide(tls)) as face:
        context = trusting(tls)
        for method, path in (
            ("GET", "/v1/health"),
            ("POST", "/v1/query"),
            ("GET", "/v2/health/live"),
            ("GET", "/v2"),
            ("GET", "/metrics"),
            ("POST", "/v2/models/one/infer"),
            ("POST", "/v2/repository/models/one/load"),
            ("POST", "/pipelines/one"),
            ("GET", "/nowhere"),
            ("GET", "/v1/nowhere"),
        ):
            for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {face.token}"}):
                status, headers, body = await ask(
                    face, context, method, path, GOOD if method == "POST" else None, **shown
                )
                assert status == 401, (method, path)
                assert headers["WWW-Authenticate"].startswith("Bearer")
                assert b"unauthorized" in body
                assert face.token.encode() not in body
        token = {"Authorization": f"Bearer {face.token}"}
        status, _, body = await ask(face, context, "POST", "/v2/models/one/infer", GOOD, **token)
        assert (status, b'"data":[1.0,2.0,3.0,4.0]' in body) == (200, True)
        assert (await ask(face, context, "GET", "/metrics", **token))[0] == 200
        assert (await ask(face, context, "POST", "/v2/repository/models/one/load", b"{}", **token))[0] == 200
        foreign = token | {"Host": "edge.example", "Origin": "https://console.example"}  # the token is the proof
        assert (await ask(face, context, "GET", "/v2", **foreign))[0] == 200


async def test_tritonclient_over_tls(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    async with serving(tmp_path, identity("one"), settings=wide(tls)) as face:
        row = triton.InferInput("x", [1, 4], "FP32")
        row.set_data_from_numpy(np.ones((1, 4), np.float32))
        async with triton_aio.InferenceServerClient(
            f"127.0.0.1:{face.port}", ssl=True, ssl_context=trusting(tls)
        ) as client:
            token = {"Authorization": f"Bearer {face.token}"}
            assert not await client.is_server_live()
            assert await client.is_server_live(headers=token)
            assert (await client.infer("one", [row], headers=token)).as_numpy("y").tolist() == [[1, 1, 1, 1]]


async def test_what_is_no_handshake_is_ended(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    async with serving(tmp_path, identity("one"), settings=wide(tls)) as face:
        got = await face.raw(b"POST /v2/models/one/infer HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" not in got
        silent = [await asyncio.open_connection("127.0.0.1", face.port) for _ in range(5)]
        assert (await ask(face, trusting(tls), "GET", "/v2", Authorization=f"Bearer {face.token}"))[0] == 200
        for _, writer in silent:
            writer.close()


async def test_a_certificate_that_was_replaced_is_shown_to_the_next(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    async with serving(tmp_path, settings=wide(tls)) as face:

        async def serial() -> int:
            reader, writer = await asyncio.open_connection("127.0.0.1", face.port, ssl=trusting(tls))
            found = writer.get_extra_info("ssl_object").getpeercert()
            writer.close()
            del reader
            return int(found["serialNumber"], 16)

        assert await serial() == 1
        write_certificate(tls, serial=2)
        assert await serial() == 2
        context = ssl.create_default_context(cadata=(tls / "face.crt").read_text())
        write_certificate(tmp_path / "other", serial=3)
        for half in ("half a certificate", (tmp_path / "other" / "face.crt").read_text()):
            (tls / "face.crt").write_text(half)
            status, _, _ = await ask(face, context, "GET", "/v2", Authorization=f"Bearer {face.token}")
            assert status == 200  # with the one that was there


async def test_connections_over_the_bound_are_refused_over_tls_too(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    settings = EdgeSettings(application_host=WIDE, application_port=0, connections_max=1, **write_certificate(tls))
    async with serving(tmp_path, settings=settings) as face:
        reader, writer = await asyncio.open_connection("127.0.0.1", face.port, ssl=trusting(tls))
        writer.write(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 401 " in await reader.readline()
        assert (await ask(face, trusting(tls), "GET", "/v2"))[0] == 503
        writer.close()


async def test_an_edge_shows_its_own_certificate(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        await federation.add_edge("e1", application_host=WIDE)
        home = federation.home("e1")
        port = int(federation.peers["e1"].record.application.rpartition(":")[2])
        context = ssl.create_default_context(cafile=str(home.ca_crt))
        context.check_hostname = False  # it names the edge by its SPIFFE id
        async with ClientSession() as session:
            url = f"https://127.0.0.1:{port}/v2/health/live"
            async with session.get(url, ssl=context, headers={"Authorization": f"Bearer {home.token()}"}) as got:
                assert (got.status, await got.json()) == (200, {"live": True})
            async with session.get(url, ssl=context) as got:
                assert got.status == 401


async def test_beyond_this_device_there_is_no_way_without_tls(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="beyond this device it needs a certificate, found none"):
        async with serving(tmp_path, settings=EdgeSettings(application_host=WIDE, application_port=0)):
            pass
    (tmp_path / "tls").mkdir()
    wrong = wide(tmp_path / "tls")
    (tmp_path / "tls" / "face.key").write_text("no key")
    with pytest.raises(BadSetting, match="expected a certificate and its key in PEM"):
        async with serving(tmp_path, settings=wrong):
            pass
    with pytest.raises(BadSetting, match="together, found one of them"):
        resolve_settings(EdgeSettings, file="application_key = 'k'")
