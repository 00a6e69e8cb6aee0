"""`/_/discovery`, `/_/deployment` and `/_/env` row by row. Sections are those of the map of Okapi."""

from typing import Any

import pytest

from gateway_client import Instance

LAUNCH = {"exec": "run %p"}
MODULES = [{"id": "ma-1.0.0", "launchDescriptor": LAUNCH}, {"id": "mb-1.0.0+x"}, {"id": "mc-1.0.0"}]


@pytest.fixture(scope="module")
async def rack(module_site: Any) -> Any:
    """A gateway with these modules: an instance registered for the first two, one deployed on node `n1` for the first."""
    http = module_site.http
    assert (await http.post("/_/proxy/import/modules", json=MODULES)).status_code == 204
    for module, instance in (("ma-1.0.0", "a"), ("mb-1.0.0+x", "b+1")):
        sent = {"srvcId": module, "instId": instance, "url": "http://127.0.0.1:1"}
        found = await http.post("/_/discovery/modules", json=sent)
        assert (found.status_code, found.json()) == (201, sent)
        place = f"/_/discovery/modules/{module}/{instance}".replace("+", "%2B")
        assert found.headers["Location"] == place, "1.1: path only"
        assert (await http.get(place)).json() == sent
    await module_site.runs.put_node("n1")
    deployed = Instance(id="ma-1.0.0@n1", module="ma-1.0.0", url="http://127.0.0.1:2", node="n1", generation="1")
    await module_site.runs.put_instance(deployed)
    return module_site


