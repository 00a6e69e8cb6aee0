"""What a dump holds, object by object, so that two dumps of the same state are equal.

Two dumps of equal schemas are not equal texts: a key changes in each, objects that depend on each other may swap places, and
Postgres writes some expressions differently once they have been through a dump (`x IN ('a', 'b')` over `varchar` moves its casts
from the array to its elements). So each object's text is hashed on its own, without parentheses and casts to text types in
definitions. Rows are hashed as they are.
"""

import hashlib
import re
from collections.abc import Mapping

_CASTS = re.compile(rb"::(?:text|character varying|character|bpchar|name)(?:\(\d+\))?(?:\[\])?")
_ROWS = b"-- Data for Name: "
_OBJECTS = (b"-- Name: ", _ROWS)
_NOISE = (b"\\restrict ", b"\\unrestrict ", b"-- PostgreSQL database dump complete", b"-- Completed on ")
_END_OF_ROWS = b"\n\\.\n"
_MODULUS = 1 << 256


class Contents:
    """Reads the SQL text of a dump in chunks of any size.

    Memory: a line of a definition and a digest per object; rows pass through.
    """

    def __init__(self) -> None:
        self._pending = b""
        self._in_rows = False
        self._name: bytes | None = None
        self._hash = hashlib.sha256()
        self._digests: dict[str, int] = {}

    def feed(self, chunk: bytes) -> None:
        """Takes the next piece of text."""
        data = self._pending + chunk
        start = 0
        while True:
            if self._in_rows:
                end = data.find(_END_OF_ROWS, start)
                if end < 0:
                    # The end mark may be cut by the chunk's end.
                    keep = max(start, len(data) - len(_END_OF_ROWS) + 1)
                    self._hash.update(data[start:keep])
                    start = keep
                    break
                self._hash.update(data[start:end])
                start = end + len(_END_OF_ROWS)
                self._in_rows = False
            end = data.find(b"\n", start)
            if end < 0:
                break
            self._line(data[start:end])
            # The newline of `COPY … FROM stdin;` stays: the end mark is looked for with the one before it.
            start = end if self._in_rows else end + 1
        self._pending = data[start:]

    def digests(self) -> Mapping[str, str]:
        """Digest of each object, by the line that names it (name, type, schema, owner). Call once, at the end."""
        if self._pending:
            self.feed(b"\n")
        self._close()
        return {name: f"{value:064x}" for name, value in sorted(self._digests.items())}

    def _line(self, line: bytes) -> None:
        if line.startswith(_OBJECTS):
            self._close()
            self._name = line
        elif self._name is None or line in {b"", b"--"} or line.startswith(_NOISE):
            return  # before the first object: settings and versions of the tool
        else:
            # Not in a function's body, which may hold such a line too.
            rows = self._name.startswith(_ROWS)
            self._in_rows = rows and line.startswith(b"COPY ") and line.endswith(b" FROM stdin;")
            self._hash.update(_CASTS.sub(b"", line).translate(None, b"()") + b"\n")

    def _close(self) -> None:
        if self._name is not None:
            name = self._name.decode(errors="backslashreplace").removeprefix("-- ")
            value = int.from_bytes(self._hash.digest(), "big")
            # Overloaded names come several times, in an order that means nothing.
            self._digests[name] = (self._digests.get(name, 0) + value) % _MODULUS
        self._hash = hashlib.sha256()


def fingerprint_of(digests: Mapping[str, str]) -> str:
    """One SHA-256 over all objects, hexadecimal."""
    text = "\n".join(f"{name}\t{digest}" for name, digest in sorted(digests.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """The objects that only one side has or that differ, sorted."""
    return tuple(sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)))
