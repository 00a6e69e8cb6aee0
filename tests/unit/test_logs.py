"""Log lines, for people and for collectors."""

import io
import json
import logging
from collections.abc import Callable

import pytest

from uplift_settings.logs import JsonLines, TextLines


@pytest.fixture
def logged() -> Callable[..., str]:
    """What one formatter writes of what is logged."""

    def write(formatter: logging.Formatter, say: Callable[[logging.Logger], None]) -> str:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        logger = logging.getLogger("part")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
        say(logger)
        logger.removeHandler(handler)
        return stream.getvalue()

    return write


def about() -> dict[str, str]:
    return {"request_id": "7/users", "tenant": "diku"}


def fail(logger: logging.Logger) -> None:
    try:
        int("odd")
    except ValueError:
        logger.exception("it failed")


def test_a_text_line_ends_with_what_it_is_about(logged: Callable[..., str]) -> None:
    line = logged(TextLines(about), lambda log: log.warning("%d of them", 3))
    assert line.endswith(" WARNING part 3 of them [request_id=7/users tenant=diku]\n")


def test_a_text_line_about_nothing_has_no_brackets(logged: Callable[..., str]) -> None:
    assert logged(TextLines(), lambda log: log.info("up")).endswith(" INFO part up\n")


def test_a_trace_follows_what_a_text_line_is_about(logged: Callable[..., str]) -> None:
    first, second, *_ = logged(TextLines(about), fail).splitlines()
    assert first.endswith("it failed [request_id=7/users tenant=diku]")
    assert second == "Traceback (most recent call last):"


def test_a_json_line_is_one_object(logged: Callable[..., str]) -> None:
    line = json.loads(logged(JsonLines(about), lambda log: log.info("two\nlines", extra={"facts": {"status": 200}})))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO", "logger": "part", "message": "two\nlines", "request_id": "7/users", "tenant": "diku", "status": 200,
    }  # fmt: skip


def test_a_json_line_holds_the_trace_of_an_error(logged: Callable[..., str]) -> None:
    line = json.loads(logged(JsonLines(), fail))
    assert line["error"].splitlines()[-1] == "ValueError: invalid literal for int() with base 10: 'odd'"