@pytest.mark.parametrize(
    ("call", "body", "status", "answer"),
    [
        pytest.param("POST /_/discovery/modules", {}, 400, "Needs srvcId", id="post nothing"),
        pytest.param("POST /_/discovery/modules", {"srvcId": ""}, 400, "Empty srvcId not allowed", id="post empty srvcId"),
        pytest.param("POST /_/discovery/modules", {"srvcId": "mx-1.0.0"}, 404, "mx-1.0.0", id="post unknown"),
        pytest.param("POST /_/discovery/modules", {"srvcId": "mc-1.0.0"}, 400, "Needs instId", id="post no instId"),
        pytest.param("POST /_/discovery/modules", {"srvcId": "mc-1.0.0", "url": "http://x"}, 400, "Needs instId", id="post url"),
        pytest.param(
            "POST /_/discovery/modules", {"srvcId": "mc-1.0.0", "descriptor": LAUNCH}, 400, "missing nodeId", id="post no nodeId"
        ),
        pytest.param(
            "POST /_/discovery/modules", {"srvcId": "mc-1.0.0", "nodeId": "n1"}, 400, "Module mc-1.0.0 has no launchDescriptor",
            id="post nothing to launch",
        ),
        pytest.param(
            "POST /_/discovery/modules", {"srvcId": "ma-1.0.0", "nodeId": "n2"}, 404, "Node n2 not found", id="post unknown node"
        ),
        pytest.param(
            "POST /_/discovery/modules", {"srvcId": "mc-1.0.0", "instId": "a", "url": "http://x"}, 400, "Duplicate instId a",
            id="post duplicate",
        ),
        pytest.param("GET /_/discovery/modules", None, 200, ["a", "ma-1.0.0@n1", "b+1"], id="all"),
        pytest.param("GET /_/discovery/modules/ma-1.0.0", None, 200, ["a", "ma-1.0.0@n1"], id="of a module"),
        pytest.param("GET /_/discovery/modules/mc-1.0.0", None, 404, "mc-1.0.0", id="of a module without"),
        pytest.param("GET /_/discovery/modules/mx-1.0.0", None, 404, "mx-1.0.0", id="of an unknown module"),
        pytest.param("GET /_/discovery/modules/ma-1.0.0/x", None, 404, "ma-1.0.0/x", id="unknown instance"),
        pytest.param("GET /_/discovery/modules/mb-1.0.0%2Bx/a", None, 404, "mb-1.0.0+x/a", id="instance of another module"),
        pytest.param(
            "GET /_/discovery/modules/ma-1.0.0/ma-1.0.0@n1", None, 200,
            '{\n  "instId" : "ma-1.0.0@n1",\n  "srvcId" : "ma-1.0.0",\n  "nodeId" : "n1",\n  "url" : "http://127.0.0.1:2"\n}',
            id="one, printed",
        ),
        pytest.param("DELETE /_/discovery/modules/ma-1.0.0/x", None, 404, "ma-1.0.0/x", id="delete unknown"),
        pytest.param("DELETE /_/discovery/modules/mc-1.0.0", None, 404, "mc-1.0.0", id="delete of a module without"),
        pytest.param("DELETE /_/discovery/modules/ma-1.0.0/ma-1.0.0@n1", None, 503, None, id="delete what was deployed"),
        pytest.param("DELETE /_/discovery/modules/ma-1.0.0", None, 503, None, id="delete all of a module, or none"),
        pytest.param("DELETE /_/discovery/modules", None, 503, None, id="delete all, or none"),
        pytest.param("PUT /_/discovery/modules/ma-1.0.0/a", {}, 404, "No suitable module found for path and tenant", id="put"),
        pytest.param("GET /_/discovery/health/mc-1.0.0", None, 404, "mc-1.0.0", id="health of a module without"),
        pytest.param("GET /_/discovery/health/ma-1.0.0/x", None, 404, "ma-1.0.0/x", id="health of an unknown instance"),
        pytest.param("GET /_/discovery/nodes/n2", None, 404, "Node n2 not found", id="unknown node"),
        pytest.param("PUT /_/discovery/nodes/n2", {"nodeId": "n2"}, 404, "Node n2 not found", id="put unknown node"),
        pytest.param("PUT /_/discovery/nodes/n1", {"nodeId": "n2"}, 400, "Can not change nodeId for node n1", id="put nodeId"),
        pytest.param(
            "PUT /_/discovery/nodes/n1", {"nodeId": "n1", "url": "http://x"}, 400, "Can not change the URL for node n1", id="url"
        ),
        pytest.param("POST /_/deployment/modules", {}, 400, "Needs srvcId", id="deploy nothing"),
        pytest.param("POST /_/deployment/modules", {"srvcId": "ma-1.0.0"}, 400, "No LaunchDescriptor", id="deploy without"),
        pytest.param(
            "POST /_/deployment/modules", {"srvcId": "ma-1.0.0", "instId": "ma-1.0.0@n1", "descriptor": LAUNCH}, 400,
            "already deployed: ma-1.0.0@n1", id="deploy again",
        ),
        pytest.param("GET /_/deployment/modules", None, 200, ["ma-1.0.0@n1"], id="deployed ones"),
        pytest.param("GET /_/deployment/modules/a", None, 404, "not found: a", id="registered is not deployed"),
        pytest.param("DELETE /_/deployment/modules/a", None, 404, "not found: a", id="undeploy what was not deployed"),
        pytest.param("DELETE /_/deployment/modules/ma-1.0.0@n1", None, 503, None, id="undeploy"),
        pytest.param("POST /_/env", {"value": "v"}, 400, "missing name", id="env no name"),
        pytest.param("POST /_/env", {"name": "N"}, 400, "missing value", id="env no value"),
        pytest.param("GET /_/env", None, 200, "[ ]", id="env none"),
        pytest.param("GET /_/env/N", None, 404, "N", id="env unknown"),
        pytest.param("DELETE /_/env/N", None, 404, "N", id="env delete unknown"),
    ],
)  # fmt: skip
async def test_a_call_is_answered(rack: Any, call: str, body: Any, status: int, answer: Any) -> None:
    """1.4; an answer is a text, or the ids of a list of instances; None: it says that nothing can be stopped without Temporal."""
    method, path = call.split()
    found = await rack.http.request(method, path, json=body) if body is not None else await rack.http.request(method, path)
    assert found.status_code == status, found.text
    if isinstance(answer, str):
        assert found.text == answer
    elif answer is None:
        assert "Temporal or its worker does not answer" in found.text
    else:
        assert [each["instId"] for each in found.json()] == answer
    left = [each["instId"] for each in (await rack.http.get("/_/discovery/modules")).json()]
    assert left == ["a", "ma-1.0.0@n1", "b+1"], "nothing was changed"


