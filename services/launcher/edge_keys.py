"""Keeps what the edge verifies tokens by equal to the key set of the gateway: the companion of an edge in a container.

python -m services.launcher.edge_keys <key set> <file for the edge>
"""

import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path

from services.launcher.edge_tokens import TokenCheck


def main(key_set: str, file: str) -> int:
    """Follows the key set until told to stop. Returns the exit code."""
    check = TokenCheck(Path(key_set), Path(file))
    try:
        check.write()
    except (OSError, ValueError) as error:
        print(f"the key set cannot be read: {error}", file=sys.stderr)
        return 3
    with suppress(asyncio.CancelledError):
        asyncio.run(_follow(check))
    return 0


async def _follow(check: TokenCheck) -> None:
    following = asyncio.ensure_future(check.follow())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, following.cancel)
    await following


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
