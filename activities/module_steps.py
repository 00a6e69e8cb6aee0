"""Prechecks and post steps of descriptors: asked for as the tenant, and followed to the end (`upgrade_core.module_steps`)."""

import time
from urllib.parse import urlsplit

import httpx
from temporalio import activity

from activities.clock import Clock
from activities.signatures import ChangeRequest, FollowModuleStep, ModuleStepRequest, ModuleSteps, ModuleStepState
from activities.translate import translated
from gateway_client import GatewayClient, OverlayRequest
from upgrade_core.descriptors import ModuleStep
from upgrade_core.ids import product_of
from upgrade_core.module_steps import StepAnswer, StepEffect, StepKind, read_answer, read_job
from upgrade_core.tenant_init import next_look
from uplift_settings.tree import StepSettings

_FIRST_PAUSE = 0.3
_LONGEST_PAUSE = 5.0


class ModuleStepActivities(ModuleSteps):
    """Implementation.

    A request is sent again where nobody took it; one that was taken and not answered in time is not, since the module may be at
    work on it. So a step may be asked for twice when its worker or its module dies.

    Args:
        gateway: The gateway, through which everything is asked.
        settings: Clocks.
        clock: The time of retries and pauses.
    """

    def __init__(self, *, gateway: GatewayClient, settings: StepSettings, clock: Clock | None = None) -> None:
        self._gateway = gateway
        self._settings = settings
        self._clock = clock or Clock()
        self._http = httpx.AsyncClient(timeout=settings.timeout, trust_env=False)

    async def close_connections(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @activity.defn(name="module_steps.start")
    async def start(self, request: ModuleStepRequest) -> ModuleStepState:
        """Send its request."""
        with translated():
            step = await self._step(request)
            if step.on_old and request.bound is None:
                return ModuleStepState(effect=StepEffect.DONE)
            base = await self._base(request, step)
        deadline, pause = self._clock.now() + self._settings.retry, _FIRST_PAUSE
        while True:
            answer = await self._ask(request, step, base)
            if answer.effect is not StepEffect.RETRY:
                break
            if self._clock.now() + pause > deadline:
                return ModuleStepState(effect=StepEffect.FAILED, errors=answer.errors)
            await self._clock.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 1.6)
        return ModuleStepState(
            effect=answer.effect,
            job_path=answer.job_path.removeprefix(urlsplit(base).path),  # built from the X-Okapi-Url that it was given
            begun=time.time(),
            errors=answer.errors,
            warnings=answer.warnings,
        )

    @activity.defn(name="module_steps.follow")
    async def follow(self, request: FollowModuleStep) -> ModuleStepState:
        """Follow the job that it began to its end, over restarts of the module."""
        wanted, state = request.step, request.state
        with translated():
            step = await self._step(wanted)
            base = await self._base(wanted, step)
        name, most = (
            ("precheck_max", self._settings.precheck_max)
            if wanted.kind is StepKind.PRECHECK
            else ("post_step_max", self._settings.post_step_max)
        )
        begun = heard = self._clock.now()
        left = most - max(0.0, time.time() - state.begun)
        while True:
            answer = await self._look(wanted, step, base, state.job_path)
            now = self._clock.now()
            if answer.effect in (StepEffect.DONE, StepEffect.FAILED):
                return ModuleStepState(
                    effect=answer.effect,
                    job_path=state.job_path,
                    begun=state.begun,
                    errors=answer.errors,
                    warnings=answer.warnings,
                )
            if answer.effect is StepEffect.FOLLOW:
                heard = now
            why = ""
            if now - heard > self._settings.silence:
                why = (
                    f"nothing was heard of its job {state.job_path} for {self._settings.silence:g} s: {'; '.join(answer.errors)}"
                )
            elif now - begun > left:
                why = f"its job {state.job_path} did not end within {most:g} s (steps.{name}); it may work on"
            if why:
                return ModuleStepState(effect=StepEffect.FAILED, errors=(f"{step.method} {step.path}: {why}",))
            await self._clock.sleep(next_look(now - begun, first=_FIRST_PAUSE, longest=self._settings.poll_max))

    @activity.defn(name="module_steps.close")
    async def close(self, request: ChangeRequest) -> None:
        """Close what a change's prechecks reached the new version through: tenant init gets a prefix of its own."""
        with translated():
            await self._gateway.close_overlay(request.job, request.change.product)

    async def _step(self, request: ModuleStepRequest) -> ModuleStep:
        told = (await self._gateway.descriptor(request.module)).uplift
        return (told.prechecks if request.kind is StepKind.PRECHECK else told.post_steps)[request.index]

    async def _base(self, request: ModuleStepRequest, step: ModuleStep) -> str:
        """Where it is asked: a new version that nobody uses yet through its prefix, the others as users reach them."""
        if request.kind is StepKind.POST_STEP or step.on_old:
            return self._gateway.url
        wanted = OverlayRequest(product=product_of(request.module), module=request.module)
        return (await self._gateway.open_overlay(request.job, wanted)).url

    async def _ask(self, request: ModuleStepRequest, step: ModuleStep, base: str) -> StepAnswer:
        headers = _headers(request.tenant)
        if step.body is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = await self._http.request(step.method, base + step.path, content=step.body, headers=headers)
        except httpx.ReadTimeout:
            text = f"no answer within {self._settings.timeout:g} s (steps.timeout); what takes longer answers 202 with a job"
            return StepAnswer(effect=StepEffect.FAILED, errors=(f"{step.method} {step.path}: {text}",))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _unheard(f"{step.method} {step.path}", error)
        return read_answer(step, status=answer.status_code, location=answer.headers.get("Location"), body=answer.text)

    async def _look(self, request: ModuleStepRequest, step: ModuleStep, base: str, path: str) -> StepAnswer:
        try:
            answer = await self._http.get(base + path, headers=_headers(request.tenant))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _unheard(f"GET {path}", error)
        return read_job(step, path, status=answer.status_code, body=answer.text)


def _headers(tenant: str) -> dict[str, str]:
    return {"X-Okapi-Tenant": tenant, "Accept": "application/json"}


def _unheard(what: str, error: Exception) -> StepAnswer:
    return StepAnswer(effect=StepEffect.RETRY, errors=(f"{what}: no answer: {str(error) or type(error).__name__}",))
