"""The launcher in the background; `comitia up --detach` starts it.

python -m services.launcher --report-to <file descriptor>        options as JSON on standard input
"""

import argparse
import gc
import sys
from functools import partial

import uvloop

from services.launcher.background import Teller
from services.launcher.bring_up import ServiceCommand, service_command
from services.launcher.errors import LauncherError
from services.launcher.mesh import run
from services.launcher.options import Progress, options_from_json


def main(command: ServiceCommand = service_command) -> int:
    """Runs a mesh until it is told to end. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.launcher", description=__doc__)
    parser.add_argument("--report-to", type=int, required=True, help="file descriptor of a pipe")
    teller = Teller(parser.parse_args().report_to)
    try:
        options = options_from_json(sys.stdin.read())
        uvloop.run(run(options, partial(_tell, teller), teller.ready, command=command))
        gc.freeze()  # see `meshkit.process`: the end of a single process would take half a second more
    except LauncherError as failure:
        teller.failure(failure)
        print(failure.sentence, file=sys.stderr)
        return 1
    return 0


def _tell(teller: Teller, progress: Progress) -> None:
    teller.progress(progress)
    print(f"{progress.step} {progress.state} {progress.seconds:.2f} s {progress.detail}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
