"""The steps of the demo, in order, each followed by a look into the database."""

import asyncio
from collections.abc import Awaitable, Callable

from gateway_client import GatewayUnavailable
from upgrade_core.descriptors import Undo
from uplift_cli.demo.board import Board
from uplift_cli.demo.check import Checker, Findings
from uplift_cli.demo.embedded import DemoStack
from uplift_cli.demo.errors import StepFailed
from uplift_cli.demo.platform import JobView, Platform
from uplift_cli.demo.requests import PAUSE_MAX, Caller
from uplift_cli.demo.verdict import Claim, about_data

RELEASES = (("mod-users", ("1.0.0", "1.1.0", "2.0.0", "2.1.0", "3.0.0")), ("mod-loans", ("1.0.0",)))
KILLED = ("worker", "gateway", "temporal")
_JOB_WITHIN = 90.0
_GONE_WITHIN = 30.0
_SEED_ROWS = 300
_STEADY = 2.0  # seconds of undisturbed requests between the steps
_INTO_MIGRATION = 1.5
_LOOK = 0.1


class Scenario:
    """Runs the steps.

    Args:
        board: Shows them.
        stack: Is killed in part.
        platform: The gateway.
        caller: Told when cut connections are to be expected.
        checker: Looks into the database.
    """

    def __init__(self, *, board: Board, stack: DemoStack, platform: Platform, caller: Caller, checker: Checker) -> None:
        self.claims: list[Claim] = []
        self.findings: dict[str, Findings] = {}
        self.load_seconds = 0.0
        self._board = board
        self._stack = stack
        self._platform = platform
        self._caller = caller
        self._checker = checker
        self._tenants = tuple(board.tenants)
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """All steps; the last look into the database is taken whatever happened before.

        Raises:
            StepFailed: A step did not end as it must; the rest was left out.
        """
        await self._set_up()
        loads = [state.load for state in self._board.tenants.values()]
        began = self._loop.time()
        for load in loads:
            load.start()
        try:
            for step in (self._upgrade, self._fail, self._downgrade, self._kill):
                await asyncio.sleep(_STEADY)
                await step()
            await asyncio.sleep(_STEADY)
        finally:
            self._board.enter("waiting for the last answers, then the last look into the database")
            self.load_seconds = self._loop.time() - began
            await asyncio.gather(*(load.stop() for load in loads))
            await self._check("in the end")

    async def _set_up(self) -> None:
        board, platform = self._board, self._platform
        board.enter(f"{len(self._tenants)} tenants get mod-users 1.0.0 and mod-loans 1.0.0")
        for product, versions in RELEASES:
            for version in versions:
                # 2.0.0 is asked for the way back to 1.1.0; the others are undone from a copy.
                undo = Undo.REVERSIBLE if version == "2.0.0" else Undo.SNAPSHOT
                await platform.add_module(product, version, undo=undo)
        for tenant in self._tenants:
            await platform.add_tenant(tenant)
        views = await self._jobs(self._tenants, "mod-users-1.0.0", "mod-loans-1.0.0")
        self._require("all tenants have mod-users 1.0.0 and mod-loans 1.0.0", views, "done")

        def told(tenant: str) -> Callable[[int], None]:
            def tell(written: int) -> None:
                board.tenants[tenant].doing = f"{written} of {_SEED_ROWS} users" if written < _SEED_ROWS else ""

            return tell

        await asyncio.gather(*(board.tenants[name].load.seed(_SEED_ROWS, progress=told(name)) for name in self._tenants))
        for state in board.tenants.values():
            state.load.books.writes_sent = 0  # the rate is that of the steady writes
        board.say(f"each tenant has {_SEED_ROWS} users; from now on all of them are used")

    async def _upgrade(self) -> None:
        self._board.enter("mod-users 1.0.0 -> 2.0.0 for all tenants at once: the migration splits a column, 4 s")
        views = await self._jobs(self._tenants, "mod-users-2.0.0", seconds=4)
        self._require("all tenants were upgraded to mod-users 2.0.0", views, "done")
        await self._check("after the upgrade")

    async def _fail(self) -> None:
        tenant = self._tenants[0]
        self._board.enter(f"mod-users 2.0.0 -> 3.0.0 for {tenant}: the migration fails half way")
        before = await self._checker.structure(tenant)
        views = await self._jobs((tenant,), "mod-users-3.0.0", seconds=3, let_others_be=True)
        self._require(f"the failed upgrade of {tenant} was rolled back", views, "rolled_back")
        self._board.say(f"{tenant}: {views[tenant].error}")
        after = await self._checker.structure(tenant)
        differences = sorted(set(before) ^ set(after))
        self._claim(
            "after the rollback the schema is equal to before",
            holds=before == after,
            detail="; ".join(differences) or f"{len(after)} columns, indexes and constraints",
        )
        versions = await self._platform.versions(tenant)
        self._claim(f"{tenant} is on mod-users 2.0.0 again", holds=versions.get("mod-users") == "2.0.0", detail=str(versions))
        gone = await self._within(_GONE_WITHIN, self._no_instance("mod-users-3.0.0"))
        self._claim("the new instance is gone", holds=gone, detail="mod-users-3.0.0")
        await self._check("after the rollback")

    async def _downgrade(self) -> None:
        # 2.1.0 only adds an index to what 2.0.0 left: there would be no migration to be killed in the middle of.
        self._board.enter("mod-users 2.0.0 -> 1.1.0 for all tenants: a downgrade joins the columns again")
        views = await self._jobs(self._tenants, "mod-users-1.1.0", seconds=1)
        self._require("all tenants were downgraded to mod-users 1.1.0", views, "done")
        await self._check("after the downgrade")

    async def _kill(self) -> None:
        board, stack = self._board, self._stack
        board.enter(f"mod-users 1.1.0 -> 2.1.0 for all tenants, 6 s; {', '.join(KILLED)} are killed with -9 in the middle")
        running = asyncio.create_task(self._jobs(self._tenants, "mod-users-2.1.0", seconds=6))
        try:
            migrating = await self._within(_JOB_WITHIN, self._all_migrating)
            await asyncio.sleep(_INTO_MIGRATION)
            half = [tenant for tenant in self._tenants if await self._checker.half_changed(tenant)]
            self._caller.kill_under_way = True
            stack.kill(*KILLED)
            board.say(f"killed -9: {', '.join(KILLED)}")
            self._claim(
                "they were killed in mid-migration",
                holds=migrating and len(half) == len(self._tenants),
                detail=f"the schema was half changed for {', '.join(half) or 'nobody'}",
            )
            back = await self._within(_JOB_WITHIN, self._parts_back)
            board.say(f"{', '.join(KILLED)} {'run again' if back else 'do not run again'}")
            self._claim("what was killed runs again", holds=back)
            await asyncio.sleep(PAUSE_MAX)  # whoever was cut has been sent again by then
            self._caller.kill_under_way = False
            views = await running
        finally:
            running.cancel()
            self._caller.kill_under_way = False
        self._require("the runs that were killed ended as done", views, "done")
        await self._check("after the kill")

    async def _jobs(
        self, tenants: tuple[str, ...], *modules: str, seconds: float = 0, let_others_be: bool = False
    ) -> dict[str, JobView]:
        """Bring tenants to modules at once and wait for the end; `let_others_be`: claim that nobody else was held."""
        for state in self._board.tenants.values():
            state.most_parked = 0

        async def one(tenant: str) -> JobView:
            state = self._board.tenants[tenant]

            def seen(view: JobView) -> None:
                state.doing = "" if view.outcome else f"{view.phase} {view.progress}".strip()

            try:
                job = await self._platform.start(tenant, *modules, migration_seconds=seconds)
                view = await self._platform.follow(tenant, job, seen=seen, timeout=_JOB_WITHIN)
            finally:
                state.doing = ""
            state.versions = await self._platform.versions(tenant)
            held = f"held for {view.held:.1f} s, {state.most_parked} requests seen waiting at once"
            self._board.say(f"{tenant}: {' and '.join(modules)}: {view.outcome}, {held}")
            return view

        views = dict(zip(tenants, await asyncio.gather(*(one(tenant) for tenant in tenants)), strict=True))
        if let_others_be:
            most = {name: state.most_parked for name, state in self._board.tenants.items() if name not in tenants}
            held = ", ".join(f"{name} {number}" for name, number in most.items())
            self._claim("meanwhile no request of another tenant was held", holds=not any(most.values()), detail=held)
        return views

    async def _all_migrating(self) -> bool:
        return all(self._board.tenants[tenant].doing.startswith("migrating") for tenant in self._tenants)

    async def _parts_back(self) -> bool:
        return self._stack.back(*KILLED)

    def _no_instance(self, module: str) -> Callable[[], Awaitable[bool]]:
        async def gone() -> bool:
            try:
                return not await self._platform.has_instance(module)
            except GatewayUnavailable:
                return False

        return gone

    async def _within(self, seconds: float, condition: Callable[[], Awaitable[bool]]) -> bool:
        """Wait until something holds; whether it did in time."""
        end = self._loop.time() + seconds
        while not await condition():
            if self._loop.time() > end:
                return False
            await asyncio.sleep(_LOOK)
        return True

    async def _check(self, when: str) -> None:
        self._findings_of(when, await asyncio.gather(*(self._compare(tenant) for tenant in self._tenants)))

    async def _compare(self, tenant: str) -> Findings:
        return await self._checker.compare(tenant, self._board.tenants[tenant].load.ledger)

    def _findings_of(self, when: str, found: list[Findings]) -> None:
        self.findings = dict(zip(self._tenants, found, strict=True))
        claim = about_data(when, self.findings)
        self._claim(claim.text, holds=claim.holds, detail=claim.detail)

    def _claim(self, text: str, *, holds: bool, detail: str = "") -> None:
        claim = Claim(text=text, holds=holds, detail=detail)
        self.claims.append(claim)
        self._board.say(claim.line())

    def _require(self, text: str, views: dict[str, JobView], outcome: str) -> None:
        """Claim that jobs ended in some way; what follows makes no sense if they did not."""
        others = [f"{tenant}: {view.outcome} {view.error}" for tenant, view in views.items() if view.outcome != outcome]
        self._claim(text, holds=not others, detail="; ".join(others))
        if others:
            raise StepFailed(f"not so: {text}")


__all__ = ["Scenario"]
