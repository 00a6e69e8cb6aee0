"""The production shape: what docker-compose.yml, Dockerfile and deploy/ name is there, and nothing in them is a password."""

import json
import os
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from upgrade_core.runs import ATTRIBUTES
from uplift_cli.gateway_command import STOP_MARGIN
from uplift_cli.gateway_command import gateway as gateway_command
from uplift_settings import Settings, load

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SCRIPTS = sorted((ROOT / "deploy").rglob("*.sh"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")

DURATION = {"type": "string", "pattern": r"^(\d+(s|m|h))+$"}
WORDS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
CONDITIONS = ["service_started", "service_healthy", "service_completed_successfully"]


def members(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


# The part of the Compose specification that the file uses; its whole schema is larger than everything it would check here.
SCHEMA = members(
    ("name", "services", "volumes", "secrets"),
    **{"x-restart": {"type": "object"}, "x-one-shot": {"type": "object"}},
    name={"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
    services={
        "type": "object",
        "additionalProperties": members(
            ("image", "restart"),
            image={"type": "string", "pattern": r"^[a-z/-]+:\d+(\.\d+)+$"},
            build={"type": "string"},
            command=WORDS,
            entrypoint=WORDS,
            environment={"type": "object", "additionalProperties": {"type": "string"}},
            secrets=WORDS,
            volumes={"type": "array", "items": {"type": "string", "pattern": "^[^:]+:/[^:]*(:ro)?$"}},
            ports={"type": "array", "items": {"type": "string"}},
            depends_on={
                "type": "object",
                "additionalProperties": members(("condition",), condition={"enum": CONDITIONS}),
            },
            healthcheck=members(
                ("test", "interval", "timeout", "retries"),
                test=WORDS,
                interval=DURATION,
                timeout=DURATION,
                start_period=DURATION,
                retries={"type": "integer", "minimum": 1},
            ),
            restart={"enum": ["no", "unless-stopped"]},
            init={"type": "boolean"},
            stop_grace_period=DURATION,
            shm_size={"type": "string", "pattern": r"^\d+[mg]$"},
            logging={"type": "object"},
        ),
    },
    volumes={"type": "object", "additionalProperties": {"type": "null"}},
    secrets={"type": "object", "additionalProperties": members(("file",), file={"type": "string"})},
)


def settings_keys(model: BaseModel, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for name in type(model).model_fields:
        value = getattr(model, name)
        keys |= settings_keys(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {prefix + name}
    return keys


def uplift_variables() -> list[tuple[str, str]]:
    return [(name, key) for name in SERVICES for key in SERVICES[name].get("environment", {}) if key.startswith("UPLIFT_")]


def is_one_shot(name: str) -> bool:
    return bool(SERVICES[name]["restart"] == "no")


def test_the_file_is_what_compose_reads() -> None:
    jsonschema.validate(COMPOSE, SCHEMA)


@pytest.mark.parametrize(("service", "variable"), uplift_variables())
def test_each_setting_that_is_named_exists(service: str, variable: str) -> None:
    key = variable.removeprefix("UPLIFT_").lower().replace("__", ".")

    assert key in settings_keys(Settings()), service


@pytest.mark.parametrize("service", ["gateway", "worker"])
def test_the_settings_of_a_service_are_valid_together(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("UPLIFT_"):
            monkeypatch.delenv(name)
    for name, value in SERVICES[service]["environment"].items():
        monkeypatch.setenv(name, value)

    settings = load()

    assert settings.temporal.namespace == SERVICES["temporal-namespace"]["environment"]["TEMPORAL_NAMESPACE"]


def test_the_worker_stops_its_activities_before_it_is_killed() -> None:
    worker = SERVICES["worker"]

    assert int(worker["stop_grace_period"].removesuffix("s")) > float(worker["environment"]["UPLIFT_WORKER__STOP_GRACE"])


def test_the_gateway_answers_what_is_open_before_it_is_killed() -> None:
    gateway = SERVICES["gateway"]
    grace = float(gateway["environment"].get("UPLIFT_GATEWAY__STOP_GRACE", Settings().gateway.stop_grace))

    assert int(gateway["stop_grace_period"].removesuffix("s")) > grace + STOP_MARGIN


def test_the_gateway_runs_under_a_parent_that_replaces_its_processes() -> None:
    program, name, *arguments = SERVICES["gateway"]["command"]

    assert (program, name) == ("uplift", "gateway")
    assert gateway_command.make_context("gateway", list(arguments)).params["processes"] == 2


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_tells_its_health_or_ends(service: str) -> None:
    waiting = [other["depends_on"][service]["condition"] for other in SERVICES.values() if service in other.get("depends_on", {})]

    if is_one_shot(service):
        assert "healthcheck" not in SERVICES[service]
        assert set(waiting) == {"service_completed_successfully"}
    else:
        assert "healthcheck" in SERVICES[service]
        assert "service_completed_successfully" not in waiting


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_refers_to_is_there(service: str) -> None:
    shape = SERVICES[service]

    assert set(shape.get("depends_on", {})) <= set(SERVICES)
    assert set(shape.get("secrets", [])) <= set(COMPOSE["secrets"])
    for volume in shape.get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]
    for secret in re.findall(r"/run/secrets/(\w+)", json.dumps(shape)):
        assert secret in shape["secrets"]


def test_no_password_is_written_down() -> None:
    secret_names = re.compile(r"PASSWORD|PWD|TOKEN|DSN|SECRET|KEY", re.IGNORECASE)
    values = {
        f"{service}.{name}": value
        for service, shape in SERVICES.items()
        for name, value in shape.get("environment", {}).items()
        if secret_names.search(name)
    }
    values |= {f"deploy.env.{name}": value for name, value in deploy_env().items() if secret_names.search(name)}
    values |= {f"secrets.{name}": secret["file"] for name, secret in COMPOSE["secrets"].items()}

    assert values
    assert {
        name: value
        for name, value in values.items()
        if not re.fullmatch(r"(file:)?/run/secrets/\w+|\$\{SECRETS_FOLDER:\?[^}]*\}/\w+", value)
    } == {}


def deploy_env() -> dict[str, str]:
    env: dict[str, str] = json.loads(SERVICES["worker"]["environment"]["UPLIFT_DEPLOY__ENV"])
    return env


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_each_script_can_be_read_by_a_plain_shell(script: Path) -> None:
    subprocess.run(("sh", "-n", str(script)), check=True, timeout=10)

    assert "\nset -eu\n" in script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)


def test_every_secret_is_made_once_and_then_kept(tmp_path: Path) -> None:
    make = (str(ROOT / "deploy" / "make-secrets.sh"), str(tmp_path / "secrets"))
    subprocess.run(make, check=True, timeout=10, capture_output=True)
    made = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "secrets").iterdir()}
    subprocess.run(make, check=True, timeout=10, capture_output=True)

    assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "secrets").iterdir()} == made
    assert set(made) == set(COMPOSE["secrets"])
    assert len(set(made.values())) == len(made)
    assert made["dsn_modules"] == f"postgresql://modules:{made['postgres_modules']}@postgres:5432/modules"
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


def test_the_namespace_gets_the_search_attributes_of_the_runs() -> None:
    script = (ROOT / "deploy" / "temporal" / "make-namespace.sh").read_text(encoding="utf-8")
    found = re.search(r'^attributes="(.*)"$', script, re.MULTILINE)

    assert found is not None
    assert tuple(found[1].split()) == ATTRIBUTES


def test_each_role_has_a_secret_and_its_databases() -> None:
    script = (ROOT / "deploy" / "postgres" / "make-databases.sh").read_text(encoding="utf-8")
    owned = {role: names.split() for role, names in re.findall(r"^owned (\w+) (.+)$", script, re.MULTILINE)}

    assert owned == {"temporal": ["temporal", "temporal_visibility"], "uplift": ["uplift"], "modules": ["modules"]}
    assert {f"postgres_{role}" for role in owned} <= set(SERVICES["postgres"]["secrets"])


def copied() -> list[str]:
    return [source for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]]


@pytest.mark.parametrize("source", copied())
def test_what_the_image_copies_is_there_and_not_ignored(source: str) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")]

    assert (ROOT / source).exists()
    assert any(fnmatch(source, pattern) for pattern in allowed)


def test_the_image_holds_every_package_and_only_hashed_ones() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = re.search(r"^packages = \[\n(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)

    assert packages is not None
    assert set(re.findall(r'"(\w+)"', packages[1])) <= set(copied())
    installs = [line for line in DOCKERFILE.splitlines() if "pip install" in line]
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)


def test_nothing_in_the_image_runs_as_root() -> None:
    last_stage = DOCKERFILE.rsplit("\nFROM ", 1)[1]

    assert "\nUSER uplift\n" in last_stage
