"""Composition root of the gateway: `uplift-gateway`."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys

import uvloop

from gateway.app import Gateway
from gateway.garbage import Garbage
from gateway.membership import Replaced
from gateway.observation import facts
from gateway.platform import Platform
from gateway.store import Database, DatabaseError, Outdated
from uplift_settings import SecretError, Settings, SettingsError, load, read_secret
from uplift_settings.logs import log_to_stderr
from uplift_settings.tracing import start_tracing

_log = logging.getLogger("gateway")
_START_WAIT = 30.0
"""Seconds to wait at start for Postgres."""


def main() -> None:
    """Run the gateway until SIGTERM or SIGINT."""
    log_to_stderr()
    try:
        settings = load()
        log_to_stderr(settings.log, facts=facts)
        code = uvloop.run(_serve(settings))
    except (SettingsError, SecretError, DatabaseError, OSError) as error:
        _log.error("%s", error)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the SDK's runtime may crash in a regular interpreter exit


async def _serve(settings: Settings) -> int:
    gateway_settings = settings.gateway
    token = read_secret(f"file:{gateway_settings.token_file}", what="gateway.token_file") if gateway_settings.token_file else ""
    if not token and not gateway_settings.tokens_file and not _is_loopback(gateway_settings.host):
        raise SettingsError(
            f"gateway.host {gateway_settings.host} is not a loopback address: set gateway.tokens_file, so that the admin API"
            " is not open to everybody"
        )
    stop, hurry = asyncio.Event(), asyncio.Event()

    def asked_to_end() -> None:
        (hurry if stop.is_set() else stop).set()

    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, asked_to_end)
    database = Database(dsn=read_secret(gateway_settings.dsn, what="gateway.dsn"), pool_size=gateway_settings.pool)
    await database.open(wait=_START_WAIT)
    sock = _listening_socket(gateway_settings.host, gateway_settings.port)
    port = sock.getsockname()[1]
    platform = Platform(
        database=database,
        settings=gateway_settings,
        url=gateway_settings.url.rstrip("/")
        or f"{'https' if gateway_settings.tls_cert_file else 'http'}://{gateway_settings.host}:{port}",
        ui_url=settings.temporal.ui_url.rstrip("/"),
        namespace=settings.temporal.namespace,
        node=gateway_settings.node or f"{socket.gethostname()}:{port}",
        replaces=os.environ.get("UPLIFT_GATEWAY_REPLACES", ""),
    )
    slot = os.environ.pop("UPLIFT_GATEWAY_SLOT", None)
    tracing = start_tracing(settings.tracing, service="uplift-gateway", instance=platform.membership.name)
    gateway = Gateway(
        platform=platform,
        settings=gateway_settings,
        temporal=settings.temporal,
        token=token,
        tracing=tracing,
        slot=None if slot is None else int(slot),
    )
    await gateway.open(sock)
    garbage = Garbage(interval=gateway_settings.collect_interval, slow=gateway_settings.collect_slow)
    garbage.open()
    collecting = asyncio.create_task(garbage.run())
    _log.info("gateway listens on %s", platform.url)
    _tell_parent(stop)
    code = 0
    try:
        await _until_stopped(stop, gateway)
    except (Replaced, Outdated) as error:
        _log.error("%s", error)
        code = 1
    collecting.cancel()
    await gateway.close(hurry=hurry)
    await database.close()
    if tracing is not None:
        await asyncio.to_thread(tracing.close)
    return code


async def _until_stopped(stop: asyncio.Event, gateway: Gateway) -> None:
    """Wait for a signal.

    Raises:
        Replaced: Another process has our name.
        Outdated: The database was migrated beyond this release.
    """
    assert gateway.member is not None
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({stopped, gateway.member}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if gateway.member.done():
        gateway.member.result()


def _tell_parent(stop: asyncio.Event) -> None:
    """Tell the parent that started us (`UPLIFT_READY_FD`, see `gateway.children`) that we listen; leave when it is gone."""
    inherited = os.environ.pop("UPLIFT_READY_FD", None)
    if inherited is None:
        return
    channel = socket.socket(fileno=int(inherited))
    channel.setblocking(False)  # noqa: FBT003 - its only parameter

    def parent_is_gone() -> None:
        asyncio.get_running_loop().remove_reader(channel)
        channel.close()
        stop.set()

    asyncio.get_running_loop().add_reader(channel, parent_is_gone)  # it never writes
    with contextlib.suppress(OSError):  # the end of the channel tells
        channel.send(b"1")


def _listening_socket(host: str, port: int) -> socket.socket:
    """The socket that a supervisor hands over (`UPLIFT_LISTEN_FD`), so that none is refused while we restart; else our own."""
    inherited = os.environ.pop("UPLIFT_LISTEN_FD", None)
    if inherited is not None:
        return socket.socket(fileno=int(inherited))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port} (gateway.host, gateway.port): {error.strerror}") from error
    sock.listen(4096)
    return sock


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    main()
