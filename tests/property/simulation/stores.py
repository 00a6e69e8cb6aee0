"""A replica's way to the rows, as `gateway/store` has it: late, away, or with its answer lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from gateway.store import DatabaseError, HoldRow, NewHold, Picture, Quiet
from gateway.store.nodes import Node

if TYPE_CHECKING:
    from .replica import Replica


class Wire:
    """The connection that hears notices."""

    def __init__(self) -> None:
        self.heard: dict[str, Callable[..., None]] = {}
        self.lost: Callable[..., None] = lambda *_: None
        self.closed = False

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None:
        self.heard[channel] = callback

    def add_termination_listener(self, callback: Callable[..., None]) -> None:
        self.lost = callback

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.closed = True


class Database:
    """A replica's way to Postgres.

    Args:
        replica: Whose; its `latency` delays both ways.
    """

    def __init__(self, replica: "Replica") -> None:
        self.away = False
        self._replica = replica

    async def ask(self, work: Callable[[], Any], *, pool: bool = True) -> Any:
        """Do one transaction, at once and as a whole; whether its answer comes back is another matter."""
        if pool and self.away:
            raise DatabaseError("away")
        await self._way()
        found = work()
        await self._way()
        return found

    async def dedicated(self, *, timeout: float) -> Wire:
        await self._way()
        self._replica.wire = Wire()
        return self._replica.wire

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """One in which nothing is written that matters here."""
        await self.ask(lambda: None)
        yield

    def cut(self, why: str = "") -> None:
        del why
        self.away = True

    async def renew(self) -> None:
        await self._way()
        self.away = False

    async def _way(self) -> None:
        await asyncio.sleep(self._replica.latency)
        if not self._replica.alive:
            raise asyncio.CancelledError
        if self._replica.cut or self._replica.world.away:
            raise DatabaseError("away")


class _Store:
    def __init__(self, replica: "Replica") -> None:
        self._ask = replica.database.ask
        self._world = replica.world


class Changes(_Store):
    """As gateway/store/changes.py."""

    async def since(self, epoch: int, _stamp: str | None = None) -> Picture:
        return await self._ask(lambda: self._world.picture(epoch))

    async def everything(self, _epoch: int = -1, _stamp: str | None = None) -> Picture:
        return await self._ask(lambda: self._world.picture(None))

    async def forget_old(self) -> None:
        pass


class Nodes(_Store):
    """As gateway/store/nodes.py."""

    async def join(self, *, name: str, generation: str, lease: float, settle: float, replaces: str = "") -> None:
        def work() -> None:
            world = self._world
            dead = [each for each, node in world.nodes.items() if each in (name, replaces) and node["generation"] != generation]
            world.bury(dead, settle)
            world.nodes[name] = {"generation": generation, "applied": -1, "renewed": world.now, "until": world.now + lease}
            world.ghosts.pop(generation, None)
            world.notify("nodes", name)

        await self._ask(work)

    async def renew(self, connection: "Wire", *, generation: str, lease: float, applied: int) -> int | None:
        def work() -> int | None:
            for node in self._world.nodes.values():
                if node["generation"] == generation and node["until"] > self._world.now:
                    node.update(renewed=self._world.now, until=self._world.now + lease, applied=max(node["applied"], applied))
                    return self._world.epoch
            return None

        if connection.is_closed():
            raise DatabaseError("closed")
        return await self._ask(work, pool=False)

    async def set_clock_right(self, connection: "Wire", *, generation: str, settle: float) -> float | None:
        def work() -> float | None:
            now = self._world.now
            ours = next((node for node in self._world.nodes.values() if node["generation"] == generation), None)
            if ours is None:
                return None
            if ours["until"] > now:
                return 0.0
            since = now - ours["renewed"]
            for node in self._world.nodes.values():
                if node["until"] <= now:
                    node.update(until=now + node["until"] - node["renewed"], renewed=now)
            self._world.ghosts.update(dict.fromkeys(self._world.ghosts, now + settle))
            return float(since)

        if connection.is_closed():
            raise DatabaseError("closed")
        return await self._ask(work, pool=False)

    async def holder_of(self, name: str) -> str | None:
        def work() -> str | None:
            node = self._world.nodes.get(name)
            return node["generation"] if node is not None and node["until"] > self._world.now else None

        return await self._ask(work)

    async def set_applied(self, generation: str, epoch: int) -> None:
        def work() -> None:
            for node in self._world.nodes.values():
                if node["generation"] == generation:
                    node["applied"] = epoch
                    self._world.notify("nodes")

        await self._ask(work)

    async def living(self) -> list[Node]:
        return await self._ask(
            lambda: [
                Node(name=name, generation=node["generation"], applied=node["applied"], silent=self._world.now - node["renewed"])
                for name, node in self._world.nodes.items()
                if node["until"] > self._world.now
            ]
        )

    async def say_quiet(self, subject: str, generation: str) -> None:
        def work() -> None:
            if (subject, generation) not in self._world.quiet:
                self._world.quiet.add((subject, generation))
                self._world.notify("nodes")

        await self._ask(work)

    async def is_quiet(self, subject: str, *, settle: float) -> Quiet:
        return await self._ask(lambda: self._world.is_quiet(subject, settle))

    async def forget_old(self) -> None:
        pass


class Holdings(_Store):
    """As gateway/store/holds.py."""

    async def set(self, holds: list[NewHold], **row: Any) -> list[HoldRow]:
        def work() -> list[HoldRow]:
            for hold in holds:
                self._world.put_hold(hold, **{name: row[name] for name in ("holder", "grace", "ttl", "origin")})
            return [HoldRow(**self._world.holds[hold.id].row) for hold in holds]

        return await self._ask(work)

    async def try_held(self, hold: str, *, settle: float) -> Quiet | None:
        return await self._ask(lambda: self._world.try_held(hold, settle))

    async def take_back_quiet(self, hold: str, generation: str) -> bool:
        return await self._ask(lambda: self._world.take_back_quiet(hold, generation))

    async def resume(self, hold: str, **how: Any) -> str:
        return await self._ask(lambda: self._world.open(hold))


class Reports(_Store):
    """As gateway/store/problems.py; nobody looks at problems here."""

    async def open(self, connection: None, problems: list[Any]) -> tuple[()]:
        return ()

    async def resolve(self, connection: None, keys: list[str]) -> tuple[()]:
        return ()


class Outbox(_Store):
    """As gateway/store/outbox.py; no module here wants to be told."""

    def __init__(self, replica: "Replica") -> None:
        super().__init__(replica)
        self.added = asyncio.Event()

    async def add(self, messages: list[Any]) -> None:
        await self._ask(lambda: None)
