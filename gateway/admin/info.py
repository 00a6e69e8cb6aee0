"""`/_/version` and `/_/proxy/health`."""

from importlib.metadata import version as version_of

from aiohttp import web

from gateway.admin.http import Call, answer


def our_version() -> str:
    """The version of this release."""
    return version_of("uplift-upgrades")


async def version(call: Call) -> web.Response:
    """Our version, as text."""
    del call
    return web.Response(text=our_version())


async def health(call: Call) -> web.Response:
    """That the gateway answers."""
    del call
    return answer([])
