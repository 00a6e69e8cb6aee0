"""The pages say what the code says, and their links lead somewhere."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from gateway.admin.routes import ROUTES
from gateway.credentials import MEANINGS
from upgrade_core.descriptors import parse_descriptor

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "examples" / "README.md"])


def generated() -> dict[Path, str]:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.pages())


@pytest.mark.parametrize("page", ["docs/reference/settings.md", "docs/reference/metrics.md", "docs/explanation/protocol.md"])
def test_generated_pages_are_current(page: str) -> None:
    """`make docs` writes them."""
    assert (ROOT / page).read_text(encoding="utf-8") == generated()[ROOT / page]


def test_every_json_example_of_a_descriptor_is_one() -> None:
    text = (ROOT / "docs" / "how-to" / "write-a-module.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    provided = [interface.id for example in examples for interface in parse_descriptor(json.loads(example)).provides]
    assert provided == ["users", "_tenant"]


def test_every_route_is_documented_and_nothing_else() -> None:
    text = (ROOT / "docs" / "reference" / "http-api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([A-Z]+)` \| `(/[^`]+)` \|", text, re.MULTILINE)
    assert sorted(documented) == sorted((method, path) for method, path, *_ in ROUTES)


def test_every_route_is_documented_with_the_role_that_it_asks_for() -> None:
    text = (ROOT / "docs" / "reference" / "http-api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([A-Z]+)` \| `(/[^`]+)` \| ([^|]*) \|", text, re.MULTILINE)
    assert sorted(documented) == sorted((method, path, str(need)) for method, path, _, need in ROUTES)


def test_every_role_is_documented() -> None:
    text = (ROOT / "docs" / "how-to" / "run-in-production.md").read_text(encoding="utf-8")
    assert [role for role, meaning in MEANINGS.items() if f"| `{role}` | {meaning} |" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_has_rows(page: Path) -> None:
    lines = [*page.read_text(encoding="utf-8").splitlines(), ""]
    ends = [number for number, line in enumerate(lines) if re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", line.strip())]
    assert [number for number in ends if not lines[number + 1].strip().startswith("|")] == []


def test_no_page_names_a_machines_folder() -> None:
    assert [page for page in PAGES if re.search(r"/(root|work)/", page.read_text(encoding="utf-8"))] == []