async def test_what_is_deployed_on_that_node_already_is_kept(rack: Any) -> None:
    found = await rack.http.post("/_/discovery/modules", json={"srvcId": "ma-1.0.0", "nodeId": "n1"})
    assert (found.status_code, found.json()["instId"]) == (201, "ma-1.0.0@n1")
    assert found.headers["Location"].endswith("/_/discovery/modules/ma-1.0.0/ma-1.0.0%40n1")


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ({"srvcId": "mc-1.0.0", "nodeId": "n1", "descriptor": LAUNCH}, "Module mc-1.0.0 has no launchDescriptor"),
        ({"srvcId": "ma-1.0.0", "nodeId": "n1", "descriptor": {"exec": "other %p"}}, "descriptor: is not the launchDescriptor"),
        (
            {"srvcId": "ma-1.0.0", "nodeId": "n1", "instId": "mine"},
            "instId: an instance that is deployed here is called ma-1.0.0@n1",
        ),
        ({"srvcId": "ma-1.0.0", "instId": "mine"}, "url: is missing"),
    ],
)
async def test_a_deployment_that_is_not_possible_is_refused(rack: Any, sent: dict[str, Any], text: str) -> None:
    found = await rack.http.post("/_/discovery/modules", json=sent)
    assert (found.status_code, text in found.text) == (400, True), found.text


async def test_nodes_are_those_that_workers_deploy_on(rack: Any) -> None:
    """1.4: nodeId, url, nodeName."""
    node = {"nodeId": "n1", "url": rack.url, "nodeName": "n1"}
    assert (await rack.http.get("/_/discovery/nodes")).json() == [node]
    assert (await rack.http.get("/_/discovery/nodes/n1")).json() == node
    assert (await rack.http.get("/_/discovery/nodes/" + rack.url.replace("/", "%2F"))).json() == node
    found = await rack.http.put("/_/discovery/nodes/n1", json=node)
    assert (found.status_code, found.json()) == (200, node)
    found = await rack.http.put("/_/discovery/nodes/n1", json={**node, "nodeName": "other"})
    assert (found.status_code, "worker.node" in found.text) == (400, True)


async def test_anybody_who_answers_is_well_and_nobody_is_not(new_site: Any, upstream: Any) -> None:
    """1.4: a plain GET on the base URL; any answer counts, whatever it says."""
    site = await new_site()
    upstream.health = 500
    assert (await site.http.get("/_/discovery/health")).text == "[ ]"
    await site.register("ma-1.0.0", upstream.url)
    await site.register("mb-1.0.0", "http://127.0.0.1:1")
    up = {"instId": "ma-1.0.0-i", "srvcId": "ma-1.0.0", "healthMessage": "OK", "healthStatus": True}
    one = await site.http.get("/_/discovery/health/ma-1.0.0/ma-1.0.0-i")
    assert one.json() == up
    assert one.text.startswith('{\n  "instId" : "ma-1.0.0-i",\n  "srvcId" : "ma-1.0.0",\n  "healthMessage" : "OK",')
    assert (await site.http.get("/_/discovery/health/ma-1.0.0")).json() == [up]
    assert upstream.requests[-1].raw_path == "/"
    first, second = (await site.http.get("/_/discovery/health")).json()
    assert first == up
    assert (second["instId"], second["healthStatus"]) == ("mb-1.0.0-i", False)
    assert second["healthMessage"].startswith("Fail: ")


async def test_all_registered_instances_are_forgotten_at_once(new_site: Any) -> None:
    """1.4: DELETE all."""
    site = await new_site()
    for module in ("ma-1.0.0", "mb-1.0.0"):
        await site.register(module, "http://127.0.0.1:1")
    assert (await site.http.delete("/_/discovery/modules")).status_code == 204
    assert (await site.http.get("/_/discovery/modules")).text == "[ ]"
    assert (await site.http.delete("/_/discovery/modules")).status_code == 204


async def test_a_variable_is_set_overwritten_and_forgotten(new_site: Any) -> None:
    """1.4."""
    site = await new_site()
    for value in ("one", "two"):
        sent = {"name": "DB HOST+1", "value": value, "description": "where"}
        found = await site.http.post("/_/env", json=sent)
        assert (found.status_code, found.json()) == (201, sent)
        assert found.headers["Location"] == "/_/env/DB%20HOST%2B1"
    assert (await site.http.get("/_/env")).json() == [sent]
    assert (await site.http.get("/_/env/DB%20HOST%2B1")).text == (
        '{\n  "name" : "DB HOST+1",\n  "value" : "two",\n  "description" : "where"\n}'
    )
    assert (await site.http.delete("/_/env/DB%20HOST%2B1")).status_code == 204
    assert (await site.http.get("/_/env")).text == "[ ]"
