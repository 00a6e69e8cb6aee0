"""Prechecks before the hold, and post steps after the job's last switch.

Post steps are done when everything is switched and released: a reindex that takes hours keeps no users, no old version and no
other group waiting, and meets none of the job's holds (ADR 0023).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities import options
    from activities.signatures import FollowModuleStep, ModuleStepRequest, ModuleSteps, ModuleStepState
    from upgrade_core.known import Fact
    from upgrade_core.module_steps import StepEffect, StepKind
    from workflows.undo import FAILURES, reason_of, shielded, stop_if_aborted

Telling = Callable[[Callable[[tuple[Fact, ...]], Awaitable[ModuleStepState]]], Awaitable[ModuleStepState]]
"""Does a step that is told what the run knows."""


async def carry_out(request: ModuleStepRequest, told: Telling) -> ModuleStepState:
    """One precheck or post step, to its end: `done` or `failed`."""
    what = f"{request.kind.replace('_', ' ')} {request.index + 1} of {request.module}"
    state = await told(
        lambda known: workflow.execute_activity_method(
            ModuleSteps.start, replace(request, known=known), summary=what, **options.STEP
        )
    )
    if state.effect is not StepEffect.FOLLOW:
        return state
    ended = await told(
        lambda known: workflow.execute_activity_method(
            ModuleSteps.follow,
            FollowModuleStep(step=replace(request, known=known), state=state),
            summary=f"follow {what}",
            **options.STEP,
        )
    )
    return replace(ended, warnings=tuple(dict.fromkeys((*state.warnings, *ended.warnings))))


async def post_steps(
    modules: Iterable[tuple[str, int]],
    *,
    job: str,
    tenant: str,
    parallel: int,
    warn: Callable[[str, str], None],
) -> None:
    """The post steps of versions that a tenant was switched to; a failure is a warning.

    Those of one module are done in their order, and none after one that failed; modules in the order of the plan, `parallel` at
    a time.

    Args:
        modules: Module ids, and how many post steps each has.
        job: The job.
        tenant: The tenant.
        parallel: How many modules at a time.
        warn: Told the module and a warning.

    Raises:
        asyncio.CancelledError: The job is aborted; what was not done is told as warnings.
    """
    slots = asyncio.Semaphore(parallel)

    async def one(module: str, count: int) -> None:
        done = 0
        try:
            async with slots:
                for index in range(count):
                    stop_if_aborted()
                    request = ModuleStepRequest(job=job, tenant=tenant, module=module, kind=StepKind.POST_STEP, index=index)
                    state = await carry_out(request, _unknowing)
                    for text in state.warnings:
                        warn(module, text)
                    if state.effect is StepEffect.FAILED:
                        rest = count - index - 1
                        more = f"; {rest} more of its post steps not done" if rest else ""
                        warn(module, f"post step {index + 1} of {module}: {'; '.join(state.errors)}{more}")
                        return
                    done += 1
        except asyncio.CancelledError:
            warn(module, _cut(module, done, count))
            raise
        except FailureError as error:
            if is_cancelled_exception(error):
                warn(module, _cut(module, done, count))
                raise asyncio.CancelledError from error
            warn(module, f"post step {done + 1} of {module}: {reason_of(error)}")

    tasks = [asyncio.create_task(one(module, count)) for module, count in modules]
    try:
        await asyncio.gather(*tasks)
        stop_if_aborted()
    except FAILURES:
        await shielded(_ended(tasks))
        raise


async def _unknowing(step: Callable[[tuple[Fact, ...]], Awaitable[ModuleStepState]]) -> ModuleStepState:
    return await step(())


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _cut(module: str, done: int, count: int) -> str:
    return f"aborted when {done} of {count} post steps of {module} were done; what works on is not looked at any more"
