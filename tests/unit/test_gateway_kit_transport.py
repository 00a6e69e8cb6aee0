"""What the transports make of DELAY, MISSING and RESUME, asynchronous and not."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from gateway_client import LifecycleTransport, ModuleDelayed, ModuleInterrupted, ModuleMissing, SyncLifecycleTransport

Answer = httpx.Response | Exception
Ask = Callable[..., httpx.Response]
PLACE = "/_/lifecycle/delays/h"


class Gateway:
    """Gives prepared answers, and notes what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[httpx.Request] = []
        self._answers: Iterator[Answer] = iter(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(params=["async", "sync"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Asks a gateway through one of the transports."""

    def ask(
        gateway: Gateway, method: str = "GET", *, budget: float = 30, known: str | None = None, **more: Any
    ) -> httpx.Response:
        inner = httpx.MockTransport(gateway)
        if request.param == "sync":
            with httpx.Client(transport=SyncLifecycleTransport(budget=budget, gateway=known, transport=inner)) as http:
                return http.request(method, "http://g.test/users?limit=1", **more)

        async def run() -> httpx.Response:
            transport = LifecycleTransport(budget=budget, gateway=known, transport=inner)
            async with httpx.AsyncClient(transport=transport) as client:
                return await client.request(method, "http://g.test/users?limit=1", **more)

        return asyncio.run(run())

    return ask


def delay(*, place: str | None = PLACE, retry_after: str | None = "1", **members: Any) -> httpx.Response:
    headers = {"X-Okapi-Lifecycle": "DELAY", **({"Location": place} if place else {})}
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    return httpx.Response(503, headers=headers, json={"detail": "users is being updated", **members})


def missing() -> httpx.Response:
    return httpx.Response(503, headers={"X-Okapi-Lifecycle": "MISSING"}, content=b"<html>")


def says(lifecycle: str) -> httpx.Response:
    return httpx.Response(200, json={"id": "h", "lifecycle": lifecycle})


def served() -> httpx.Response:
    return httpx.Response(200, text="served")


def test_requests_say_that_delay_is_understood(ask: Ask) -> None:
    gateway = Gateway(served())
    assert ask(gateway).text == "served"
    assert gateway.asked[0].headers["X-Okapi-Lifecycle"] == "delay"


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_a_delayed_request_is_sent_again_after_resume(ask: Ask, method: str) -> None:
    gateway = Gateway(delay(), says("DELAY"), says("RESUME"), served())
    more = {} if method in ("GET", "DELETE") else {"json": {"a": 1}}
    assert ask(gateway, method, **more).text == "served"
    first, poll, again, last = gateway.asked
    assert (poll.method, poll.url.path, again.url.path) == ("GET", PLACE, PLACE)
    assert 0 < float(poll.url.params["wait"]) <= 20
    assert "authorization" not in poll.headers
    assert (last.method, last.url, last.content) == (first.method, first.url, first.content)


def test_without_a_budget_the_error_says_all_that_is_known(ask: Ask) -> None:
    since, until = datetime(2030, 1, 2, 3, 4, tzinfo=UTC), datetime(2030, 1, 2, 3, 5, tzinfo=UTC)
    facts = {"module": "mod-users-1.0.0", "tenant": "t", "since": since.isoformat(), "until": until.isoformat()}
    gateway = Gateway(delay(retry_after="7", **facts))
    with pytest.raises(ModuleDelayed, match="users is being updated") as delayed:
        ask(gateway, budget=0)
    error = delayed.value
    assert (error.module, error.tenant, error.since, error.until, error.retry_after) == (
        "mod-users-1.0.0", "t", since, until, 7,
    )  # fmt: skip
    assert error.tell_user.endswith("please try again in about 7 seconds.")
    assert len(gateway.asked) == 1


def test_a_used_up_budget_is_an_error(ask: Ask) -> None:
    gateway = Gateway(*(says("DELAY") if n else delay() for n in range(20)))
    with pytest.raises(ModuleDelayed):
        ask(gateway, budget=0.2)
    assert sum(request.url.path == "/users" for request in gateway.asked) == 1


@pytest.mark.parametrize("answers", [(missing(),), (delay(), says("MISSING"))])
def test_missing_is_an_error_whatever_the_budget(ask: Ask, answers: tuple[httpx.Response, ...]) -> None:
    with pytest.raises(ModuleMissing) as caught:
        ask(Gateway(*answers))
    assert caught.value.tell_user.startswith("Service not available.")
    assert isinstance(caught.value, ModuleInterrupted)


def test_a_gateway_that_is_away_while_one_waits_is_asked_again(ask: Ask) -> None:
    gateway = Gateway(
        delay(), httpx.ConnectError("refused"), httpx.Response(502), httpx.Response(200, text="?"), says("RESUME"), served()
    )
    assert ask(gateway).text == "served"


def test_a_place_that_is_gone_means_that_it_is_over(ask: Ask) -> None:
    assert ask(Gateway(delay(), httpx.Response(404), served())).text == "served"


@pytest.mark.parametrize("place", [None, "http://elsewhere.test/_/lifecycle/delays/h", "http://[bad"])
def test_without_a_place_at_the_same_gateway_it_comes_back_after_a_while(ask: Ask, place: str | None) -> None:
    gateway = Gateway(delay(place=place, retry_after="0"), served())
    assert ask(gateway).text == "served"
    assert {request.url.host for request in gateway.asked} == {"g.test"}


def test_the_place_is_found_at_the_gateway_that_is_known(ask: Ask) -> None:
    gateway = Gateway(delay(), says("RESUME"), served())
    assert ask(gateway, known="http://other.test:9130/base").text == "served"
    assert str(gateway.asked[1].url.copy_with(query=None)) == f"http://other.test:9130{PLACE}"


@pytest.mark.parametrize(("status", "lifecycle"), [(503, "later"), (200, "RESUME"), (500, "DELAY")])
def test_other_answers_are_the_callers(ask: Ask, status: int, lifecycle: str) -> None:
    answer = httpx.Response(status, headers={"X-Okapi-Lifecycle": lifecycle}, text="x")
    assert ask(Gateway(answer)).status_code == status


def test_an_error_of_the_request_itself_is_the_callers(ask: Ask) -> None:
    with pytest.raises(httpx.ConnectError):
        ask(Gateway(httpx.ConnectError("refused")))


async def test_a_body_that_streams_cannot_be_sent_again() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"once"

    class Consuming(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.AsyncByteStream)
            sent.append(b"".join([part async for part in request.stream]))
            return delay()

    sent: list[bytes] = []
    async with httpx.AsyncClient(transport=LifecycleTransport(budget=30, transport=Consuming())) as http:
        with pytest.raises(ModuleDelayed):
            await http.post("http://g.test/users", content=body())
    assert sent == [b"once"]


async def test_a_modules_answer_is_still_streamed() -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b"line\n"

    transport = LifecycleTransport(budget=30, transport=httpx.MockTransport(Gateway(httpx.Response(200, stream=Endless()))))
    async with httpx.AsyncClient(transport=transport) as http, http.stream("GET", "http://g.test/users") as answer:
        assert await anext(answer.aiter_lines()) == "line"


def test_what_people_are_told_needs_no_words_of_ours() -> None:
    with (
        httpx.Client(
            transport=SyncLifecycleTransport(budget=0, transport=httpx.MockTransport(Gateway(delay(retry_after=None))))
        ) as http,
        pytest.raises(ModuleDelayed) as delayed,
    ):
        http.get("http://g.test/users")
    assert delayed.value.tell_user == (
        "This service is being updated. Nothing was changed by your request; please try again in a moment."
    )
    assert json.dumps(delayed.value.retry_after) == "null"
