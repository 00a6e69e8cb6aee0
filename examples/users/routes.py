"""The HTTP routes of mod-users."""

from datetime import UTC, datetime
from typing import Any

import asyncpg
from aiohttp import web

from examples.resource import Resource, seq_of, text_of
from examples.users.releases import UsersRelease


class Users(Resource):
    """Users as a release keeps them: old ones in a column `name`, newer ones as first and last name."""

    def __init__(self, release: UsersRelease) -> None:
        self._release = release
        names = ("first_name", "last_name") if release.splits_names else ("name",)
        email = ("email",) if release.has_email else ()
        super().__init__(table="users", columns=("id", *names, "seq", "written_at", *email))

    async def count(self, request: web.Request) -> web.Response:
        """How many users there are, but for the release that cannot tell."""
        if self._release.breaks_count:
            raise web.HTTPInternalServerError(text="this release cannot count, on purpose")
        return await super().count(request)

    async def check(self, values: dict[str, Any], request: web.Request) -> None:
        """Any user may be stored."""

    def parse(self, body: dict[str, Any]) -> dict[str, Any]:
        """A body has `name`, or from 2.0.0 on instead `first_name` and `last_name`."""
        values: dict[str, Any] = {"seq": seq_of(body), "written_at": datetime.now(UTC)}
        if self._release.has_email:
            values["email"] = text_of(body, "email") if body.get("email") is not None else None
        if not self._release.splits_names:
            return values | {"name": text_of(body, "name")}
        if "name" not in body:
            return values | {name: text_of(body, name) for name in ("first_name", "last_name")}
        first, blank, last = text_of(body, "name").partition(" ")
        return values | {"first_name": first, "last_name": last if blank else None}

    def render(self, row: asyncpg.Record) -> dict[str, Any]:
        """Every release answers `name`, so that clients of the older interface go on working."""
        user = dict(row) | {"id": str(row["id"]), "written_at": row["written_at"].isoformat()}
        if self._release.splits_names:
            user["name"] = " ".join(part for part in (row["first_name"], row["last_name"]) if part is not None)
        return user


__all__ = ["Users"]
