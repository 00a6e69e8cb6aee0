"""Recorded histories of real runs replay: a released run can go on with the code of today.

`python tests/workflows/record.py` records them anew from a stack of its own; old ones stay as long as such runs may be open.
"""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from worker.temporal import WORKFLOWS, workflow_runner

HISTORIES = sorted((Path(__file__).parents[1] / "histories").glob("*.json"))


def test_there_are_histories_of_every_workflow_and_outcome() -> None:
    names = {path.stem for path in HISTORIES}
    assert names >= {
        "tenant-job-done", "tenant-job-rolled-back", "tenant-job-aborted",
        "group-change-done", "group-change-rolled-back", "group-change-aborted", "module-version-retired",
    }  # fmt: skip


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(path: Path) -> None:
    replayer = Replayer(workflows=list(WORKFLOWS), workflow_runner=workflow_runner(), data_converter=pydantic_data_converter)
    await replayer.replay_workflow(WorkflowHistory.from_json("recorded", path.read_text(encoding="utf-8")))
