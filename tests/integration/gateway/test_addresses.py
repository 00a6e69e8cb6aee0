"""Where instances and the gateway itself may be reached: IPv6, sockets in the file system, TLS."""

import asyncio
import ssl
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from aiohttp import web

MB = 2**20


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: Any) -> tuple[Path, Path]:
    """One for localhost, signed by itself: its file and its key's."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture
async def serve() -> Any:
    """Starts a module at a place: `host=`, `path=` or `ssl_context=`; it tells what it was asked."""
    runners = []

    async def start(**place: Any) -> tuple[list[web.BaseRequest], str]:
        asked: list[web.BaseRequest] = []

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if request.raw_path != "/admin/health":
                asked.append(request)
            return web.Response(body=await request.read())

        runner = web.ServerRunner(web.Server(answer, access_log=None))
        await runner.setup()
        runners.append(runner)
        if "path" in place:
            await web.UnixSite(runner, place["path"]).start()
            return asked, f"http+unix://{quote(place['path'], safe='')}"
        site = web.TCPSite(runner, place.get("host", "127.0.0.1"), 0, ssl_context=place.get("ssl_context"))
        await site.start()
        port = runner.addresses[0][1]
        if "ssl_context" in place:
            return asked, f"https://localhost:{port}"
        return asked, f"http://[::1]:{port}"

    yield start
    for runner in runners:
        await runner.cleanup()


async def check(site: Any, url: str, asked: list[web.BaseRequest], host: str) -> None:
    tenant, product = await site.wired(url)
    body = bytes(range(256)) * 4_000
    for _ in range(2):
        found = await site.http.post(f"/{product}/x", headers={"X-Okapi-Tenant": tenant}, content=body)
        assert (found.status_code, found.content) == (200, body)
    assert {request.headers["Host"] for request in asked} == {host}
    health = await site.http.get("/_/discovery/health/" + f"{product}-1.0.0")
    assert [each["healthStatus"] for each in health.json()] == [True]


async def test_an_instance_on_ipv6(site: Any, serve: Any) -> None:
    asked, url = await serve(host="::1")
    await check(site, url, asked, url.removeprefix("http://"))


async def test_an_instance_behind_a_socket_in_the_file_system(site: Any, serve: Any, tmp_path: Path) -> None:
    asked, url = await serve(path=str(tmp_path / "mod a.sock"))
    await check(site, url, asked, "localhost")


async def test_an_instance_whose_certificate_is_signed_by_the_authority_of_the_setting(
    new_site: Any, serve: Any, certificate: tuple[Path, Path]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    site = await new_site(instances_ca_file=str(certificate[0]))
    asked, url = await serve(ssl_context=context)
    await check(site, url, asked, url.removeprefix("https://"))


async def test_an_instance_whose_certificate_nobody_knows_gets_nothing(
    site: Any, serve: Any, certificate: tuple[Path, Path]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    asked, url = await serve(ssl_context=context)
    tenant, product = await site.wired(url)
    found = await site.get(tenant, f"/{product}", Prefer="wait=0")
    assert (found.status_code, asked) == (503, [])


@pytest.mark.parametrize("bad", ["http+unix://relative%2Fmod.sock", "ftp://127.0.0.1", "http+unix://"])
async def test_an_address_that_is_none_is_refused(site: Any, name: Any, bad: str) -> None:
    module = await site.register(f"{name('m')}-1.0.0")
    found = await site.http.post("/_/discovery/modules", json={"srvcId": module, "instId": "i", "url": bad})
    assert (found.status_code, "http+unix://" in found.text) == (400, True)


async def test_the_gateway_speaks_tls_to_requesters(
    gateway_process: Any, postgres_dsn: Any, upstream: Any, certificate: tuple[Path, Path], site_of: Any
) -> None:
    dsn = await asyncio.to_thread(postgres_dsn)
    plain = await asyncio.to_thread(gateway_process(dsn).start)
    site = site_of(plain.url)
    tenant, product = await site.wired(upstream.url)
    await site.close()
    assert await asyncio.to_thread(plain.end) == 0

    process = gateway_process(dsn, tls_cert_file=certificate[0], tls_key_file=certificate[1])
    process.launch()
    url, context = process.url.replace("http://127.0.0.1", "https://localhost"), ssl.create_default_context(cafile=certificate[0])
    async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=30) as http:
        async with asyncio.timeout(30):
            while not await _answers(http):
                assert process.process.poll() is None, process.log.read_text()
                await asyncio.sleep(0.05)
        for _ in range(3):
            found = await http.post(f"/{product}/x", headers={"X-Okapi-Tenant": tenant}, content=bytes(MB))
            assert (found.status_code, found.json()["method"]) == (200, "POST")
        assert upstream.bodies == [bytes(MB)] * 3
        assert upstream.requests[0].headers["X-Okapi-Url"] == process.url.replace("http:", "https:")


async def _answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/_/proxy/health")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tls_cert_file": "/nowhere.pem"}, "gateway.tls_cert_file"),
        ({"tls_key_file": "/nowhere.pem"}, "gateway.tls_key_file is set without"),
        ({"instances_ca_file": "/nowhere.pem"}, "gateway.instances_ca_file /nowhere.pem"),
    ],
)
async def test_files_that_cannot_be_used_are_named_at_the_start(
    gateway_process: Any, settings: dict[str, str], said: str
) -> None:
    process = gateway_process(**settings)
    process.launch()
    assert await asyncio.to_thread(process.process.wait, 30) == 1
    assert said in process.log.read_text()
