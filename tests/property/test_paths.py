"""The regular expression of a pattern against a matcher that tries everything."""

import re

from hypothesis import given
from hypothesis import strategies as st

from upgrade_core.errors import InvalidDescriptor
from upgrade_core.paths import check_path_pattern, literal_prefix, pattern_to_regex

PIECES = st.sampled_from(["/", "a", "b", "-", "|", "é", "*", "{id}", "{a.b}"])
PATTERNS = st.lists(PIECES, max_size=6).map("".join)
PATHS = st.text("/ab-|éx", max_size=8)


def naive_match(pattern: str, path: str) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "*":
        return any(naive_match(pattern[1:], path[size:]) for size in range(len(path) + 1))
    if pattern[0] == "{":
        rest = pattern[pattern.index("}") + 1 :]
        whole = len(path.partition("/")[0])
        return any(naive_match(rest, path[size:]) for size in range(1, whole + 1))
    return path[:1] == pattern[0] and naive_match(pattern[1:], path[1:])


@given(PATTERNS, PATHS)
def test_a_pattern_matches_what_a_naive_matcher_matches(pattern: str, path: str) -> None:
    check_path_pattern(pattern)
    assert (re.fullmatch(pattern_to_regex(pattern), path) is not None) is naive_match(pattern, path)


@given(PATTERNS, st.data())
def test_a_pattern_matches_what_is_made_from_it(pattern: str, data: st.DataObject) -> None:
    path = re.sub(r"\{[^}]*\}", lambda _: data.draw(st.text("ab", min_size=1, max_size=3)), pattern)
    path = "".join(data.draw(PATHS) if char == "*" else char for char in path)
    assert re.fullmatch(pattern_to_regex(pattern), path)
    assert path.startswith(literal_prefix(pattern))


@given(st.text("/ab*{}x.(", max_size=6), PATHS)
def test_an_old_path_matches_what_starts_with_it(pattern: str, path: str) -> None:
    regex = pattern_to_regex(pattern, prefix_match=True)
    assert (re.fullmatch(regex, path) is not None) is path.startswith(pattern)
    assert re.fullmatch(regex, pattern + path)


@given(st.text("/ab*{}%é", max_size=8))
def test_a_pattern_that_is_accepted_has_a_regular_expression(pattern: str) -> None:
    try:
        check_path_pattern(pattern)
    except InvalidDescriptor:
        return
    re.compile(pattern_to_regex(pattern))
