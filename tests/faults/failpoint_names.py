"""Every failpoint of the mesh, by the part that dies there."""

import re
from collections.abc import Iterable
from itertools import zip_longest
from typing import Final

from tests.support.mesh import CHECKOUT

#: Those that any turn passes when its agent calls a tool and the law has something to note.
ON_THE_WAY: Final = (
    "inference.after_reserve",
    "inference.after_answer",
    "inference.before_record",
    "inference.after_record",
    "inference.before_settle",
    "inference.after_settle",
    "orchestrator.before_call",
    "orchestrator.after_answer",
    "orchestrator.before_commit",
    "orchestrator.after_commit",
    "memory.before_commit",
    "memory.after_commit",
    "memory.after_upsert",
    "policy.after_violation_commit",
    "tools.after_reserve",
    "tools.after_begin",
    "tools.after_execute",
    "tools.before_settle",
    "cost.after_reserve_commit",
    "cost.before_settle_commit",
    "cost.after_settle_commit",
)
#: Passed only when a hold runs out.
ON_EXPIRY: Final = ("cost.before_expiry",)
#: Passed only when a worker makes a step.
ON_STEPS: Final = ("orchestrator.before_lease", "orchestrator.after_outcome")
#: Passed only when a fact is too big for its row.
ON_BIG_FACTS: Final = ("orchestrator.after_blobs",)
#: Passed only when a run is deleted by its age: `tests/integration/orchestrator/test_run_deletions.py` fails there.
ON_DELETION: Final = ("orchestrator.after_run_deleted",)
#: Those of the worker of orders, which is no part of the mesh: around its effect, and before it says what came of it.
ON_WORKERS: Final = ("worker.before_effect", "worker.after_effect", "worker.before_outcome")

_NAME: Final = re.compile(r'(?:failpoint\(|: Final = )"((?:\w+)\.(?:before|after)_\w+)"')


def part_of(name: str) -> str:
    """Names the service that a failpoint kills."""
    return name.partition(".")[0]


def in_the_code() -> set[str]:
    """Finds the failpoints that services have."""
    found: set[str] = set()
    for file in (CHECKOUT / "services").glob("*/**/*.py"):
        text = file.read_text(encoding="utf-8")
        if "failpoint(" in text and "meshkit" not in file.parts:
            found.update(_NAME.findall(text))
    return found


def waves(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Puts failpoints together that kill different parts; each comes as often as it is named."""
    by_part: dict[str, list[str]] = {}
    for name in names:
        by_part.setdefault(part_of(name), []).append(name)
    return [tuple(name for name in row if name is not None) for row in zip_longest(*by_part.values())]


def interleaved(names: Iterable[str]) -> list[str]:
    """Orders failpoints so that those of one part lie far apart: its launcher waits longer after each death."""
    by_part: dict[str, list[str]] = {}
    for name in names:
        by_part.setdefault(part_of(name), []).append(name)
    return [name for row in zip_longest(*by_part.values()) for name in row if name is not None]
