"""The tutorial's commands, run as they stand, print what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(bash|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_tutorial_does_what_it_says() -> None:
    blocks = _BLOCK.findall((ROOT / "docs" / "tutorial" / "first-upgrade.md").read_text(encoding="utf-8"))
    script = "set -u\n"
    for number, (kind, text) in enumerate(blocks):
        if kind == "bash":
            script += f"{text}\nprintf '\\nEND {number}\\n'\n"
    environment = os.environ | {"PORT": str(free_port()), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    ran = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )

    outputs = re.split(r"^END (\d+)\n", ran.stdout, flags=re.MULTILINE)
    printed = {int(number): text for text, number in zip(outputs[::2], outputs[1::2], strict=False)}
    missing = [
        (line, printed.get(number - 1))
        for number, (kind, text) in enumerate(blocks)
        if kind == "text"
        for line in text.splitlines()
        if line not in printed.get(number - 1, "")
    ]
    assert missing == [], ran.stderr
    assert len(printed) == sum(kind == "bash" for kind, _ in blocks)
