"""An expression that is taken is tried on an id in few ways, as counted by a matcher that tries them all."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from upgrade_core.errors import InvalidPattern
from upgrade_core.patterns import MAX_WAYS, check_pattern, ways

FEW = 20_000
"""So many can be tried one by one in a test."""


@dataclass(frozen=True)
class Node:
    """A part of an expression: its text, and the ways to try it at a place."""

    text: str

    def ends(self, at: int, text: str) -> Iterator[int]:
        """Where it ends, once for each way; a failure is a way as well, which ends at -1."""
        yield at + 1 if at < len(text) and (self.text == "." or text[at] in self.text.strip("[]")) else -1


@dataclass(frozen=True)
class Row(Node):
    parts: tuple[Node, ...] = ()

    def ends(self, at: int, text: str) -> Iterator[int]:
        yield from self._rest(0, at, text)

    def _rest(self, index: int, at: int, text: str) -> Iterator[int]:
        if at < 0 or index == len(self.parts):
            yield at
            return
        for end in self.parts[index].ends(at, text):
            yield from self._rest(index + 1, end, text)


@dataclass(frozen=True)
class Either(Node):
    parts: tuple[Node, ...] = ()

    def ends(self, at: int, text: str) -> Iterator[int]:
        for part in self.parts:
            yield from part.ends(at, text)


@dataclass(frozen=True)
class Repeat(Node):
    part: Node = field(default_factory=lambda: Node("."))
    least: int = 0
    most: int | None = None

    def ends(self, at: int, text: str, done: int = 0) -> Iterator[int]:
        if self.most is None or done < self.most:
            for end in self.part.ends(at, text):
                if end < 0:
                    yield -1
                elif end > at or done < self.least:  # without a bound, what is empty is not repeated again
                    yield from self.ends(end, text, done + 1)
        if done >= self.least:
            yield at


def row(parts: list[Node]) -> Node:
    return Row("(?:" + "".join(part.text for part in parts) + ")", tuple(parts))


def either(parts: list[Node]) -> Node:
    return Either("(" + "|".join(part.text for part in parts) + ")", tuple(parts))


def repeat(part: Node, how: tuple[str, int, int | None]) -> Node:
    text, least, most = how
    inner = f"(?:{part.text})" if isinstance(part, Repeat) else part.text
    return Repeat(inner + text, part, least, most)


HOW = st.sampled_from(
    [("*", 0, None), ("+?", 1, None), ("?", 0, 1), ("{2}", 2, 2), ("{,2}", 0, 2), ("{1,3}?", 1, 3), ("{1,}", 1, None)]
)
NODES = st.recursive(
    st.sampled_from([Node("a"), Node("."), Node("[ab]")]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(row), st.lists(inner, min_size=1, max_size=3).map(either), st.builds(repeat, inner, HOW)
    ),
    max_leaves=6,
)


@settings(max_examples=500, deadline=None)
@given(node=NODES, text=st.text("ab", max_size=5))
def test_no_text_is_tried_in_more_ways_than_were_counted(node: Node, text: str) -> None:
    most = ways(node.text, longest=5)
    assume(most <= FEW)
    assert sum(1 for _ in node.ends(0, text)) <= most


@settings(max_examples=500, deadline=None)
@given(st.text("ab[]()|*+?{},:=!<\\-.1", max_size=30) | st.text(max_size=30))
def test_any_text_is_refused_or_taken_with_few_ways(pattern: str) -> None:
    try:
        check_pattern(pattern)
    except InvalidPattern:
        return
    assert ways(pattern) <= MAX_WAYS
