"""Writes what the reference pages take from the code: `make docs`. A test compares the pages with it."""

from pathlib import Path

from gateway import metrics
from upgrade_core.protocol_docs import with_tables
from uplift_cli.config_command import reference_page

FOLDER = Path(__file__).parent


def pages() -> dict[Path, str]:
    """Every generated page and its text."""
    protocol = FOLDER / "explanation" / "protocol.md"
    return {
        FOLDER / "reference" / "settings.md": reference_page(),
        FOLDER / "reference" / "metrics.md": metrics.reference_page(),
        protocol: with_tables(protocol.read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
