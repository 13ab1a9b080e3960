"""How many repeats a deployment is asked for, whatever fails: few beside what it is asked anyway."""

from typing import Final

#: What each first attempt earns: one repeat for every four.
EARNED: Final = 0.25
#: What lies in the purse at the start, and at most.
AT_START: Final = 2.0
MOST: Final = 10.0


class RetryBudget:
    """A purse of repeats. Over its life a deployment gets at most 1.25 times its first attempts and 2 more."""

    def __init__(self) -> None:
        self._left = AT_START

    def first(self) -> None:
        """Counts a first attempt of a call."""
        self._left = min(self._left + EARNED, MOST)

    def take(self) -> bool:
        """Takes one repeat out, if there is one."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
