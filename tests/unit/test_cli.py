"""The command line without a stack: help, settings, the lookup of the Temporal command line."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from uplift_cli.lazy import Entry, LazyGroup
from uplift_cli.main import COMMANDS, cli
from uplift_cli.stack.errors import TemporalMissing
from uplift_cli.stack.processes import Identity
from uplift_cli.stack.state import StackRecord, write_record
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


@pytest.mark.parametrize(
    "name", ["up", "status", "install", "upgrade", "problems", "reconcile", "down", "gateway", "config", "setup"]
)
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


def test_config_prints_a_line_of_four_cells_for_each_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_HOME", str(tmp_path))
    monkeypatch.setenv("UPLIFT_GATEWAY__PORT", "1234")
    shown = CliRunner().invoke(cli, ["config"])
    rows = [line.split("\t") for line in shown.output.splitlines()]
    assert rows[0] == ["key", "value", "source", "meaning"]
    assert {len(row) for row in rows} == {4}
    assert ["gateway.port", "1234", "$UPLIFT_GATEWAY__PORT"] in [row[:3] for row in rows]


def stack_of(home: Path, *, alive: bool) -> None:
    write_record(
        home,
        StackRecord(
            supervisor=Identity.of(os.getpid()) if alive else Identity(pid=1, birth="never"),
            url="http://127.0.0.1:1300",
            ui_url="http://127.0.0.1:1304",
            ports={"gateway": 1300, "modules_first": 1310, "modules_last": 1319, "postgres": 1302, "temporal": 1303, "ui": 1304},
        ),
    )


def rows_of(home: Path) -> dict[str, list[str]]:
    shown = CliRunner().invoke(cli, ["config", "--home", str(home)])
    assert shown.exit_code == 0, shown.output
    return {key: rest for key, *rest in (line.split("\t") for line in shown.output.splitlines())}


def test_config_of_a_folder_shows_what_its_stack_chose(tmp_path: Path) -> None:
    stack_of(tmp_path, alive=False)
    rows = rows_of(tmp_path)
    assert {key: row[0] for key, row in rows.items() if row[1] == "stack"} == {
        "gateway.port": "1300",
        "temporal.address": "'127.0.0.1:1303'",
        "temporal.ui_url": "'http://127.0.0.1:1304'",
        "worker.gateway_url": "'http://127.0.0.1:1300'",
        "deploy.port_first": "1310",
        "deploy.port_last": "1319",
        "data.dsn": "'env:UPLIFT_MODULES_URL'",
        "stack.postgres_port": "1302",
        "stack.temporal_port": "1303",
        "stack.ui_port": "1304",
    }
    assert rows["home"][1] == "command line"


@pytest.mark.parametrize(("alive", "shown"), [(True, ["1300", "stack"]), (False, ["1234", "$UPLIFT_GATEWAY__PORT"])])
def test_what_is_configured_waits_for_the_next_start(
    alive: bool, shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__PORT", "1234")
    stack_of(tmp_path, alive=alive)
    assert rows_of(tmp_path)["gateway.port"][:2] == shown


def test_config_reference_shows_defaults_whatever_is_set_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__PORT", "1234")
    shown = CliRunner().invoke(cli, ["config", "--reference"])
    assert "| `gateway.port` | `UPLIFT_GATEWAY__PORT` | `9130` |" in shown.output


def test_a_wrong_setting_is_a_message_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_GATEWAY__PORT", "many")
    shown = CliRunner().invoke(cli, ["status"])
    assert shown.exit_code == 1
    assert shown.output.startswith("Error: setting gateway.port ($UPLIFT_GATEWAY__PORT): ")


@pytest.mark.parametrize("command", ["up", "status", "down", "config"])
def test_a_folder_that_cannot_be_is_a_message_and_not_a_traceback(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shown = CliRunner().invoke(cli, [command, "--home", str(tmp_path / "file" / "below")])
    assert shown.exit_code == 1
    assert shown.output.startswith("Error: ")
    assert "Not a directory" in shown.output


def test_a_folder_that_the_system_refuses_is_named_with_what_to_do() -> None:
    shown = CliRunner().invoke(cli, ["up", "--home", "/proc/nowhere"])
    assert shown.exit_code == 1
    assert re.fullmatch(r"Error: cannot make the folder /proc/nowhere: .*; choose another with --home\n", shown.output)


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


def test_problems_are_asked_of_the_gateway_of_the_folder(tmp_path: Path) -> None:
    stack_of(tmp_path, alive=False)
    shown = CliRunner().invoke(cli, ["problems", "--home", str(tmp_path)])
    assert shown.exit_code == 1
    assert shown.output.startswith("Error: the gateway at http://127.0.0.1:1300 does not answer: ")
    assert "--gateway names another" in shown.output


@pytest.mark.parametrize("url", ["http://[", "nothing", "http://127.0.0.1:99999"])
def test_a_gateway_address_that_is_none_is_one_message(tmp_path: Path, url: str) -> None:
    shown = CliRunner().invoke(cli, ["problems", "--home", str(tmp_path), "--gateway", url])
    assert (shown.exit_code, shown.output.count("Error: the gateway at")) == (1, 1)


class Answers(http.server.BaseHTTPRequestHandler):
    """A gateway that answers `/_/runs/{job}/resolve` with what the test says, and notes what it was asked."""

    standing: ClassVar[dict[str, Any]] = {}
    status: ClassVar[int] = 202
    asked: ClassVar[list[tuple[str, str, Any]]] = []

    def do_GET(self) -> None:
        self._answer(200, self.standing)

    def do_POST(self) -> None:
        self._answer(self.status, {"id": "j", "complete": False, "phase": "undoing", "status": "running", "errors": []})

    def _answer(self, status: int, value: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.command, self.path, json.loads(body) if body else None))
        data = json.dumps(value).encode() if status < 400 else b"retry does not fit job j"
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def gateway_of_answers() -> Iterator[type[Answers]]:
    class Own(Answers):
        asked: ClassVar[list[tuple[str, str, Any]]] = []

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Own.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield Own
    server.shutdown()
    server.server_close()
    thread.join()


def resolved(gateway: Any, *arguments: str) -> Any:
    return CliRunner().invoke(cli, ["resolve", *arguments, "--gateway", gateway.url])


def test_resolve_shows_what_waits_and_what_may_be_decided(gateway_of_answers: Any) -> None:
    held = {
        "product": "mod-a",
        "old": "mod-a-1.0.0",
        "new": "mod-a-2.0.0",
        "since": "2030-01-02T03:04:05+00:00",
        "init": "under way",
    }
    gateway_of_answers.standing = {
        "job": "j", "tenant": "t", "outcome": "rollback_failed", "phase": "ended", "errors": [{"message": "run lost"}],
        "held": [{**held, "dataVersion": "mod-a-1.0.0", "copy": {"path": "/copies/a.dump"}}],
        "waiting": [{"run": "j/1-mod-a", "why": "who knows"}], "possible": ["old", "new"],
    }  # fmt: skip
    shown = resolved(gateway_of_answers, "j")
    assert shown.exit_code == 0
    for text in ("has ended as rollback_failed", "run lost", "mod-a-2.0.0", "under way", "/copies/a.dump", "who knows"):
        assert text in shown.output
    assert "uplift resolve j old: take everything back" in shown.output


def test_resolve_sends_the_decision_with_its_reason(gateway_of_answers: Any) -> None:
    shown = resolved(gateway_of_answers, "j/1", "new", "--reason", "looked", "--force", "--no-wait")
    assert shown.exit_code == 0
    assert gateway_of_answers.asked == [("POST", "/_/runs/j%2F1/resolve", {"decision": "new", "reason": "looked", "force": True})]


def test_a_decision_that_does_not_fit_is_the_gateways_message(gateway_of_answers: Any) -> None:
    gateway_of_answers.status = 409
    shown = resolved(gateway_of_answers, "j", "retry")
    assert (shown.exit_code, shown.output) == (1, "Error: retry does not fit job j\n")


@pytest.mark.parametrize("arguments", [["old", "--force"], ["maybe"]])
def test_a_decision_that_is_none_is_refused_before_anybody_is_asked(gateway_of_answers: Any, arguments: list[str]) -> None:
    shown = resolved(gateway_of_answers, "j", *arguments)
    assert (shown.exit_code, gateway_of_answers.asked) == (2, [])


@pytest.mark.parametrize("url", ["http://[", "nothing", "http://127.0.0.1:99999", "http://127.0.0.1:1"])
def test_a_reconcile_run_that_cannot_be_asked_for_is_exit_status_2_and_one_message(tmp_path: Path, url: str) -> None:
    shown = CliRunner().invoke(cli, ["reconcile", "--home", str(tmp_path), "--gateway", url])
    assert (shown.exit_code, shown.output.count("Error: ")) == (2, 1)
    assert "--gateway" in shown.output
