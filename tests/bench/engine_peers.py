"""LangGraph with its Postgres checkpointer, and DBOS: durable steps that do nothing, on the same Postgres.

One that cannot be installed is left out.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from secrets import token_hex
from typing import Final

from tests.bench.engine_ground import Ground
from tests.bench.peer_environment import installed

#: Durable steps per second, by name.
Peers = dict[str, float]

PEERS: Final = {
    "langgraph": ("langgraph==1.2.22", "langgraph-checkpoint-postgres", "psycopg[binary,pool]"),
    "dbos": ("dbos==3.4.0",),
}
RUNS: Final = 100
SECONDS: Final = 5.0
_HERE: Final = Path(__file__).parent
_RUN_SECONDS: Final = 90.0


async def measure_peers(ground: Ground) -> Peers:
    """Measures those that can be installed: chains of ten steps, 100 at once, each on a database of its own."""
    peers: Peers = {}
    for name, packages in PEERS.items():
        try:
            python = await asyncio.to_thread(installed, name, packages)
            database = f"bench_{name}_{token_hex(4)}"
            await ground.administer(f"CREATE DATABASE {database}")
            peers[name] = await asyncio.to_thread(_measured, python, name, ground.url(database))
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            sys.stderr.write(f"{name} is left out: {error}\n")
    return peers


def _measured(python: Path, name: str, url: str) -> float:
    script = _HERE / "peers" / f"{name}_steps.py"
    asked = json.dumps({"url": url, "runs": RUNS, "seconds": SECONDS})
    ended = subprocess.run(
        [python, script], input=asked, text=True, capture_output=True, timeout=_RUN_SECONDS, check=True
    )
    return float(json.loads(ended.stdout.splitlines()[-1])["steps_per_s"])
