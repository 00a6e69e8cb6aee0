"""Descriptors: what is read from them, and what is refused with which text."""

from typing import Any

import pytest

from upgrade_core.descriptors import (
    MAX_TEXT,
    Check,
    Handler,
    Interface,
    LaunchDescriptor,
    ModuleDescriptor,
    Requirement,
    Undo,
    UpliftMetadata,
    accepts_upgrade_from,
    parse_descriptor,
    parse_uplift,
)
from upgrade_core.errors import InvalidDescriptor, InvalidId

HANDLER = {"methods": ["GET"], "pathPattern": "/x", "permissionsRequired": []}
INTERFACE = {"id": "int", "version": "1.0"}


def module(**members: Any) -> dict[str, Any]:
    return {"id": "mod-1.0.0", **members}


def handled(kind: str | None = None, **members: Any) -> dict[str, Any]:
    interface = INTERFACE | {"handlers": [HANDLER | members]}
    return module(provides=[interface if kind is None else interface | {"interfaceType": kind}])


def test_a_descriptor_needs_only_an_id() -> None:
    assert parse_descriptor({"id": "mod-1.0.0"}) == ModuleDescriptor(id="mod-1.0.0", product="mod")


def test_a_descriptor_is_read_whole() -> None:
    found = parse_descriptor(
        {
            "id": "mod-x-1.0.0",
            "requires": [{"id": "a", "version": "1.0 2.0"}],
            "optional": [{"id": "b", "version": "1.2.3"}],
            "provides": [
                {"id": "x", "version": "3.1", "handlers": [HANDLER, {"path": "/old", "permissionsRequired": []}]},
                {"id": "_tenant", "version": "2.0", "interfaceType": "system", "handlers": [{"path": "/_/tenant"}]},
            ],
            "replaces": ["mod-y"],
            "launchDescriptor": {"exec": "run %p", "env": [{"name": "A", "value": "1"}, {"name": "B"}]},
            "metadata": {"other": 1, "uplift": {"undo": "module"}},
        }
    )
    assert found == ModuleDescriptor(
        id="mod-x-1.0.0",
        product="mod-x",
        requires=(Requirement(id="a", version="1.0 2.0"),),
        optional=(Requirement(id="b", version="1.2.3"),),
        provides=(
            Interface(
                id="x",
                version="3.1",
                handlers=(
                    Handler(methods=("GET",), pattern="/x"),
                    Handler(methods=(), pattern="/old", prefix_match=True),
                ),
            ),
            Interface(
                id="_tenant",
                version="2.0",
                type="system",
                handlers=(Handler(methods=(), pattern="/_/tenant", prefix_match=True),),
            ),
        ),
        replaces=("mod-y",),
        launch=LaunchDescriptor(exec="run %p", env=(("A", "1"), ("B", ""))),
        uplift=UpliftMetadata(undo=Undo.MODULE),
    )
    assert found.module_id.product == "mod-x"
    assert found.interface("x") is found.provides[0]
    assert found.interface("y") is None


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ({}, "id is missing for module"),
        ({"id": "mod"}, "Missing semantic version for: mod"),
        ({"id": "mod-2fa-1.0.0"}, "invalid semver: 2fa-1.0.0"),
        (module(provides=[INTERFACE, INTERFACE]), "Interface int provided multiple times"),
        (module(provides=[{"version": "1.0"}]), "id is missing for module mod-1.0.0"),
        (module(provides=[{"id": "int"}]), "version is missing for module mod-1.0.0"),
        (module(provides=[{"id": "int", "version": " "}]), "version is missing for module mod-1.0.0"),
        (module(provides=[{"id": "int", "version": "1"}]), "Bad version number '1'"),
        (module(requires=[{"version": "1.0"}]), "id is missing for module mod-1.0.0"),
        (module(requires=[{"id": "int"}]), "version is missing for module mod-1.0.0"),
        (module(requires=[{"id": "int", "version": "1.0 x"}]), "Bad version number 'x'"),
        (module(optional=[{"id": "int", "version": "x"}]), "Bad version number 'x'"),
        (
            module(requires=[INTERFACE | {"handlers": [HANDLER]}]),
            "No handlers allowed in 'requires' section for module mod-1.0.0",
        ),
        (
            module(optional=[INTERFACE | {"handlers": [HANDLER]}]),
            "No handlers allowed in 'optional' section for module mod-1.0.0",
        ),
        (handled("other"), "Bad interface type 'other' for module mod-1.0.0"),
        (handled(pathPattern=None), "Bad routing entry, needs a pathPattern or at least a path"),
        (handled(pathPattern="/a?b"), "Invalid character ? for pathPattern"),
        (handled(pathPattern="/{a"), "Missing }-character for {}-construct in pathPattern"),
        (handled(type="other"), "Invalid entry type: other"),
        (handled(type="redirect"), "Redirect entry without redirectPath"),
        (handled(permissionsRequired=None), "Module 'mod-1.0.0' handler /x: Missing field permissionsRequired"),
        (
            handled("multiple", permissionsRequired=None),
            "Module 'mod-1.0.0' handler /x: Missing field permissionsRequired",
        ),
        (module(filters=[{"methods": ["*"]}]), "Bad routing entry, needs a pathPattern or at least a path"),
        (module(filters=[{"path": "/", "type": "x"}]), "Invalid entry type: x"),
        (module(replaces=["other-1.0"]), "No semantic version for: other-1.0"),
    ],
)
def test_a_descriptor_that_contradicts_itself_is_refused_with_okapis_text(wire: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidDescriptor, InvalidId)) as caught:
        parse_descriptor(wire)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "wire",
    [
        handled("system", permissionsRequired=None),
        handled(type="system", permissionsRequired=None),
        module(provides=[{"id": "_x", "version": "1.0", "handlers": [{"path": "/x"}]}]),
        module(filters=[{"path": "/", "phase": "auth"}]),
        handled(type="redirect", redirectPath="/y"),
        module(provides=None, requires=None, optional=None, replaces=None, metadata=None, launchDescriptor=None),
        module(provides=[{"id": "int", "version": "1.2 2.0"}]),
    ],
)
def test_these_descriptors_are_fine(wire: dict[str, Any]) -> None:
    parse_descriptor(wire)


