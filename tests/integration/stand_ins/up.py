"""`uplift up --home DIR --port 0` with stand-ins for gateway and worker; `broken` as second argument: a worker that fails."""

import asyncio
import sys
from pathlib import Path

from uplift_cli.errors import UpliftError
from uplift_cli.stack.embedded import UpRequest, run_stack
from uplift_cli.stack.layout import Programs
from uplift_settings import load

HERE = Path(__file__).parent


def main() -> None:
    home, broken = sys.argv[1], sys.argv[2:] == ["broken"]
    worker = (sys.executable, "-c", "import sys; sys.exit('no such queue')") if broken else None
    programs = Programs(
        gateway=(sys.executable, str(HERE / "gateway.py")),
        worker=worker or (sys.executable, str(HERE / "worker.py")),
    )
    request = UpRequest(settings=load(overrides={"home": home}), port=0, programs=programs)
    try:
        asyncio.run(
            run_stack(
                request,
                say=lambda line: print(line, file=sys.stderr, flush=True),
                announce=lambda url: print(f"ready: {url}", flush=True),
            )
        )
    except UpliftError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
