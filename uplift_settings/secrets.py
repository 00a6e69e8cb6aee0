"""Secrets by reference: settings and payloads name where a secret is, never the secret.

A reference is `env:NAME`, `file:PATH`, or, for addresses without a password, the plain value itself.
"""

import os
from pathlib import Path


class SecretError(Exception):
    """A reference points nowhere. Set the variable or create the file that the message names."""


def read_secret(reference: str, *, what: str) -> str:
    """The value behind a reference.

    Args:
        reference: `env:NAME`, `file:PATH`, or a plain value.
        what: What it is for, for the message.

    Raises:
        SecretError: The variable or file is not there, or is empty.
    """
    kind, colon, rest = reference.partition(":")
    if colon and kind == "env":
        value = os.environ.get(rest, "")
        if not value:
            raise SecretError(f"{what}: environment variable {rest} is not set (reference {reference})")
        return value
    if colon and kind == "file":
        try:
            value = Path(rest).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SecretError(f"{what}: cannot read {rest} (reference {reference}): {error.strerror}") from error
        if not value:
            raise SecretError(f"{what}: {rest} is empty (reference {reference})")
        return value
    return reference