@pytest.mark.parametrize(
    ("filters", "is_exclusive"),
    [
        (None, False),
        ([{"path": "/", "phase": "auth"}], True),
        ([{"path": "/", "phase": "pre"}, {"path": "/x", "phase": "post"}], False),
        ([{"path": "/", "phase": "pre"}, {"path": "/x", "phase": "auth"}], True),
    ],
)
def test_a_module_that_filters_who_may_call_the_others_is_moved_alone(filters: Any, is_exclusive: bool) -> None:
    assert parse_descriptor(module(filters=filters)).is_exclusive is is_exclusive


@pytest.mark.parametrize(
    ("interface", "is_system"),
    [
        (Interface(id="x", version="1.0"), False),
        (Interface(id="x", version="1.0", type="system"), True),
        (Interface(id="x", version="1.0", type="multiple"), True),
        (Interface(id="_x", version="1.0"), True),
    ],
)
def test_only_proxy_interfaces_without_an_underscore_are_depended_on(interface: Interface, is_system: bool) -> None:
    assert interface.is_system is is_system


@pytest.mark.parametrize(
    ("wire", "needs_instance", "is_process"),
    [
        (module(), False, False),
        (module(provides=[INTERFACE]), False, False),
        (handled(), True, False),
        (module(launchDescriptor={"exec": "x"}), True, True),
        (module(launchDescriptor={"cmdlineStart": "x"}), True, True),
        (module(launchDescriptor={"dockerImage": "x"}), True, False),
        (module(launchDescriptor={"dockerImage": "x", "exec": "x"}), True, False),
        (module(launchDescriptor={}), False, False),
    ],
)
def test_ui_modules_need_no_instance(wire: dict[str, Any], needs_instance: bool, is_process: bool) -> None:
    found = parse_descriptor(wire)
    assert found.needs_instance is needs_instance
    assert (found.launch is not None and found.launch.is_process) is is_process


