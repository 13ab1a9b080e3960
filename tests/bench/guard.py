"""Measures what guards the mesh. Run by `make bench-guard`; `BENCH_SHORT=1` gives the same figures in a minute.

    python -m tests.bench.guard audit        one part alone

Each part is a module `guard_<part>.py` with `async def measure(figure)`.
"""

import asyncio
import json
import sys
from importlib import import_module
from typing import Final

from services.meshkit.telemetry.logs import setup_logs

PARTS: Final = ("audit", "identity", "mutations", "rate", "rows", "timing")


def figure(
    name: str, value: float, unit: str, *, better: str = "higher", goal: float | None = None, note: str = ""
) -> None:
    """Prints one line of the report, as DESIGN section 5 asks for."""
    line = {
        "bench": "guard",
        "figure": name,
        "value": round(value) if value > 1000 else float(f"{value:.4g}"),
        "unit": unit,
        "better": better,
        "goal": goal,
        "peers": {},
        "note": note,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(parts: list[str]) -> None:
    """Measures the parts that are named, or all."""
    setup_logs("error")
    for part in parts or PARTS:
        if part not in PARTS:
            raise SystemExit(f"there is no part {part!r}; there are: {', '.join(PARTS)}")
        asyncio.run(import_module(f"tests.bench.guard_{part}").measure(figure))


if __name__ == "__main__":
    main(sys.argv[1:])
