"""Requests of runs that arrive late: their sender gave them up, sent them again, and has gone on since (requirement D3).

A balancer, or a kernel that had no time, may deliver a request long after its sender stopped waiting.
"""

from typing import Any

import pytest

from activities import options
from activities.signatures import FinishStep
from gateway_client import GatewayRefused, InitReport, Instance, IntentRequest
from tests.integration.faults.world import SERVER, Subject, World, obey


async def ended(world: World, subject: Subject) -> None:
    await obey(options.SHORT, world.steps.finish, FinishStep(job=subject.job.id, outcome="rolled_back"))


async def test_an_update_after_the_resume_holds_nothing(world: World) -> None:
    subject = await world.subject()
    await obey(options.UPDATE, world.steps.update, subject.group)
    await obey(options.UNDO, world.steps.resume_old, subject.group)
    with pytest.raises(GatewayRefused, match="was opened before"):
        await subject.job.hold(subject.new)
    assert (await world.state(subject))["holds"] == []


async def test_an_update_that_arrives_after_its_undo_holds_nothing(world: World) -> None:
    """The step timed out before it took effect, and was undone."""
    subject = await world.subject()
    await obey(options.UNDO, world.steps.resume_old, subject.group)
    with pytest.raises(GatewayRefused, match="was opened before"):
        await subject.job.hold(subject.new)


async def test_a_switch_after_the_end_of_its_job_binds_nothing(world: World) -> None:
    subject = await world.subject()
    await obey(options.UPDATE, world.steps.update, subject.group)
    await obey(options.UNDO, world.steps.resume_old, subject.group)
    await ended(world, subject)
    with pytest.raises(GatewayRefused, match="has ended"):
        await subject.job.switch(subject.new)
    assert [row["module"] for row in (await world.state(subject))["bindings"]] == ["PRODUCT-1.0.0"]


async def test_an_overlay_after_the_end_of_its_job_is_not_opened(world: World) -> None:
    subject = await world.subject()
    await ended(world, subject)
    with pytest.raises(GatewayRefused, match="has ended"):
        await subject.job.overlay(subject.new)


async def test_a_data_version_after_the_end_of_its_job_is_not_written(world: World) -> None:
    subject = await world.subject()
    await ended(world, subject)
    with pytest.raises(GatewayRefused, match="has ended"):
        await world.site.runs.set_data_version(subject.job.id, subject.product, subject.new)


async def begun(world: World, subject: Subject, *, attempt: str) -> Any:
    wanted = IntentRequest(
        key=subject.job.id, product=subject.product, subject=subject.new, module=subject.new, instance="i", attempt=attempt
    )
    return await world.site.runs.begin_intent(subject.job.id, wanted)


async def report(world: World, subject: Subject, **members: Any) -> None:
    await world.site.runs.report_init(subject.job.id, subject.job.id, InitReport(subject=subject.new, **members))


async def test_a_report_after_the_end_of_an_init_changes_neither_data_version_nor_job(world: World) -> None:
    subject = await world.subject()
    await begun(world, subject, attempt="a")
    await report(world, subject, state="ended", outcome="undone")
    before = await world.state(subject)
    await report(world, subject, state="ended", effect="done", outcome="upgraded", data_version=subject.new)
    assert await world.state(subject) == before


async def test_an_intent_is_new_to_who_wrote_it_until_it_is_told_what_came_of_it(world: World) -> None:
    """The answer may be lost: the same attempt asks again, and nothing was asked of the module yet."""
    subject = await world.subject()
    found = [(await begun(world, subject, attempt=attempt)).fresh for attempt in ("a", "a", "b", "a")]
    assert found == [True, True, False, True]
    await report(world, subject, state="following", effect="follow", job_path="/j")
    assert not (await begun(world, subject, attempt="a")).fresh


async def test_that_it_is_asked_for_once_more_counts_once_for_each_attempt(world: World) -> None:
    subject = await world.subject()
    await begun(world, subject, attempt="a")
    await report(world, subject, state="following", effect="follow", job_path="/j")
    for _ in range(2):
        await report(world, subject, state="asked", asked_again=True, attempt="b")
    found = await begun(world, subject, attempt="c")
    assert (found.asked, found.job_path) == (2, None)


async def test_an_end_of_a_version_that_was_told_before_forgets_no_new_instance(world: World) -> None:
    subject = await world.subject(launch=SERVER)
    runs = world.site.runs
    instance = Instance(id=f"{subject.new}@n", module=subject.new, url="http://127.0.0.1:1", node="n", generation="1")
    await runs.put_instance(instance)
    await runs.retire(subject.new)
    await runs.retired(subject.new)
    await runs.put_instance(instance)
    await runs.retired(subject.new)
    assert [found.id for found in (await runs.version(subject.new)).instances] == [instance.id]