def test_uplift_metadata_is_read_whole() -> None:
    """Requirements B6, D2, E5: how a module is undone, where its data is, and what is checked."""
    wire = {
        "undo": "snapshot",
        "rerunnable": True,
        "upgrade_from": ">=1.0,<3",
        "soak": 2,
        "data": {"dsn": "env:DSN", "schema": "{tenant}_x"},
        "checks": [{"path": "/a"}, {"method": "POST", "path": "/b", "status": 201, "json": {"b": 1, "a": None}}],
        "data_version": "/v",
        "health": "/h",
    }
    assert parse_uplift(wire) == UpliftMetadata(
        undo=Undo.SNAPSHOT,
        rerunnable=True,
        upgrade_from=">=1.0,<3",
        soak=2.0,
        data_dsn="env:DSN",
        data_schema="{tenant}_x",
        checks=(Check(method="GET", path="/a"), Check(method="POST", path="/b", status=201, json='{"a": null, "b": 1}')),
        data_version="/v",
        health="/h",
    )
    assert parse_uplift(None) == parse_uplift({}) == UpliftMetadata()


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ([], "metadata.uplift: must be an object"),
        ({"undoo": "module"}, "metadata.uplift.undoo: unknown member; known are checks, data, data_version"),
        ({"undo": "magic"}, "metadata.uplift.undo: 'magic' is none of snapshot, module, reversible"),
        ({"undo": ["module"]}, "metadata.uplift.undo: ['module'] is none of snapshot"),
        ({"undo": {}}, "metadata.uplift.undo: {} is none of snapshot"),
        ({"rerunnable": "yes"}, "metadata.uplift.rerunnable: must be true or false"),
        ({"rerunnable": None}, "metadata.uplift.rerunnable: must be true or false"),
        ({"soak": -1}, "metadata.uplift.soak: must be seconds from 0 to 86400"),
        ({"soak": 86_401}, "metadata.uplift.soak: must be seconds from 0 to 86400"),
        ({"soak": True}, "metadata.uplift.soak: must be seconds from 0 to 86400"),
        ({"soak": "1"}, "metadata.uplift.soak: must be seconds from 0 to 86400"),
        ({"soak": float("nan")}, "metadata.uplift.soak: must be seconds from 0 to 86400"),
        ({"soak": float("inf")}, "metadata.uplift.soak: must be seconds from 0 to 86400"),
        ({"upgrade_from": "1.0"}, "metadata.uplift.upgrade_from: '1.0' is no version range like '>=1.0,<3'"),
        ({"upgrade_from": 1}, f"metadata.uplift.upgrade_from: must be a text of at most {MAX_TEXT} characters"),
        ({"upgrade_from": ">=1," * MAX_TEXT}, f"metadata.uplift.upgrade_from: must be a text of at most {MAX_TEXT} characters"),
        ({"data": "x"}, "metadata.uplift.data: must be an object"),
        ({"data": {"password": "x"}}, "metadata.uplift.data.password: unknown member; known are dsn, schema"),
        ({"data": {"dsn": "postgresql://u:p@h/d"}}, "metadata.uplift.data.dsn: must be a reference, env:NAME or file:PATH"),
        ({"data": {"schema": None}}, f"metadata.uplift.data.schema: must be a text of at most {MAX_TEXT} characters"),
        ({"checks": {}}, "metadata.uplift.checks: must be a list of at most 50 checks"),
        ({"prechecks": {}}, "metadata.uplift.prechecks: must be a list of at most 50 checks"),
        ({"prechecks": ["/"]}, "metadata.uplift.prechecks[0]: must be an object"),
        ({"prechecks": [{}]}, "metadata.uplift.prechecks[0].path: is missing"),
        ({"prechecks": [{"path": "/", "on": "both"}]}, "metadata.uplift.prechecks[0].on: must be old or new: the version"),
        ({"prechecks": [{"path": "/", "on": []}]}, "metadata.uplift.prechecks[0].on: must be old or new: the version"),
        ({"prechecks": [{"path": "/", "status": 99}]}, "metadata.uplift.prechecks[0].status: must be an HTTP status"),
        ({"post_steps": [{"path": "/"}] * 51}, "metadata.uplift.post_steps: must be a list of at most 50 steps"),
        (
            {"postSteps": []},
            "metadata.uplift.postSteps: unknown member; known are checks, data, data_version, health, post_steps",
        ),
        ({"post_steps": [{"path": "/", "on": "new"}]}, "metadata.uplift.post_steps[0].on: unknown member; known are body, job"),
        ({"post_steps": [{"path": "r"}]}, "metadata.uplift.post_steps[0].path: must start with /"),
        ({"post_steps": [{"path": "/", "method": "RUN"}]}, "metadata.uplift.post_steps[0].method: 'RUN' is no HTTP method"),
        ({"post_steps": [{"path": "/", "body": "x" * MAX_TEXT}]}, "metadata.uplift.post_steps[0].body: must not exceed 2000"),
        ({"post_steps": [{"path": "/", "job": 1}]}, "metadata.uplift.post_steps[0].job: must be an object"),
        ({"post_steps": [{"path": "/", "job": {"path": "/"}}]}, "metadata.uplift.post_steps[0].job.done: must be an object"),
        ({"post_steps": [{"path": "/", "job": {"path": "/", "done": {}}}]}, "metadata.uplift.post_steps[0].job.done: must be an"),
        ({"post_steps": [{"path": "/", "job": {"done": {"s": 1}}}]}, "metadata.uplift.post_steps[0].job.path: is missing"),
        (
            {"post_steps": [{"path": "/", "job": {"path": "/", "done": {"s": 1}, "failed": 0}}]},
            "metadata.uplift.post_steps[0].job.failed: must be an object, not empty, that the job's object contains then",
        ),
        ({"checks": [{"path": "/"}] * 51}, "metadata.uplift.checks: must be a list of at most 50 checks"),
        ({"checks": ["/"]}, "metadata.uplift.checks[0]: must be an object"),
        ({"checks": [{"path": "/"}, {}]}, "metadata.uplift.checks[1].path: is missing"),
        ({"checks": [{"path": "x"}]}, "metadata.uplift.checks[0].path: must start with /"),
        ({"checks": [{"path": "/", "body": 1}]}, "metadata.uplift.checks[0].body: unknown member; known are json, method"),
        ({"checks": [{"path": "/", "method": "get"}]}, "metadata.uplift.checks[0].method: 'get' is no HTTP method"),
        ({"checks": [{"path": "/", "method": []}]}, "metadata.uplift.checks[0].method: [] is no HTTP method"),
        ({"checks": [{"path": "/", "status": 199}]}, "metadata.uplift.checks[0].status: must be an HTTP status"),
        ({"checks": [{"path": "/", "status": True}]}, "metadata.uplift.checks[0].status: must be an HTTP status"),
        ({"checks": [{"path": "/", "json": "x" * MAX_TEXT}]}, "metadata.uplift.checks[0].json: must not exceed 2000 characters"),
        ({"data_version": "v"}, "metadata.uplift.data_version: must start with /"),
    ],
)
def test_a_fault_in_uplift_metadata_is_named(wire: Any, message: str) -> None:
    with pytest.raises(InvalidDescriptor) as caught:
        parse_uplift(wire)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("specifier", "version", "accepted"),
    [
        ("", "0", True),
        (">=1.0,<3", "1.0.0", True),
        (">=1.0,<3", "2.9.9", True),
        (">=1.0,<3", "3.0.0", False),
        (">=1.0,<3", "0.9", False),
        (">=1.0", "2.0.0-rc.1", True),
        (">=1.0", "1.0.0-SNAPSHOT.12", True),  # PEP 440 cannot read it: by its numbers
        (">=1.0", "0.9.0-SNAPSHOT.12+x!", False),
        ("==1.2.*", "1.2.7", True),
        ("!=1.2.3", "1.2.3", False),
        (">=2.4.10000000", "2.4.10000105", True),
    ],
)
def test_a_range_says_which_versions_can_be_upgraded(specifier: str, version: str, accepted: bool) -> None:
    assert accepts_upgrade_from(specifier, version) is accepted
