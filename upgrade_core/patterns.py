"""Expressions that callers send to choose module ids: which are taken.

`re` tries one way after the other, and while it does nobody else is served. So an expression is only taken if the number of
ways in which it could be tried on an id is small, whatever the id: the ways of what follows each other are multiplied, those of
alternatives added, and a repeat has as many as there are ways to repeat. That is seen from the text alone.
"""

import re
import warnings

from upgrade_core.errors import InvalidPattern
from upgrade_core.ids import MAX_MODULE_ID

MAX_PATTERN = 4_000
"""Longest expression, in characters: enough for a list of all modules of a platform."""
MAX_WAYS = 10_000_000
"""Ways in which an id may be tried at most, which takes some milliseconds: three repeats in a row, on the longest id."""
_TOKEN = re.compile(
    r"""
    (?P<open> \( (?: \?: | \?= | \?! | \?<= | \?<! )? (?!\?) )
    | (?P<close> \) )
    | (?P<or> \| )
    | (?P<repeat> (?: [*+] | (?P<once> \? ) | \{ (?!\}) (?P<least> [0-9]* ) (?: (?P<comma> , ) (?P<most> [0-9]* ) )? \} ) [?+]? )
    | (?P<one> \\. | \[ \^? \]? (?: \\. | [^\]\\] )* \] | [^(] )
    """,
    re.VERBOSE | re.DOTALL,
)
_MANY = 32
"""Two ways repeated so often are more than `MAX_WAYS`."""


def check_pattern(pattern: str) -> None:
    """Refuse what is no regular expression, or one that might be tried for ever.

    Raises:
        InvalidPattern: The message says what to write instead.
    """
    if len(pattern) > MAX_PATTERN:
        raise InvalidPattern(f"it has more than {MAX_PATTERN} characters; match a part of the ids with .*")
    try:
        with warnings.catch_warnings(action="error"):  # what will mean something else one day, and does so in Java
            re.compile(pattern)
    except RecursionError:
        raise InvalidPattern("its groups are nested too deep") from None
    except (re.error, OverflowError, Warning) as error:
        raise InvalidPattern(str(error)) from error
    if ways(pattern) > MAX_WAYS:
        raise InvalidPattern(
            f"an id could be tried in more than {MAX_WAYS} ways: let at most three repeats follow each other, and repeat no group"
            " that holds a repeat or alternatives ([ab]* instead of (a|b)*), or list the ids with |"
        )


def ways(pattern: str, *, longest: int = MAX_MODULE_ID) -> int:
    """A bound on the ways in which a text can be tried; more than `MAX_WAYS` are not told apart.

    Args:
        pattern: A valid regular expression.
        longest: Length of the longest text, in characters.

    Raises:
        InvalidPattern: It has a kind of group that is not known here.
    """
    levels = [_Level()]
    at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            raise InvalidPattern(f"only groups of the kinds (…), (?:…), (?=…), (?!…), (?<=…) and (?<!…) are taken: position {at}")
        at = token.end()
        level = levels[-1]
        match token.lastgroup:
            case "open":
                levels.append(_Level())
            case "close":
                levels.pop()
                levels[-1].follow(level.total)
            case "or":
                level.turn()
            case "repeat":
                level.repeat(_most(token, longest))
            case _:
                level.follow(1)
    return levels[-1].total


class _Level:
    """What is known of a group, or of the whole, up to some place."""

    def __init__(self) -> None:
        self._done = 0  # ways of the alternatives before
        self._before = 1  # of this alternative up to its last item
        self._last = 1  # of the item, which a repeat may follow

    @property
    def total(self) -> int:
        return min(self._done + self._before * self._last, MAX_WAYS + 1)

    def follow(self, item: int) -> None:
        self._before, self._last = min(self._before * self._last, MAX_WAYS + 1), item

    def turn(self) -> None:
        self._done, self._before, self._last = self.total, 1, 1

    def repeat(self, most: int) -> None:
        self._last = min((most + 1) * self._last ** min(most, _MANY), MAX_WAYS + 1)


def _most(repeat: "re.Match[str]", longest: int) -> int:
    """How often something is tried again at most; without a bound each time takes a character, and the last one finds none."""
    if repeat["once"]:
        return 1
    count = repeat["most"] if repeat["comma"] else repeat["least"]
    return int(count) if count else longest + 1
