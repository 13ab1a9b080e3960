"""How many examples a property test looks at: few by default, `COMITIA_TEST_EXAMPLES` in `make test-long`."""

import os
from typing import Final

_ASKED: Final = int(os.environ.get("COMITIA_TEST_EXAMPLES", "0"))


def examples(few: int = 100) -> int:
    """Gives the number of examples: `few`, or what was asked for, whichever is more."""
    return max(few, _ASKED)
