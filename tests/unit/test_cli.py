"""The command line without a stack: help, settings, the lookup of the Temporal command line."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from uplift_cli.lazy import Entry, LazyGroup
from uplift_cli.main import COMMANDS, cli
from uplift_cli.stack.errors import TemporalMissing
from uplift_cli.stack.temporal_binary import cache, find, require
from uplift_cli.up_command import up

ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_temporal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TEMPORAL_CLI", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("UPLIFT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_help_lists_the_commands_without_importing_them() -> None:
    code = (
        "import sys; sys.argv = ['uplift', '--help']\n"
        "from uplift_cli.main import cli\n"
        "try: cli()\n"
        "except SystemExit: pass\n"
        "print(sorted({'asyncpg', 'pydantic', 'rich', 'temporalio', 'psutil'} & set(sys.modules)))"
    )
    shown = subprocess.run((sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.endswith("[]\n")
    assert [name for name in COMMANDS if f"\n  {name} " not in shown] == []


@pytest.mark.parametrize("name", ["up", "status", "down", "config", "setup"])
def test_every_command_of_the_stack_explains_itself(name: str) -> None:
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 4


def test_a_command_that_is_not_installed_says_what_to_do() -> None:
    group = LazyGroup(entries={"later": Entry(target="uplift_cli.no_such_part:later", summary="Later.")})
    shown = CliRunner().invoke(group, ["later"])
    assert shown.exit_code == 1
    assert shown.output == (
        "Error: `later` is not part of this installation (uplift_cli.no_such_part is missing): run `make setup`\n"
    )


def test_config_prints_a_line_of_four_cells_for_each_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__PORT", "1234")
    shown = CliRunner().invoke(cli, ["config"])
    rows = [line.split("\t") for line in shown.output.splitlines()]
    assert rows[0] == ["key", "value", "source", "meaning"]
    assert {len(row) for row in rows} == {4}
    assert ["gateway.port", "1234", "$UPLIFT_GATEWAY__PORT"] in [row[:3] for row in rows]


def test_config_reference_shows_defaults_whatever_is_set_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__PORT", "1234")
    shown = CliRunner().invoke(cli, ["config", "--reference"])
    assert "| `gateway.port` | `UPLIFT_GATEWAY__PORT` | `9130` |" in shown.output


def test_a_wrong_setting_is_a_message_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__PORT", "many")
    shown = CliRunner().invoke(cli, ["status"])
    assert shown.exit_code == 1
    assert shown.output.startswith("Error: setting gateway.port ($UPLIFT_GATEWAY__PORT): ")


@pytest.mark.parametrize("given", ["9131", "9-", "-9", "9230-9131", "0-5", "5-70000", "a-b"])
def test_a_range_of_ports_that_is_none_is_refused(given: str) -> None:
    shown = CliRunner().invoke(up, ["--module-ports", given])
    assert shown.exit_code == 2
    assert "is not a range of ports such as 9131-9230" in shown.output


def test_temporal_is_looked_up_in_the_variable_then_path_then_cache(no_temporal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find() is None
    cached = program(cache() / "bin" / "temporal")
    assert find() == cached
    on_path = program(no_temporal / "path" / "temporal")
    assert find() == on_path
    named = program(no_temporal / "named")
    monkeypatch.setenv("TEMPORAL_CLI", str(named))
    assert find() == named


def test_the_error_lists_each_place_and_what_to_do(no_temporal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_CLI", "/nowhere/temporal")
    with pytest.raises(TemporalMissing) as caught:
        require()
    assert str(caught.value).splitlines() == [
        "there is no Temporal command line here. Tried:",
        "  $TEMPORAL_CLI: /nowhere/temporal is not a program",
        "  PATH: no `temporal` there",
        f"  cache: no {no_temporal}/cache/bin/temporal",
        "What to do: run `uplift setup` (or `make setup`), which fetches it once",
    ]
