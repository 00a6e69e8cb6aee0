"""What the gateway itself answers: problems for programs, a page for people, places to wait (requirements A2 and A10)."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delays import lost_place, read_lost_place
from gateway.pages import CSP, page, prefers_html
from gateway.replies import Interruption

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
KEY = b"k" * 32
NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/plain, */*", False),
        (CHROME, True),
        ("text/html", True),
        ("TEXT/HTML", True),
        ("text/html;q=0", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html, application/json;q=0.5", True),
        ("text/html, application/json", False),
        ("application/problem+json;q=0.9, text/html;q=0.8", False),
        ("text/html;level=1;q=0.7, */*;q=0.1", True),
        ("text/html;q=x", False),
        ("text/html;q=nan", False),
        ("text/htmlx", False),
        (",;=,text/html", True),
    ],
)
def test_who_gets_a_page(accept: str | None, html: bool) -> None:
    assert prefers_html(accept) is html


class _Tags(HTMLParser):
    """Counts the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append(tag)


def tags(text: str) -> list[str]:
    parser = _Tags()
    parser.feed(text)
    parser.close()
    return parser.found


def made(**changes: Any) -> str:
    values: dict[str, Any] = {
        "lifecycle": "DELAY",
        "service": "mod-users",
        "detail": "why",
        "since": NOW,
        "method": "GET",
        "certain": True,
        "place": "/_/lifecycle/delays/x",
        "retry_after": 5,
    }
    return page(**{**values, **changes})


@given(st.text(), st.text(), st.text())
def test_no_text_whatever_becomes_markup(service: str, detail: str, place: str) -> None:
    found = made(service=service, detail=detail, place="/" + place)
    assert tags(found) == tags(made())
    data = re.search(r'<script type="application/json" id="place">(.*?)</script>', found, re.DOTALL)
    assert data is not None
    assert json.loads(data[1]) == "/" + place


@pytest.mark.parametrize(
    ("changes", "told", "reloads"),
    [
        ({}, "comes back by itself", True),
        ({"method": "POST"}, "what you sent was not carried out. Please go back and send it again in a moment", False),
        ({"lifecycle": "MISSING"}, "Nothing was changed. Please try again later", False),
        ({"lifecycle": "MISSING", "method": "PUT"}, "was not carried out. Please go back and send it again later", False),
        ({"lifecycle": "MISSING", "certain": False}, "It is not known whether your last request was carried out", False),
    ],
)  # fmt: skip
def test_a_page_tells_the_truth_of_its_request(changes: dict[str, Any], told: str, reloads: bool) -> None:
    found = made(**changes)
    assert told in found
    assert ("<script>" in found) is reloads
    assert ('http-equiv="refresh"' in found) is reloads


def test_a_page_is_whole_and_has_what_readers_of_screens_need() -> None:
    found = made()
    assert found.startswith('<!doctype html><html lang="en">')
    assert "<title>Service interrupted</title>" in found
    assert '<p role="status">' in found
    assert "2030-01-01 00:00:00 UTC" in found
    assert not re.search(r'(src|href)="', found), "nothing is fetched from elsewhere"
    assert "<title>Service not available</title>" in made(lifecycle="MISSING")


@given(st.integers(-1000, 10**6))
def test_nobody_is_told_to_come_back_after_the_end(left: int) -> None:
    told = Interruption(lifecycle="DELAY", service="x", detail="", until=NOW + timedelta(seconds=left)).retry_after(NOW)
    assert 1 <= told <= 5
    assert told <= max(1, left)


def test_without_an_end_it_is_five_seconds() -> None:
    assert Interruption(lifecycle="DELAY", service="x", detail="").retry_after(NOW) == 5


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_a_place_to_wait_is_read_by_whoever_has_the_key(tenant: str, product: str) -> None:
    place = lost_place(tenant, product, KEY)
    assert re.fullmatch(r"lost\.[\w-]+", place, re.ASCII)
    assert read_lost_place(place, KEY) == (tenant, product)
    assert read_lost_place(place, b"another") is None


@given(st.text())
def test_a_place_that_was_made_up_is_none(text: str) -> None:
    assert read_lost_place(text, KEY) is None
    assert read_lost_place("lost." + text, KEY) is None


@given(st.integers(0, 200), st.sampled_from("AZaz09-_"))
def test_a_place_that_was_changed_is_none_or_the_same(position: int, letter: str) -> None:
    place = lost_place("tenant", "product", KEY)
    position = 5 + position % (len(place) - 5)
    changed = place[:position] + letter + place[position + 1 :]
    assert read_lost_place(changed, KEY) in (None, ("tenant", "product"))


# Over the wire


async def test_a_browser_gets_a_page_that_comes_back(new_site: Any, upstream: Any, until: Any) -> None:
    site = await new_site(hold_max=0)
    tenant, product = await site.wired("http://127.0.0.1:1")
    found = await site.get(tenant, f"/{product}/<script>x", Accept=CHROME)
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    assert found.headers["Content-Type"] == "text/html; charset=utf-8"
    assert found.headers["Content-Security-Policy"] == CSP
    assert found.headers["Cache-Control"] == "no-store"
    assert found.headers["Vary"] == "Accept"
    assert product in found.text
    data = re.search(r'id="place">(.*?)</script>', found.text)
    assert data is not None
    waiting = asyncio.create_task(site.http.get(json.loads(data[1]), params={"wait": "20"}))
    wire = {"srvcId": f"{product}-1.0.0", "instId": product, "url": upstream.url}
    assert (await site.http.post("/_/discovery/modules", json=wire)).status_code == 201
    assert (await waiting).json()["lifecycle"] == "RESUME"
    assert (await site.get(tenant, f"/{product}", Accept=CHROME)).status_code == 200


async def test_the_page_of_a_hold_names_its_place(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    held = await site.http.post(
        f"/_/lifecycle/{product}-1.0.0", json={"event": "UPDATE", "tenant": tenant, "hold": f"hold-of-{tenant}"}
    )
    assert held.status_code == 202
    found = await site.get(tenant, f"/{product}", Accept=CHROME, Prefer="wait=0")
    assert f'"/_/lifecycle/delays/hold-of-{tenant}"' in found.text
    problem = (await site.get(tenant, f"/{product}", Prefer="wait=0")).json()
    assert (problem["lifecycle"], problem["tenant"]) == ("DELAY", tenant)
    assert problem["since"]


async def test_a_browser_gets_a_page_without_promise_when_it_is_missing(site: Any, name: Any) -> None:
    product = name("m")
    tenant = await site.tenant(await site.register(f"{product}-1.0.0"))
    found = await site.get(tenant, f"/{product}", Accept=CHROME)
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "MISSING")
    assert "<title>Service not available</title>" in found.text
    assert "Retry-After" not in found.headers
    assert "<script" not in found.text


async def test_a_browser_is_not_left_with_a_blank_page(new_site: Any, upstream: Any) -> None:
    site = await new_site(page_after=0.2, hold_max=600.0)
    tenant, product = await site.wired(upstream.url)
    found = await site.http.post(f"/_/lifecycle/{product}-1.0.0", json={"event": "UPDATE", "tenant": tenant})
    assert found.status_code == 202
    async with asyncio.timeout(20):
        page = await site.get(tenant, f"/{product}", Accept=CHROME)
    assert (page.status_code, page.headers["Content-Type"].partition(";")[0]) == (503, "text/html")
