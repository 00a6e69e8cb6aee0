#!/usr/bin/env python3
"""Make the development environment: `.venv` from the hashed lock, this project in it, and the Temporal command line.

Needs Python >= 3.11 with venv, and a package index. Quick when nothing has changed since the last time.
"""

# ruff: noqa: T201 - a script, run before anything is installed

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "setup.stamp"
UV_LOCK = ROOT / "setup" / "uv.lock"
LOCK = ROOT / "requirements-dev.lock"
OLDEST = (3, 11)


def main() -> None:
    """Bring the environment up to date."""
    if sys.version_info < OLDEST:
        sys.exit(f"Python {'.'.join(map(str, OLDEST))} or newer is needed, this is {sys.version.split()[0]}: set PYTHON=...")
    wanted = _wanted()
    if _is_current(wanted):
        return
    STAMP.unlink(missing_ok=True)
    python = VENV / "bin" / "python"
    if VENV.exists() and not _same_python(python):
        shutil.rmtree(VENV)
    if not VENV.exists():
        print("making .venv", flush=True)
        venv.create(VENV, with_pip=True)
    _run("installing uv", python, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", UV_LOCK)
    uv = (VENV / "bin" / "uv", "pip")
    target = ("--quiet", "--python", python)
    # compiled once, here: where Python is told to write no bytecode, each of our many processes would do it again, for a second
    _run("installing the locked packages", *uv, "sync", *target, "--compile-bytecode", "--require-hashes", LOCK)
    # hatchling is in the lock too: the build needs no network and nothing that is not hashed
    _run("installing this project", *uv, "install", *target, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    found = _run("looking for the Temporal command line", VENV / "bin" / "uplift", "setup")
    STAMP.write_text(f"{wanted}\n{found}\n", encoding="utf-8")
    print("ready: `make help` lists what to do next", flush=True)


def _wanted() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in (LOCK, UV_LOCK, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_current(wanted: str) -> bool:
    try:
        made, temporal = STAMP.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return False
    return made == wanted and os.access(os.environ.get("TEMPORAL_CLI") or temporal, os.X_OK)


def _same_python(python: Path) -> bool:
    try:
        asked = subprocess.run((python, "-c", "import sys; print(sys.version)"), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return asked.stdout.strip() == sys.version


def _run(what: str, *command: str | Path) -> str:
    print(what, flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stdout, end="", file=sys.stderr)
        sys.exit(f"{what}: failed with exit code {done.returncode}; see above. `make setup` goes on from here.")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
