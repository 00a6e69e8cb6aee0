"""The locks: hashes for everything, and no address of an index."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "setup/uv.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.findall(r"\S*://\S*|^--\S*", text, re.MULTILINE) == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_is_pinned_with_hashes(name: str) -> None:
    packages = re.findall(r"^(\w\S*?)(?:\[\S+\])?==\S+.*?\\\n    --hash=sha256:", (ROOT / name).read_text(), re.MULTILINE)
    named = re.findall(r"^(\w[\w.-]*)", (ROOT / name).read_text(), re.MULTILINE)
    assert sorted(packages) == sorted(named)


def test_the_development_lock_holds_the_versions_of_the_other() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^\S+==[^\s\\;]+", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements.lock") <= pins("requirements-dev.lock")
