"""nginx, HAProxy and wrk as Debian has them, unpacked into a folder: nothing is installed, and no root is needed."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PACKAGES = ("nginx", "haproxy", "wrk", "libluajit-5.1-2", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1")


class NoPackages(Exception):
    """This is no Debian, or its packages cannot be had. The message says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Where they are.

    Attributes:
        env: Environment in which they find their libraries.
    """

    nginx: Path
    haproxy: Path
    wrk: Path
    env: dict[str, str]


def unpack(folder: Path) -> Programs:
    """Fetch and unpack them.

    Raises:
        NoPackages: They cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", *_PACKAGES], cwd=folder, check=True, capture_output=True, text=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder / "root"], check=True, capture_output=True)
    except FileNotFoundError as error:
        raise NoPackages(f"{error.filename} is not here") from error
    except subprocess.CalledProcessError as error:
        raise NoPackages(
            f"{' '.join(map(str, error.cmd[:2]))} failed, perhaps before `apt-get update`: {error.stderr}"
        ) from error
    root = folder / "root" / "usr"
    libraries = root / "lib" / f"{platform.machine()}-linux-gnu"
    env = {**os.environ, "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    return Programs(nginx=root / "sbin" / "nginx", haproxy=root / "sbin" / "haproxy", wrk=root / "bin" / "wrk", env=env)
