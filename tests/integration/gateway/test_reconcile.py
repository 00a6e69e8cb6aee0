"""What the gateway's rows say to reconcile runs, what it repairs, and how reports are kept and told (requirement D3)."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner

from gateway_client import GatewayRefused, RepairRequest
from upgrade_core.ids import product_of
from upgrade_core.reconcile import Difference, HeldLink, Intent, Kind, Report, Snapshot, Verb
from uplift_cli.main import cli

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLAIM = Difference(key="claim:x", kind=Kind.CLAIM, message="m", remedy="r", module="x-1.0.0", job="j")
STRAY = Difference(key="process:n:i", kind=Kind.PROCESS, message="m", remedy="r", node="n")


@pytest.fixture(scope="module")
async def place(module_site: Any) -> Any:
    return module_site


@pytest.fixture
async def rows(place: Any) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(place.dsn)
    yield connection
    await connection.close()


class Left:
    """A job of a tenant, and what it can leave behind."""

    def __init__(self, rows: Any, tenant: str, old: str, new: str, job: Any) -> None:
        self.rows, self.tenant, self.old, self.new, self.job = rows, tenant, old, new, job.id
        self.product = product_of(new)
        self._run = job

    async def end(self) -> None:
        await self._run.finish()

    async def claim(self) -> None:
        await self.rows.execute("insert into claims (module, job) values ($1, $2)", self.new, self.job)

    async def overlay(self) -> None:
        await self._run.overlay(self.new)

    async def intent(self, instance: str = "gone", generation: str | None = "g") -> str:
        key = str(uuid.uuid4())
        await self.rows.execute(
            "insert into intents (key, job, tenant, product, module, instance, generation, state)"
            " values ($1, $2, $3, $4, $5, $6, $7, 'following')",
            key, self.job, self.tenant, self.product, self.new, instance, generation,
        )  # fmt: skip
        return key

    async def hold(self) -> str:
        (state,) = await self._run.held(self.new)
        return str(state.id)

    async def snapshot(self) -> str:
        name = f"{self.job}-{self.product}"
        await self.rows.execute(
            "insert into snapshots (id, job, tenant, product, node, dsn, schema, path, size, digest, existed)"
            " values ($1, $2, $3, $4, 'n', 'env:X', 's', '/nowhere', 1, 'd', true)",
            name, self.job, self.tenant, self.product,
        )  # fmt: skip
        return name


@pytest.fixture
async def left(place: Any, rows: Any, name: Any) -> Left:
    """A job at work."""
    product = name("m")
    old, new = [await place.register(f"{product}-{version}.0.0", "http://127.0.0.1:1") for version in (1, 2)]
    tenant = await place.tenant(old)
    return Left(rows, tenant, old, new, await place.job(tenant, new))


def request(left: Left, verb: Verb, **more: Any) -> RepairRequest:
    return RepairRequest(verb=verb, job=left.job, module=left.new, product=left.product, **more)


async def test_the_ledger_tells_what_stands(place: Any, left: Left) -> None:
    await left.claim()
    await left.overlay()
    key, hold, snapshot = await left.intent(), await left.hold(), await left.snapshot()

    ledger = await place.runs.ledger()

    assert left.job in {job.id for job in ledger.jobs}
    assert (left.new, left.job) in {(claim.module, claim.job) for claim in ledger.claims}
    assert (left.job, left.product) in {(overlay.job, overlay.product) for overlay in ledger.overlays}
    wanted = Intent(key=key, job=left.job, tenant=left.tenant, product=left.product, module=left.new, alive=False)
    assert wanted in ledger.intents
    assert HeldLink(id=hold, job=left.job, tenant=left.tenant, product=left.product) in ledger.holds
    assert Snapshot(id=snapshot, job=left.job, node="n", kept=False) in ledger.snapshots
    assert ledger.oldest_job > 0


async def test_the_ledger_never_tells_the_secret_of_an_overlay(place: Any, left: Left, rows: Any) -> None:
    await left.overlay()
    token = await rows.fetchval("select token from overlays where job = $1", left.job)

    answer = await place.http.get("/_/reconcile/ledger")

    assert token not in answer.text


async def test_a_version_that_a_tenant_has_is_served_by_an_instance_or_needs_none(place: Any, rows: Any, name: Any) -> None:
    served, lost = [await place.register(f"{name('m')}-1.0.0", "http://127.0.0.1:1") for _ in range(2)]
    ui = f"folio_{name('ui')}-1.0.0"
    assert (await place.http.post("/_/proxy/modules", json={"id": ui})).status_code == 201
    tenant = await place.tenant(served, lost, ui)
    assert (await place.http.delete(f"/_/discovery/modules/{lost}")).status_code == 204

    bound = {each.module: each for each in (await place.runs.ledger()).bound}

    assert [bound[module].served for module in (served, lost, ui)] == [True, False, True]
    assert (bound[lost].tenants, bound[lost].some) == (1, (tenant,))


async def test_data_at_another_version_is_told_unless_the_tenant_is_in_the_middle_of_a_job(
    place: Any, rows: Any, name: Any
) -> None:
    """Requirement B8."""
    handlers = [{"methods": ["POST"], "pathPattern": "/_/tenant"}]
    entry = {"id": "_tenant", "version": "1.2", "interfaceType": "system", "handlers": handlers}
    product = name("m")
    for version in ("2.0.0", "3.0.0"):
        wire = {"id": f"{product}-{version}", "provides": [entry]}
        assert (await place.http.post("/_/proxy/modules", json=wire)).status_code == 201
    idle, busy = [await place.tenant(f"{product}-2.0.0") for _ in range(2)]
    for tenant in (idle, busy):
        await rows.execute("insert into data_versions values ($1, $2, $3)", tenant, product, f"{product}-1.0.0")
    await place.job(busy, f"{product}-3.0.0")

    stale = [each for each in (await place.runs.ledger()).stale if each.module == f"{product}-2.0.0"]

    assert [(each.data, each.tenants, each.some) for each in stale] == [(f"{product}-1.0.0", 1, (idle,))]


async def test_a_module_without_tenant_init_cannot_be_at_another_version(place: Any, left: Left, rows: Any) -> None:
    await left.end()
    await rows.execute("insert into data_versions values ($1, $2, $3)", left.tenant, left.product, left.new)

    assert left.old not in [each.module for each in (await place.runs.ledger()).stale]


@pytest.mark.parametrize("verb", [Verb.GIVE_BACK, Verb.CLOSE_OVERLAY, Verb.END_INTENT, Verb.KEEP_SNAPSHOT])
async def test_a_repair_is_made_when_its_job_has_ended_and_not_before(place: Any, left: Left, rows: Any, verb: Verb) -> None:
    subject = ""
    match verb:
        case Verb.GIVE_BACK:
            await left.claim()
            count = "select count(*) from claims where job = $1"
        case Verb.CLOSE_OVERLAY:
            await left.overlay()
            count = "select count(*) from overlays where job = $1"
        case Verb.END_INTENT:
            subject = await left.intent()
            count = "select count(*) from intents where job = $1 and state <> 'ended'"
        case _:
            subject = await left.snapshot()
            count = "select count(*) from snapshots where job = $1 and expires is null"
    step = request(left, verb, subject=subject, keep=60)

    early = await place.runs.repair(step)
    before = await rows.fetchval(count, left.job)
    await left.end()
    done = await place.runs.repair(step)
    after = await rows.fetchval(count, left.job)

    assert (early, before, done, after) == (False, 1, True, 0)
    assert await place.runs.repair(step) is True


async def test_an_intent_is_not_ended_while_the_process_that_was_asked_is_registered(place: Any, left: Left, rows: Any) -> None:
    key = await left.intent(instance=f"{left.new}-i", generation=None)
    await left.end()

    assert (await place.runs.repair(request(left, Verb.END_INTENT, subject=key))) is False
    assert [intent.alive for intent in (await place.runs.ledger()).intents if intent.key == key] == [True]


async def test_what_a_hold_needs_is_not_repaired_while_it_stands(place: Any, left: Left, rows: Any) -> None:
    hold, key, snapshot = await left.hold(), await left.intent(), await left.snapshot()
    await left.claim()
    await left.overlay()
    await left.end()

    made = [
        await place.runs.repair(request(left, Verb.END_INTENT, subject=key)),
        await place.runs.repair(request(left, Verb.KEEP_SNAPSHOT, subject=snapshot)),
        await place.runs.repair(request(left, Verb.GIVE_BACK)),
        await place.runs.repair(request(left, Verb.CLOSE_OVERLAY)),
    ]

    assert made == [False] * 4
    assert hold in {each.id for each in (await place.runs.ledger()).holds}


async def test_a_repair_that_is_not_the_gateways_is_refused(place: Any, left: Left) -> None:
    with pytest.raises(GatewayRefused, match="stop process is not done by the gateway"):
        await place.runs.repair(request(left, Verb.STOP_PROCESS))


async def test_a_node_is_known_once_its_worker_says_so(place: Any, name: Any) -> None:
    node = name("node")
    assert node not in (await place.runs.ledger()).nodes

    await place.runs.put_node(node)

    assert node in (await place.runs.ledger()).nodes


async def test_a_run_is_asked_for_and_pending_until_its_report_comes(place: Any) -> None:
    asked = await place.http.post("/_/reconcile?repair=false")
    waiting = (await place.http.get("/_/reconcile")).json()["pending"]
    await place.runs.report_reconcile(Report(started=NOW, ended=NOW, request=asked.json()["request"]))
    after = (await place.http.get("/_/reconcile")).json()

    assert (asked.status_code, asked.headers["Location"]) == (202, "/_/reconcile")
    assert (waiting["request"], waiting["repair"], waiting["started"]) == (asked.json()["request"], False, False)
    assert (after["pending"], after["report"]["request"]) == (None, asked.json()["request"])


async def test_a_report_of_the_schedule_leaves_what_is_pending(place: Any) -> None:
    asked = (await place.http.post("/_/reconcile")).json()["request"]

    await place.runs.report_reconcile(Report(started=NOW, ended=NOW))

    assert (await place.http.get("/_/reconcile")).json()["pending"]["request"] == asked


async def test_differences_are_problems_until_they_are_gone(place: Any) -> None:
    hold = Difference(key="hold:x", kind=Kind.HOLD, message="m", remedy="r")

    await place.runs.report_reconcile(Report(started=NOW, ended=NOW, differences=(CLAIM, hold)))
    told = await listed(place)
    await place.runs.report_reconcile(Report(started=NOW, ended=NOW, repaired=(CLAIM,)))

    assert told == ["difference:claim:x"]
    assert await listed(place) == []


async def test_what_was_found_on_a_node_stands_until_that_node_is_looked_at_again(place: Any) -> None:
    await place.runs.report_reconcile(Report(started=NOW, ended=NOW, looked=("n",), differences=(STRAY,)))

    await place.runs.report_reconcile(Report(started=NOW, ended=NOW, silent=("n",)))
    while_silent = await listed(place)
    await place.runs.report_reconcile(Report(started=NOW, ended=NOW, looked=("n",)))

    assert while_silent == ["difference:process:n:i"]
    assert await listed(place) == []


@pytest.mark.parametrize(
    ("left", "options", "repair", "code", "lines"),
    [
        ((), (), True, 0, ["repaired\tclaim:x\tm\tr", "node away did not answer and was not looked at"]),
        ((STRAY,), ("--dry-run",), False, 1, ["repaired\tclaim:x\tm\tr", "left\tprocess:n:i\tm\tr"]),
    ],
)
async def test_the_command_line_asks_waits_and_shows(
    place: Any, tmp_path: Path, left: Any, options: Any, repair: bool, code: int, lines: Any
) -> None:
    command = ["reconcile", "--home", str(tmp_path), "--gateway", place.url, *options]
    before = ((await place.http.get("/_/reconcile")).json()["pending"] or {}).get("request")
    running = asyncio.create_task(asyncio.to_thread(CliRunner().invoke, cli, command))
    async with asyncio.timeout(20):
        while (pending := (await place.http.get("/_/reconcile")).json()["pending"] or {}).get("request") in (None, before):
            await asyncio.sleep(0.02)
    await place.runs.report_reconcile(
        Report(started=NOW, ended=NOW, request=pending["request"], differences=left, repaired=(CLAIM,), silent=("away",))
    )
    shown = await running

    assert pending["repair"] is repair
    assert shown.exit_code == code, shown.output
    assert [line for line in lines if line not in shown.output.splitlines()] == []


async def listed(place: Any) -> list[str]:
    answer = await place.http.get("/_/lifecycle/problems")
    return [each["key"] for each in answer.json() if each["kind"] == "difference"]
