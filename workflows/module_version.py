"""`ModuleVersion`: looks after one module version: deploys it when it is claimed, retires it when nothing needs it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow
from temporalio.common import VersioningBehavior
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities import options
    from activities.signatures import DeploySteps, ModuleRef, Placement
    from upgrade_core.runs import MODULE_VERSION, ModuleVersionRequest, node_queue


@workflow.defn(name=MODULE_VERSION)
class ModuleVersion:
    """Deploys and retires the instances of one version."""

    @workflow.init
    def __init__(self, request: ModuleVersionRequest) -> None:
        """Nothing is done yet."""
        self._request = request
        self._unneeded = False
        self._now = False
        self._restart = False
        self._tree: list[str] = []

    @workflow.run
    async def run(self, request: ModuleVersionRequest) -> str:
        """Deploy, wait to be needed no more, retire."""
        module = ModuleRef(module=request.module, node=request.node)
        placement: Placement = await workflow.execute_activity_method(
            DeploySteps.place, module, summary="choose a node", **options.SHORT
        )
        if placement.node and not request.deployed:
            try:
                await self._on_node(DeploySteps.start, placement.node, "start")
            except FailureError as error:
                self._note(f"✗ {error.cause or error}")
                raise
            self._note(f"✓ runs on {placement.node}")
        while True:
            await workflow.wait_condition(lambda: self._unneeded or self._restart, timeout_summary="until nobody needs it")
            if self._restart:
                self._restart = False
                if placement.node:
                    await self._on_node(DeploySteps.stop, placement.node, "stop")
                    await self._on_node(DeploySteps.start, placement.node, "start")
                    self._note("↻ started anew")
                continue
            self._unneeded = False
            if not self._now and placement.retire_after > 0:
                await self._grace(placement.retire_after)
            if await self._retire(placement):
                return "retired"
            self._now = False
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(replace(request, deployed=True))

    @workflow.signal
    def unneeded(self, now: bool) -> None:
        """Somebody who needed the version needs it no more; `now`: without the grace."""
        self._unneeded = True
        self._now = self._now or now

    @workflow.signal
    def restart(self) -> None:
        """Stop its process and start it anew: it may be at work on something that is to be undone."""
        self._restart = True

    async def _grace(self, seconds: float) -> None:
        """The grace of an old instance; an undo cuts it short."""
        try:
            await workflow.wait_condition(
                lambda: self._now, timeout=timedelta(seconds=seconds), timeout_summary="grace of the old version"
            )
        except TimeoutError:
            return

    async def _retire(self, placement: Placement) -> bool:
        """Mark, stop, remove. Somebody may have come to need it again: then it stays."""
        module = ModuleRef(module=self._request.module)
        retirement = await workflow.execute_activity_method(DeploySteps.retire, module, summary="retire", **options.SHORT)
        if not retirement.marked:
            self._note(f"stays: needed by {', '.join(retirement.needed_by)}")
            return False
        for node in retirement.nodes or ((placement.node,) if placement.node else ()):
            await self._on_node(DeploySteps.stop, node, "stop")
        await workflow.execute_activity_method(DeploySteps.retired, module, summary="forget", **options.SHORT)
        self._note("✓ retired")
        return True

    async def _on_node(self, method: Callable[[DeploySteps, ModuleRef], Awaitable[None]], node: str, name: str) -> None:
        await workflow.execute_activity_method(
            method,
            ModuleRef(module=self._request.module, node=node),
            task_queue=node_queue(workflow.info().task_queue, node),
            summary=f"{name} on {node}",
            **options.DEPLOY,
        )

    def _note(self, line: str) -> None:
        self._tree.append(f"- {line[:300]}")
        workflow.set_current_details("\n".join(self._tree[-40:]))


@workflow.defn(name=MODULE_VERSION, versioning_behavior=VersioningBehavior.AUTO_UPGRADE)
class MovingModuleVersion(ModuleVersion):
    """`ModuleVersion` on a worker with a build: it lives for weeks, so it moves to each new build, by patches.

    A class of its own since Temporal refuses the answers of a worker without a build that say how a run moves.
    """

    @workflow.init
    def __init__(self, request: ModuleVersionRequest) -> None:
        """Nothing is done yet."""
        super().__init__(request)

    @workflow.run
    async def run(self, request: ModuleVersionRequest) -> str:
        """Deploy, wait to be needed no more, retire."""
        return await super().run(request)
