"""`uplift install` and `uplift upgrade` against the gateway. Temporal is away: this test is every job's run."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway_client import FinishRequest, Notice
from uplift_cli.main import cli


async def shown(site: Any, *arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, cli, [*arguments, "--gateway", site.url])


@pytest.fixture
async def pair(site: Any, name: Any) -> tuple[str, str]:
    """Two versions of one product, each with an instance."""
    product = name("m")
    return (
        await site.register(f"{product}-1.0.0", "http://127.0.0.1:1"),
        await site.register(f"{product}-1.1.0", "http://127.0.0.1:1"),
    )


async def jobs(site: Any, tenant: str) -> list[Any]:
    found: list[Any] = (await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json()
    return found


async def run(site: Any, until: Any, tenant: str, outcome: str = "done") -> None:
    """Be the run of the tenant's job."""

    async def running() -> Any:
        return next((job for job in await jobs(site, tenant) if not job["complete"]), None)

    job = (await until(running))["id"]
    await site.runs.begin(job)
    error = Notice(message="it broke", type="Broken", code="broken")
    await site.runs.finish(job, FinishRequest(outcome=outcome, errors=() if outcome == "done" else (error,)))


async def test_the_plan_is_a_table_with_its_digest(site: Any, name: Any, pair: tuple[str, str]) -> None:
    old, new = pair
    other = await site.register(f"{name('z')}-1.0.0", launchDescriptor={"exec": "./start %p"})
    tenant = await site.tenant(old)
    found = await shown(site, "install", tenant, new, other, "--dry-run")
    lines = [line.split("\t") for line in found.stdout.splitlines()]
    digest = lines[-1][0].removeprefix("plan: ")
    assert (found.exit_code, lines) == (
        0,
        [
            ["group", "change", "module", "data is at", "undo", "instance", "held"],
            [f"1-{new[:-6]}", "upgrade", new, old, "check", "running", "?"],
            [f"2-{other[:-6]}", "install", other, "-", "check", "deployed", "?"],
            [f"started for it: {other}"],
            ["requests wait: nothing is known, since nothing like this was done before"],
            [f"plan: {digest}"],
        ],
    )
    assert [job["status"] for job in await jobs(site, tenant)] == ["done"]  # the one that enabled the old version
    assert len(digest) == 16


async def test_a_plan_with_nothing_to_do_says_so(site: Any, pair: tuple[str, str]) -> None:
    found = await shown(site, "upgrade", await site.tenant(pair[1]), "--dry-run")
    assert (found.exit_code, found.stdout.splitlines()[0]) == (0, "nothing to do")


async def test_the_plan_as_json_is_the_gateways(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    found = json.loads((await shown(site, "upgrade", tenant, "--dry-run", "--json")).stdout)
    assert found == (await site.http.post(f"/_/proxy/tenants/{tenant}/upgrade?dryRun=true")).json()


async def test_what_is_disabled_and_what_a_file_lists_are_in_the_plan(
    site: Any, name: Any, pair: tuple[str, str], tmp_path: Path
) -> None:
    gone = await site.register(f"{name('a')}-1.0.0")
    tenant = await site.tenant(pair[0], gone)
    file = tmp_path / "release.json"
    file.write_text(json.dumps([{"id": pair[1], "action": "enable"}]))
    found = await shown(site, "install", tenant, "--file", str(file), "--disable", gone, "--dry-run", "--json")
    changes = [change for group in json.loads(found.stdout)["groups"] for change in group["changes"]]
    assert sorted((change["kind"], change["id"]) for change in changes) == [("disable", gone), ("upgrade", pair[1])]


async def test_the_plan_that_was_looked_at_is_executed_and_its_end_is_shown(site: Any, until: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    plan = (await shown(site, "upgrade", tenant, "--dry-run")).stdout.splitlines()[-1].removeprefix("plan: ")
    call = asyncio.create_task(shown(site, "upgrade", tenant, "--plan", plan, "--option", "tenantParameters=a=b"))
    await run(site, until, tenant)
    found = await call
    job = (await jobs(site, tenant))[-1]
    assert (found.exit_code, job["plan"]) == (0, plan)
    assert found.stdout.splitlines()[-1] == f"job {job['id']} has ended as done; held 0.0 s"
    assert f"enable\t{pair[1]}\t{pair[0]}\t-" in found.stdout


async def test_a_job_that_fails_is_exit_status_1_with_its_errors(site: Any, until: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    call = asyncio.create_task(shown(site, "install", tenant, pair[1]))
    await run(site, until, tenant, "rolled_back")
    found = await call
    assert (found.exit_code, "error: it broke" in found.stdout, "has ended as rolled_back" in found.stdout) == (1, True, True)


async def test_who_does_not_wait_is_told_the_job(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    found = await shown(site, "install", tenant, pair[1], "--no-wait")
    assert found.exit_code == 0
    assert found.stdout.splitlines()[-1] == f"job {(await jobs(site, tenant))[-1]['id']} is queued"


async def test_a_plan_that_has_moved_is_the_gateways_message(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    found = await shown(site, "upgrade", tenant, "--plan", "0123456789abcdef")
    assert found.exit_code == 1
    assert found.output.startswith(f"Error: plan 0123456789abcdef of tenant {tenant} is not known")


async def test_what_is_wrong_on_the_command_line_reaches_no_gateway(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no JSON")
    (tmp_path / "object").write_text("{}")
    for arguments, text in (
        (["install", "t"], "name a module"),
        (["install", "t", "--file", str(tmp_path / "text")], "is no JSON"),
        (["install", "t", "--file", str(tmp_path / "object")], "is no list"),
        (["upgrade", "t", "--option", "parallel"], "give NAME=VALUE"),
        (["upgrade"], "TENANT"),
    ):
        found = await asyncio.to_thread(CliRunner().invoke, cli, [*arguments, "--gateway", "http://127.0.0.1:1"])
        assert (found.exit_code, text in found.output) == (2, True), found.output
