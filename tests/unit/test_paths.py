"""Path patterns of handlers, as Okapi has them."""

import re

import pytest

from upgrade_core.errors import InvalidDescriptor
from upgrade_core.paths import check_path_pattern, literal_prefix, pattern_to_regex


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/users", "/users", True),
        ("/users", "/users/", False),
        ("/users", "/Users", False),
        ("/users/{id}", "/users/5", True),
        ("/users/{id}", "/users/", False),
        ("/users/{id}", "/users/5/x", False),
        ("/users/{id}/x", "/users/5/x", True),
        ("/users/{id}x", "/users/5x", True),
        ("/users/*", "/users/", True),
        ("/users/*", "/users/5/x/y", True),
        ("/users/*", "/users", False),
        ("/users*", "/users", True),
        ("/*/x", "/a/b/x", True),
        ("/a-b_c~d", "/a-b_c~d", True),
        ("/a-b", "/aXb", False),
    ],
)
def test_a_star_is_any_text_and_braces_are_one_piece_of_a_path(pattern: str, path: str, matches: bool) -> None:
    check_path_pattern(pattern)
    assert (re.fullmatch(pattern_to_regex(pattern), path) is not None) is matches


@pytest.mark.parametrize(
    ("path", "matches"), [("/users", True), ("/users/5", True), ("/usersX", True), ("/user", False), ("/v1/users", False)]
)
def test_an_old_path_matches_what_starts_with_it(path: str, matches: bool) -> None:
    assert (re.fullmatch(pattern_to_regex("/users", prefix_match=True), path) is not None) is matches


def test_an_old_path_has_no_wildcards() -> None:
    assert re.fullmatch(pattern_to_regex("/a*{x}", prefix_match=True), "/aXY") is None
    assert re.fullmatch(pattern_to_regex("/a*{x}", prefix_match=True), "/a*{x}/1") is not None


@pytest.mark.parametrize("char", "\\%+}()[].;:=?@#^$\"'")
def test_these_characters_are_refused_with_okapis_text(char: str) -> None:
    with pytest.raises(InvalidDescriptor) as caught:
        check_path_pattern(f"/a{char}b")
    assert str(caught.value) == f"Invalid character {char} for pathPattern"


@pytest.mark.parametrize("pattern", ["/a/{id", "/{a/b}", "{"])
def test_a_brace_that_is_not_closed_is_refused_with_okapis_text(pattern: str) -> None:
    with pytest.raises(InvalidDescriptor) as caught:
        check_path_pattern(pattern)
    assert str(caught.value) == "Missing }-character for {}-construct in pathPattern"


@pytest.mark.parametrize("pattern", ["", "/", "/*", "/{a.b%c}", "/a{x}b{y}*", "/é"])
def test_these_patterns_are_fine(pattern: str) -> None:
    check_path_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "prefix"), [("/users", "/users"), ("/users/{id}", "/users/"), ("/a*b{c}", "/a"), ("*", ""), ("{x}", "")]
)
def test_the_literal_prefix_ends_before_the_first_wildcard(pattern: str, prefix: str) -> None:
    assert literal_prefix(pattern) == prefix
