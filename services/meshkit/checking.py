"""A service looks through its own record, changes nothing, and says what it found: `python -m services.<name>.check`.

Prints one JSON object a line, `{"checked": …, "faults": […]}`. It is the same look after a restore of a backup, in a
pod on Kubernetes, and whenever somebody wants to know.
"""

import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NoReturn, TypeVar

from services.meshkit.core.checked import Checked
from services.meshkit.core.errors import MeshError
from services.meshkit.process import read_settings
from services.meshkit.settings import ServiceSettings

#: Faults of one kind that are told.
MOST_FAULTS: Final = 20
#: Longest single statement: one that goes through all rows of a large installation takes its time.
STATEMENT_SECONDS: Final = 6 * 3600.0

S = TypeVar("S", bound=ServiceSettings)


#: Looks through a record. Raises: MeshError: it cannot be read at all.
Check = Callable[[S], Awaitable[Sequence[Checked]]]


def run_check(name: str, settings_type: type[S], check: Check[S]) -> NoReturn:
    """Looks, says what came of it, and exits with 0 when nothing is wrong."""
    settings = read_settings(name, settings_type)
    try:
        found = asyncio.run(_checked(check, settings))
    except (MeshError, OSError) as error:
        found = (_unseen(name, str(error)),)
    except Exception as error:  # noqa: BLE001  # what was lost may show in any way; nobody who looks gets no answer
        traceback.print_exc()
        found = (_unseen(name, f"{type(error).__name__}: {error}"),)
    for one in found:
        sys.stdout.write(json.dumps({"checked": one.what, "faults": list(one.faults[:MOST_FAULTS])}) + "\n")
    sys.exit(1 if any(one.faults for one in found) else 0)


def _unseen(name: str, why: str) -> Checked:
    return Checked(what=f"{name} cannot be looked through", faults=(why,))


async def _checked(check: Check[S], settings: S) -> Sequence[Checked]:
    return await check(settings)
