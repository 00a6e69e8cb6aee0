"""Which expressions may choose module ids."""

import re

import pytest

from upgrade_core.errors import InvalidPattern
from upgrade_core.patterns import MAX_PATTERN, check_pattern, ways


@pytest.mark.parametrize(
    "pattern",
    [
        "mod-users-1.0.0",
        "mod-.*",
        "mod-(users|login)(-storage)?-.*",
        "(mod-users|mod-login-[0-9.]+|mod-.*-storage-.*)",
        "(?!mod-users).*",
        r"mod-[a-z]{2,20}-\d{1,3}\.\d{1,3}\.\d{1,3}",
        "|".join(f"mod-{number}-.*" for number in range(200)),
        "[ab]*[(|*]",
        "[]a|(]*",
        "a{1",
        "{}",
        r"\(*",
    ],
)
def test_what_chooses_modules_is_taken(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "missing )"),
        ("a{99999999999999999999}", "too large"),
        ("(" * 1400, "nested too deep"),
        ("(" * 1400 + ")" * 1400, "nested too deep"),
        ("a" * (MAX_PATTERN + 1), f"more than {MAX_PATTERN} characters"),
        ("([a-z0-9.-]+)+!", "repeat no group"),
        ("(a|a)*!", "repeat no group"),
        ("(a|aa){1,30}!", "repeat no group"),
        ("((a?){20}){20}!", "repeat no group"),
        ("(){99999999}", "repeat no group"),
        ("a?" * 30 + "a" * 30, "repeat no group"),
        (".*.*.*.*!", "at most three repeats"),
        ("(?=(a+)+!)", "repeat no group"),
        ("(?i)a", "only groups of the kinds"),
        ("(?#()a", "only groups of the kinds"),
        ("[[a]", "nested set"),
    ],
)
def test_what_might_be_tried_for_ever_is_refused_with_the_remedy(pattern: str, why: str) -> None:
    with pytest.raises(InvalidPattern, match=re.escape(why)):
        check_pattern(pattern)


def test_the_ways_of_a_row_are_multiplied_those_of_alternatives_added() -> None:
    assert [ways(pattern, longest=8) for pattern in ("abc", "a*", "a*b*", "a*|b*|c", "(a|b)c?", "(?:a|b){2}")] == [
        1, 10, 100, 21, 4, 12,
    ]  # fmt: skip
