"""The module descriptors of the examples: `python -m examples.descriptors mod-users 2.0.0`."""

import argparse
import json
import sys
from typing import Any

from examples.dialects import Dialect
from examples.loans.releases import MOD_LOANS
from examples.releases import Module, Release
from examples.users.releases import MOD_USERS

_MODULES: dict[str, Module[Release]] = {module.product: module for module in (MOD_USERS, MOD_LOANS)}


def descriptor(
    product: str,
    version: str,
    *,
    python: str,
    dialect: str = "async",
    uplift: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The complete descriptor of a release.

    Args:
        product: `mod-users` or `mod-loans`.
        version: One of its releases.
        python: The interpreter that starts it; its path has no blanks, since Okapi splits the command there.
        dialect: How it speaks about tenant init: `async`, `sync` or `uplift`.
        uplift: Members of `metadata.uplift` that differ from the defaults.

    Raises:
        KeyError: There is no such product or release.
        ValueError: There is no such dialect.
    """
    module = _MODULES[product]
    release, table, spoken = module.releases[version], module.table, Dialect(dialect)
    return {
        "id": f"{product}-{version}",
        "name": f"Example: {table}",
        "requires": [{"id": "users", "version": "1.0"}] if module is MOD_LOANS else [],
        "provides": [
            {
                "id": table,
                "version": release.interface,
                "handlers": [
                    {"methods": methods, "pathPattern": path, "permissionsRequired": []}
                    for methods, path in (
                        (["GET"], f"/{table}"),
                        (["GET"], f"/{table}/count"),
                        (["GET"], f"/{table}/_version"),
                        (["GET", "PUT", "DELETE"], f"/{table}/{{id}}"),
                    )
                ],
            },
            spoken.interface(),
        ],
        "launchDescriptor": {
            "exec": f"{python} -m examples.{table} --version {version} --dialect {spoken} --port %p",
        },
        "metadata": {
            "uplift": {
                "undo": "snapshot",
                "rerunnable": release.rerunnable,
                "checks": [{"method": "GET", "path": f"/{table}/count", "status": 200}],
                "data_version": f"/{table}/_version",
                **(uplift or {}),
            }
        },
    }


def main() -> None:
    """Print a descriptor."""
    parser = argparse.ArgumentParser(prog="examples.descriptors")
    parser.add_argument("product", choices=_MODULES)
    parser.add_argument("version")
    parser.add_argument("--dialect", default="async", choices=[str(dialect) for dialect in Dialect])
    parser.add_argument("--python", default=sys.executable, help="the interpreter that starts the module")
    chosen = parser.parse_args()
    releases = _MODULES[chosen.product].releases
    if chosen.version not in releases:
        parser.error(f"{chosen.product} has no release {chosen.version}; there are {', '.join(releases)}")
    made = descriptor(chosen.product, chosen.version, python=chosen.python, dialect=chosen.dialect)
    sys.stdout.write(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()

__all__ = ["descriptor"]
