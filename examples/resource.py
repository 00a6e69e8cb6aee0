"""The REST routes of one table: what a newcomer would write for any module."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import asyncpg
from aiohttp import web

from examples.database import Database, tenant_of

DATABASE = web.AppKey("database", Database)

_MOST_ROWS = 10_000


class Resource(ABC):
    """Rows with a UUID each, in the tenant's schema.

    Args:
        table: The table's name, which the paths begin with too.
        columns: What is read of a row; `id` first.
    """

    def __init__(self, *, table: str, columns: tuple[str, ...]) -> None:
        self._table = table
        self._columns = columns

    @abstractmethod
    def parse(self, body: dict[str, Any]) -> dict[str, Any]:
        """A body's values by column, without the id.

        Raises:
            ValueError: Something is wrong with it.
        """

    @abstractmethod
    def render(self, row: asyncpg.Record) -> dict[str, Any]:
        """A row as JSON."""

    @abstractmethod
    async def check(self, values: dict[str, Any], request: web.Request) -> None:
        """Refuse what must not be stored, by raising the HTTP error."""

    def contexts(self) -> list[Callable[[web.Application], AsyncIterator[None]]]:
        """What the routes need open as long as the application runs; nothing more than the database, as a rule."""
        return []

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get(f"/{self._table}", self.list),
            web.get(f"/{self._table}/count", self.count),
            web.get(f"/{self._table}/_version", self.version),
            web.get(f"/{self._table}/{{id}}", self.get),
            web.put(f"/{self._table}/{{id}}", self.put),
            web.delete(f"/{self._table}/{{id}}", self.delete),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """At most `?limit=` rows (100 unless told), by id, and how many there are in all."""
        limit = request.query.get("limit", "100")
        if not limit.isdecimal() or int(limit) > _MOST_ROWS:
            raise web.HTTPBadRequest(text=f"limit must be a number from 0 to {_MOST_ROWS}")
        rows = await _pool(request).fetch(
            f"SELECT {', '.join(self._columns)} FROM {self._in_schema(request)} ORDER BY id LIMIT $1", int(limit)
        )
        return web.json_response({self._table: [self.render(row) for row in rows], "totalRecords": await self._count(request)})

    async def count(self, request: web.Request) -> web.Response:
        """How many rows there are; a cheap request that reaches the data, so a good smoke check."""
        return web.json_response({"count": await self._count(request)})

    async def version(self, request: web.Request) -> web.Response:
        """The module id that the tenant's data is at."""
        database, tenant = request.app[DATABASE], tenant_of(request)
        found = await database.data_version(tenant)
        if found is None:
            raise web.HTTPNotFound(text=f"tenant {tenant} has no data here")
        return web.json_response({"version": f"{database.product}-{found}"})

    async def get(self, request: web.Request) -> web.Response:
        """One row."""
        row = await _pool(request).fetchrow(
            f"SELECT {', '.join(self._columns)} FROM {self._in_schema(request)} WHERE id = $1", _id(request)
        )
        if row is None:
            raise web.HTTPNotFound(text=f"{request.path} is not here")
        return web.json_response(self.render(row))

    async def put(self, request: web.Request) -> web.Response:
        """Write a row; sending it twice is the same as sending it once."""
        row_id = _id(request)
        try:
            values = {"id": row_id, **self.parse(_object(await request.json()))}
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        await self.check(values, request)
        # One statement is one transaction: it has been committed when its row comes back.
        inserted = await _pool(request).fetchval(
            f"INSERT INTO {self._in_schema(request)} ({', '.join(values)}) "
            f"VALUES ({', '.join(f'${position}' for position in range(1, len(values) + 1))}) "
            f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in values)} "
            "RETURNING xmax = 0",
            *values.values(),
        )
        return web.Response(status=201 if inserted else 204)

    async def delete(self, request: web.Request) -> web.Response:
        """Remove a row."""
        done = await _pool(request).execute(f"DELETE FROM {self._in_schema(request)} WHERE id = $1", _id(request))
        if done == "DELETE 0":
            raise web.HTTPNotFound(text=f"{request.path} is not here")
        return web.Response(status=204)

    async def _count(self, request: web.Request) -> int:
        number: int = await _pool(request).fetchval(f"SELECT count(*) FROM {self._in_schema(request)}")
        return number

    def _in_schema(self, request: web.Request) -> str:
        return f"{request.app[DATABASE].schema(tenant_of(request))}.{self._table}"


def text_of(body: dict[str, Any], name: str) -> str:
    """A text that must be there.

    Raises:
        ValueError: It is not.
    """
    value = body.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text")  # noqa: TRY004 - one kind of error for whatever is wrong with a body
    return value


def seq_of(body: dict[str, Any]) -> int | None:
    """The number by which writers count their writes, if they do.

    Raises:
        ValueError: It is no whole number.
    """
    value = body.get("seq")
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError("seq must be a whole number")
    return value


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")  # noqa: TRY004 - as above
    return body


def _id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["id"])
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{request.match_info['id']} is no UUID") from error


def _pool(request: web.Request) -> asyncpg.Pool:
    return request.app[DATABASE].pool


__all__ = ["DATABASE", "Resource", "seq_of", "text_of"]
