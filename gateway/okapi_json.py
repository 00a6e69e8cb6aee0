"""JSON as Okapi prints it: `"a" : 1`, members on lines of their own, lists on the line that they begin on, `[ ]` and `{ }`."""

from collections.abc import Callable
from json import dumps
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any


def pretty(value: Any) -> str:
    """A JSON value as text, readable, members in their order.

    What is nested deeper than the interpreter can follow comes on one line; a text that is no Unicode comes escaped.
    """
    try:
        text = _text(value, encode_basestring)
    except RecursionError:
        text = dumps(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _text(value, encode_basestring_ascii)
    return text


def pretty_list(texts: list[str]) -> str:
    """A list of values that are printed already: they begin on the list's own line, so they look as they do by themselves."""
    return f"[ {', '.join(texts)} ]" if texts else "[ ]"


def _text(value: Any, quoted: Callable[[str], str]) -> str:
    parts: list[str] = []
    _write(value, "\n", quoted, parts.append)
    return "".join(parts)


def _write(value: Any, line: str, quoted: Callable[[str], str], put: Callable[[str], None]) -> None:
    """Write a value whose lines begin with `line`, a line break and blanks."""
    if isinstance(value, str):
        put(quoted(value))
    elif isinstance(value, dict):
        inner = line + "  "
        opening = "{" + inner
        for name, member in value.items():
            put(f"{opening}{quoted(name)} : ")
            _write(member, inner, quoted, put)
            opening = "," + inner
        put(line + "}" if value else "{ }")
    elif isinstance(value, list | tuple):
        opening = "[ "
        for item in value:
            put(opening)
            _write(item, line, quoted, put)
            opening = ", "
        put(" ]" if value else "[ ]")
    else:
        put(dumps(value))


__all__ = ["pretty", "pretty_list"]
