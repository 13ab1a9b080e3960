"""Outlives the launcher by an instant, to end what the launcher's children started themselves.

    python -I -S guardian.py        standard input: `+<process group> <signal>` and `-<process group>`, one a line

A leash (`leash.py`) reaches a child, not the child's children. The guardian holds the other end of a pipe: when the
launcher is gone, however it went, the pipe closes, and every group still listed gets its signal, then SIGKILL.
"""

import os
import signal
import sys
import time

GRACE_SECONDS = 5.0
PAUSE_SECONDS = 0.05


def main() -> None:
    """Reads until the launcher is gone, then ends the groups it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    left: dict[int, int] = {}
    for line in sys.stdin:
        group, _, number = line[1:].partition(" ")
        if line.startswith("+"):
            left[int(group)] = int(number)
        else:
            left.pop(int(group), None)
    alive = [group for group, number in left.items() if _signalled(group, number)]
    end = time.monotonic() + GRACE_SECONDS
    while alive and time.monotonic() < end:
        time.sleep(PAUSE_SECONDS)
        alive = [group for group in alive if _signalled(group, 0)]
    for group in alive:
        _signalled(group, signal.SIGKILL)


def _signalled(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    main()
