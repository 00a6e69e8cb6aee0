"""What FOLIO's clients log in at, in one small process: a password for each user, tokens that say who it is.

Run as `python login.py --port N --password WORD`: everybody's password. `/authn/login-with-expiry` answers with cookies, as from
Orchid on, `/authn/login` with the header `x-okapi-token`. Below `/whoami` it tells which of the two a request brought along.
"""

import argparse
import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web


class Login:
    def __init__(self, password: str) -> None:
        self._password = password

    async def login(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked.get("password") != self._password:
            return web.json_response({"errors": [{"message": "Password does not match"}]}, status=422)
        token = _token(asked["username"], request.headers["X-Okapi-Tenant"])
        if not request.path.endswith("-with-expiry"):
            return web.json_response({}, status=201, headers={"x-okapi-token": token})
        now = datetime.now(UTC)
        said = {
            f"{kind}TokenExpiration": (now + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
            for kind, minutes in (("access", 10), ("refresh", 600))
        }
        answer = web.json_response(said, status=201)
        answer.set_cookie("folioAccessToken", token, httponly=True, path="/", max_age=600)
        answer.set_cookie("folioRefreshToken", token, httponly=True, path="/authn", max_age=36_000)
        return answer

    async def who_am_i(self, request: web.Request) -> web.Response:
        given = request.cookies.get("folioAccessToken") or request.headers.get("X-Okapi-Token", "")
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(given.split(".")[1] + "==")) if given else {}
        return web.json_response({"users": [claims], "totalRecords": 1})


def _token(user: str, tenant: str) -> str:
    """As FOLIO's, but for the signature."""
    parts = ({"alg": "none"}, {"sub": user, "tenant": tenant})
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), "unsigned"])


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--port", "--password"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    login, app = Login(options.password), web.Application()
    app.router.add_post("/authn/login", login.login)
    app.router.add_post("/authn/login-with-expiry", login.login)
    app.router.add_get("/whoami", login.who_am_i)
    app.router.add_get("/", lambda _: _up())
    web.run_app(app, host="127.0.0.1", port=int(options.port), print=None)


async def _up() -> web.Response:
    return web.Response(text="up")


if __name__ == "__main__":
    main()
