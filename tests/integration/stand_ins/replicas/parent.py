"""Stands in for `uplift gateway`: the real parent with stand-ins as children. Its argument: the plan, as JSON."""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

from gateway.parent import Parent
from gateway.slots import Plan

FOLDER = Path(os.environ["UPLIFT_TEST_FOLDER"])
if "--check" in sys.argv:
    sys.exit(int((FOLDER / "check-fails").exists()))
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
logging.getLogger("test").info("the parent's program begins")
AGAIN = (sys.executable, *sys.orig_argv[1:])
PLAN = Plan(
    **{
        "command": (sys.executable, str(Path(__file__).with_name("replica.py"))),
        "processes": 2,
        "host": "127.0.0.1",
        "port": 0,
        "node": "test",
        "start_timeout": 20.0,
        "stop_timeout": 30.0,
        "restart_pause": 0.05,
        "again": AGAIN,
        "check": (*AGAIN, "--check"),
        **json.loads(sys.argv[1]),
    }
)


async def main() -> int:
    parent = Parent(PLAN, env=os.environ)
    (FOLDER / "port").write_text(str(parent.port))
    return await parent.run()


try:
    sys.exit(asyncio.run(main()))
except OSError as error:
    sys.exit(f"{error}")
