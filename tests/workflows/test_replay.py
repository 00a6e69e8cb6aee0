"""Recorded histories of real runs replay: a run that began on an older build can go on with the code of today (requirement D3).

Each folder of `tests/histories` is what one build recorded; `make histories NAME=…` writes a new one beside the others. They stay
as long as such runs may be open.
"""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError
from temporalio.workflow import _Definition as Definition

from gateway_client import FinishRequest
from upgrade_core.descriptors import Undo
from upgrade_core.plan import Kind
from upgrade_core.runs import GROUP_CHANGE, MODULE_VERSION, TENANT_JOB
from worker.temporal import WORKFLOWS, workflow_runner

ROOT = Path(__file__).parents[2]
HISTORIES = sorted((Path(__file__).parents[1] / "histories").glob("*/*.json"))


class Change(NamedTuple):
    """A change of a workflow's command order.

    Attributes:
        module: Where the workflow is.
        what: The change, in words.
        old: What stands there.
        new: What stands there then.
    """

    module: str
    what: str
    old: str
    new: str


def _swapped(old: str) -> str:
    """The two halves of a text, which a line of dots divides, in the other order."""
    first, second = old.split("\n...\n")
    return f"{second}\n{first}"


_SLEEP = "        await workflow.sleep(1)\n"
_GROUPS = "            await self._groups(begun)"
_TASKS = """        tasks = [
            asyncio.create_task(one(group, tuple(keys[:position]) if begun.parallel == 1 else group.after))
            for position, group in enumerate(begun.plan.groups)
        ]"""
_CHECKED = '        self._note("✓ checked")'
_UPDATE = "        await self._step(GatewaySteps.update, Step.UPDATE, self._group())"
_INIT_VERIFY = """        for change in changes:
            if change in last:
                continue
            self._look_at(change)
            await self._tell_permissions(self._telling, change)
            if self._checked[change.product].calls_init:
                await self._init(change)
            elif self._is_needed_by_others(change):
                await self._show(change)
            await self._tell_new_permissions_module(self._telling, change)
...
        for change in changes:
            if self._checked[change.product].verifies:
                await self._verify(change)"""
_RETIRED = '        self._note("✓ retired")'
_FORGET = '        await workflow.execute_activity_method(DeploySteps.retired, module, summary="forget", **options.SHORT)'
_RESTART = """                    await self._on_node(DeploySteps.stop, placement.node, "stop")
...
                    await self._on_node(DeploySteps.start, placement.node, "start")
                    self._note("↻ started anew")"""


def _plain(text: str) -> str:
    return text.replace("\n...\n", "\n")


CHANGES = (
    Change("tenant_job", "one step more", _GROUPS, f"    {_SLEEP}{_GROUPS}"),
    Change("tenant_job", "one step less", _GROUPS, ""),
    Change(
        "tenant_job",
        "two steps swapped",
        _TASKS,
        _TASKS.replace("in enumerate(begun.plan.groups)", "in [*enumerate(begun.plan.groups)][::-1]"),
    ),
    Change("group_change", "one step more", _CHECKED, f"{_SLEEP}{_CHECKED}"),
    Change("group_change", "one step less", _UPDATE, ""),
    Change("group_change", "two steps swapped", _plain(_INIT_VERIFY), _swapped(_INIT_VERIFY)),
    Change("module_version", "one step more", _RETIRED, f"{_SLEEP}{_RETIRED}"),
    Change("module_version", "one step less", _FORGET, ""),
    Change("module_version", "two steps swapped", _plain(_RESTART), _swapped(_RESTART)),
)


@cache
def events_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["events"]
    return found


def workflow_of(path: Path) -> str:
    name: str = events_of(path)[0]["workflowExecutionStartedEventAttributes"]["workflowType"]["name"]
    return name


def name_of(workflow: type) -> str | None:
    return Definition.must_from_class(workflow).name


def payloads(value: Any) -> Iterator[Any]:
    """What every payload inside says."""
    if isinstance(value, list):
        for item in value:
            yield from payloads(item)
    elif isinstance(value, dict):
        if "data" in value and "metadata" in value:
            text = base64.b64decode(value["data"]).decode()
            yield json.loads(text) if text else None
        else:
            for item in value.values():
                yield from payloads(item)


