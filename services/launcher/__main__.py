"""The launcher in the background; `comitia up --detach` starts it.

python -m services.launcher --report-to <file descriptor>        options as JSON on standard input
"""

import argparse
import asyncio
import sys

from services.launcher.background import Teller
from services.launcher.errors import LauncherError
from services.launcher.mesh import run
from services.launcher.options import options_from_json


def main() -> int:
    """Runs a mesh until it is told to end. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.launcher", description=__doc__)
    parser.add_argument("--report-to", type=int, required=True, help="file descriptor of a pipe")
    teller = Teller(parser.parse_args().report_to)
    try:
        asyncio.run(run(options_from_json(sys.stdin.read()), teller.progress, teller.ready))
    except LauncherError as failure:
        teller.failure(failure)
        print(failure.sentence, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
