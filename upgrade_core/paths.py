"""Path patterns of handlers: `*` is any text, `{x}` is one or more characters without a slash (Okapi's rule)."""

import re

from upgrade_core.errors import InvalidDescriptor

_REFUSED = set("\\%+{}()[].;:=?@#^$\"'")


def check_path_pattern(pattern: str) -> None:
    """Refuse what Okapi refuses.

    Raises:
        InvalidDescriptor: With Okapi's text.
    """
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "{":
            end = pattern.find("}", position)
            if end < 0 or "/" in pattern[position:end]:
                raise InvalidDescriptor("Missing }-character for {}-construct in pathPattern")
            position = end
        elif char in _REFUSED:
            raise InvalidDescriptor(f"Invalid character {char} for pathPattern")
        position += 1


def pattern_to_regex(pattern: str, *, prefix_match: bool = False) -> str:
    """A regular expression that fully matches the paths of a pattern.

    Args:
        pattern: As in a routing entry, already checked.
        prefix_match: For old `path` entries, which match what starts with them.
    """
    if prefix_match:
        return re.escape(pattern) + ".*"
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "*":
            parts.append(".*")
        elif char == "{":
            position = pattern.index("}", position)
            parts.append("[^/?#]+")
        else:
            parts.append(re.escape(char))
        position += 1
    return "".join(parts)


def literal_prefix(pattern: str) -> str:
    """The text before the first `*` or `{`: longer ones are tried first."""
    return re.split(r"[*{]", pattern, maxsplit=1)[0]