def replayer(*workflows: type) -> Replayer:
    return Replayer(workflows=list(workflows), workflow_runner=workflow_runner(), data_converter=pydantic_data_converter)


def history_of(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(f"{path.parent.name}/{path.stem}", path.read_text(encoding="utf-8"))


async def refused(variant: type, *, every: int = 1) -> str:
    """The first history of its workflow that a variant does not replay; none: an empty name. Any other failure is raised.

    Args:
        every: Looks only at every so-manieth of them.
    """
    paths = [path for path in HISTORIES if workflow_of(path) == name_of(variant)][::every]
    assert paths
    for path in paths:
        result = await replayer(variant).replay_workflow(history_of(path), raise_on_replay_failure=False)
        if isinstance(result.replay_failure, NondeterminismError):
            return path.stem
        if result.replay_failure is not None:
            raise result.replay_failure
    return ""


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_a_recorded_history_replays(path: Path) -> None:
    await replayer(*WORKFLOWS).replay_workflow(history_of(path))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change.module} {change.what}")
async def test_a_change_of_the_command_order_is_refused(variant: Any, change: Change) -> None:
    assert await refused(variant(change.module, change.old, change.new)) != ""


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change.module} {change.what}")
async def test_the_same_change_behind_a_patch_replays(variant: Any, change: Change) -> None:
    pad = " " * (len(change.old) - len(change.old.lstrip()))
    old, new = (
        "\n".join(f"    {line}" for line in text.splitlines() if line.strip()) or f"{pad}    pass"
        for text in (change.old, change.new)
    )
    patched = f'{pad}if workflow.patched("changed"):\n{new}\n{pad}else:\n{old}'
    assert await refused(variant(change.module, change.old, patched), every=4) == ""


def test_every_workflow_has_histories() -> None:
    assert {workflow_of(path) for path in HISTORIES} == {name_of(workflow) for workflow in WORKFLOWS}


def test_every_outcome_of_a_job_has_a_history() -> None:
    outcomes = {
        value
        for path in HISTORIES
        if workflow_of(path) == TENANT_JOB
        for event in events_of(path)
        for value in payloads(event.get("upsertWorkflowSearchAttributesEventAttributes"))
        if isinstance(value, str)  # a list names the run's patches
    }
    assert outcomes >= set(get_args(FinishRequest.model_fields["outcome"].annotation))


def test_every_undo_mode_has_a_history_of_an_undo() -> None:
    undone = set()
    for path in HISTORIES:
        text = path.read_text(encoding="utf-8")
        if workflow_of(path) == GROUP_CHANGE and '"tenant_init.undo"' in text:
            undone |= {value["undo"] for value in payloads(events_of(path)) if isinstance(value, dict) and "undo" in value}
    assert undone >= set(Undo)


def test_every_kind_of_change_has_a_history() -> None:
    kinds = {
        change["kind"]
        for path in HISTORIES
        if workflow_of(path) == GROUP_CHANGE
        for request in payloads(events_of(path)[0])
        if isinstance(request, dict) and "group" in request
        for change in request["group"]["changes"]
    }
    assert kinds >= set(Kind)


def test_every_decision_at_a_hold_point_has_a_history() -> None:
    decisions = {
        value
        for path in HISTORIES
        for event in events_of(path)
        for value in payloads(event.get("workflowExecutionUpdateAcceptedEventAttributes"))
    }
    assert decisions >= {"retry", "skip"}


def test_every_end_of_a_module_versions_run_has_a_history() -> None:
    ends = {path.stem for path in HISTORIES if workflow_of(path) == MODULE_VERSION}
    assert ends >= {f"module-version-{end}" for end in ("retired", "restarted", "failed", "stays")}


def test_histories_of_a_build_are_never_written_again() -> None:
    folder = HISTORIES[0].parent
    command = [sys.executable, "-m", "tests.workflows.record", folder.name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is there already" in done.stderr


def test_histories_hold_no_secret_and_no_folder_of_a_machine() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") + str(list(payloads(events_of(path)))) for path in HISTORIES}
    found = {
        name: match[0]
        for name, text in texts.items()
        if (match := re.search(r"/(root|home|tmp|work|usr|opt|var|Users)/[^\"' ]*|postgres(ql)?://[^\"' ]*", text))
    }
    assert found == {}
