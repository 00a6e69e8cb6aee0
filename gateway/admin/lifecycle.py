"""`/_/lifecycle`: what is held, a place to wait, and what an administrator should know."""

from aiohttp import web

from gateway.admin.http import ApiError, Call, answer
from gateway.store.problems import ProblemRow
from upgrade_core.protocol import Hold

MAX_WAIT = 60.0
"""Longest wait of one call, in seconds: proxies in between close silent connections after about a minute."""


async def links(call: Call) -> web.Response:
    """The links that are held, in flight or parked on; with `tenant=` those of one tenant."""
    table = call.platform.table
    found = []
    for link in table.links(call.query.get("tenant")):
        if link.hold is Hold.OPEN and not link.flow.in_flight and not link.waiters:
            continue
        found.append(
            {
                "tenant": link.tenant,
                "product": link.product,
                "module": link.module,
                "hold": link.hold,
                "holdId": link.hold_id or None,
                "holder": link.holder or None,
                "since": link.since or None,
                "inFlight": len(link.flow.in_flight),
                "parked": len(link.waiters),
            }
        )
    return answer(found)


async def delay(call: Call) -> web.Response:
    """A hold, after waiting for at most `wait` seconds: DELAY, or RESUME when it is over; `for=holder`: when that may begin."""
    asks = call.query.get("for", "requester")
    if asks not in ("requester", "holder"):
        raise ApiError(400, f"Bad value for parameter for: {asks}; one of requester, holder")
    seconds = call.seconds("wait", most=MAX_WAIT)
    return answer(await call.services.holds.wait(call.path["hold"], seconds, holder=asks == "holder"))


async def problems(call: Call) -> web.Response:
    """What an administrator should know now, oldest first."""
    return answer([_problem(row) for row in await call.services.problems.standing()])


def _problem(row: ProblemRow) -> dict[str, str]:
    problem = row.problem
    members = {
        "key": problem.key,
        "kind": problem.kind,
        "severity": problem.severity,
        "message": problem.message,
        "module": problem.module,
        "tenant": problem.tenant,
        "since": row.since.isoformat(),
        "remedy": problem.remedy,
    }
    return {name: value for name, value in members.items() if value is not None}
