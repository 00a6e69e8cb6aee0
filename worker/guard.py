"""Our packages have plain names (`workflows`, `worker`, …): make sure that none of them is somebody else's."""

import importlib
from pathlib import Path

_PACKAGES = (
    "activities",
    "deployers",
    "gateway",
    "gateway_client",
    "module_data",
    "uplift_settings",
    "upgrade_core",
    "worker",
    "workflows",
)


class ForeignPackage(Exception):
    """A package of ours resolves to another folder. Run from the locked environment, where nothing else is installed."""


def check_packages() -> None:
    """Compare where our packages come from.

    Raises:
        ForeignPackage: They do not all lie in one folder.
    """
    folders: dict[Path, str] = {}
    for name in _PACKAGES:
        file = importlib.import_module(name).__file__
        folders[Path(file or name).resolve().parent.parent] = name
    if len(folders) > 1:
        raise ForeignPackage("these packages lie in different folders: " + ", ".join(f"{n} in {f}" for f, n in folders.items()))
