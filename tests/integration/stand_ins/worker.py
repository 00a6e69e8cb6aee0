"""Stands in for the worker: writes its mark, keeps a child of its own, and waits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    (Path(os.environ["UPLIFT_HOME"]) / "worker.child").write_text(str(child.pid))
    (Path(os.environ["UPLIFT_HOME"]) / "worker.ready").write_text(str(os.getpid()))
    signal.pause()
