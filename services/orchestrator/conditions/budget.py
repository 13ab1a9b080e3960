"""How much work expressions may do, in steps. No clock: the same facts always need the same number."""

# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# Values are JSON, which is open.

from typing import Final

from services.orchestrator.conditions.errors import TooCostly

#: A step is one operation, or one value that is looked at: half a microsecond or less.
MAX_STEPS: Final = 50_000
#: Steps of all expressions that one fact leads to: about a quarter of a second.
MAX_STEPS_AT_ONCE: Final = 1_000_000
#: Characters that are read, compared or written in one step.
_CHARACTERS_PER_STEP: Final = 16


class Budget:
    """The steps that are left of one evaluation."""

    __slots__ = ("_left", "_most", "_sizes")

    def __init__(self, most: int = MAX_STEPS) -> None:
        self._most = most
        self._left = most
        # Sizes of containers by identity; they outlive the evaluation, so identities stay theirs.
        self._sizes: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Steps taken so far."""
        return self._most - self._left

    def spend(self, steps: int) -> None:
        """Takes steps. Raises: TooCostly."""
        self._left -= steps
        if self._left < 0:
            if self._most < MAX_STEPS:
                raise TooCostly(MAX_STEPS_AT_ONCE, together=True)
            raise TooCostly(self._most)

    def spend_text(self, characters: int) -> None:
        """Takes what work on so many characters costs. Raises: TooCostly."""
        self.spend(1 + characters // _CHARACTERS_PER_STEP)

    def spend_value(self, value: object) -> None:
        """Takes what reading a whole value costs. Raises: TooCostly.

        A container that is met again costs as much as the first time, without being walked.
        """
        match value:
            case str():
                self.spend_text(len(value))
            case dict() | list():
                known = self._sizes.get(id(value))
                if known is not None:
                    self.spend(known)
                    return
                before = self._left
                self.spend(1)
                for part in value.values() if isinstance(value, dict) else value:
                    self.spend_value(part)
                if isinstance(value, dict):
                    for key in value:
                        self.spend_text(len(str(key)))
                self._sizes[id(value)] = before - self._left
            case _:
                self.spend(1)


class Allowance:
    """What all expressions that one fact leads to may take together."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        #: Steps taken so far.
        self.used = 0

    def budget(self) -> Budget:
        """Gives the budget of the next evaluation, which is to be settled."""
        return Budget(min(MAX_STEPS, max(MAX_STEPS_AT_ONCE - self.used, 0)))

    def settle(self, budget: Budget) -> None:
        """Takes what an evaluation has used of its budget."""
        self.used += budget.used
