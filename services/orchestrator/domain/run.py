"""The rules of a run's request, and of what is sent to a run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from services.meshkit.core.errors import Invalid
from services.meshkit.core.money import NanoUsd
from services.orchestrator.domain.agent import split_reference
from services.orchestrator.domain.terms import check_terms

#: As JSON.
MAX_INPUT_BYTES: Final = 256 * 1024
MAX_SIGNAL_BYTES: Final = 64 * 1024
MIN_DEADLINE: Final = timedelta(seconds=1)
#: Life of a run whose workflow says nothing.
DEFAULT_DEADLINE: Final = timedelta(days=30)
_SIGNAL_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_NONE: Final = NanoUsd(0)

#: JSON is open by nature.
Json = object


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What a caller asks for, as it came."""

    #: `name` or `name@version`.
    workflow: str
    input: Mapping[str, Json] = field(default_factory=dict[str, Json], repr=False)
    #: 0 means the default.
    max_cost: NanoUsd = _NONE
    #: None means the workflow's.
    deadline: timedelta | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    model: str = ""

    def checked(self) -> "RunSpec":
        """Gives the request back if it can be carried out. Raises: Invalid, naming the field."""
        split_reference(self.workflow, field="workflow")
        if self.deadline is not None and self.deadline < MIN_DEADLINE:
            raise Invalid("deadline", "must be at least 1 second")
        check_terms(max_cost=self.max_cost, metadata=self.metadata, model=self.model)
        return self

    def life(self, of_workflow: timedelta | None) -> timedelta:
        """Gives how long the run may live.

        Args:
            of_workflow: longest life of the workflow's runs; None for the default.
        Raises: Invalid: it is asked for longer than its workflow allows.
        """
        longest = DEFAULT_DEADLINE if of_workflow is None else of_workflow
        if self.deadline is None:
            return longest
        if self.deadline > longest:
            raise Invalid(
                "deadline",
                f"must be at most the {longest.total_seconds():.0f} s of the workflow, "
                f"is {self.deadline.total_seconds():.0f} s",
            )
        return self.deadline


def check_signal_name(name: str) -> str:
    """Gives the name back if a signal may have it. Raises: Invalid."""
    if _SIGNAL_NAME.fullmatch(name) is None:
        raise Invalid("name", "must be 1 to 63 letters, digits, `_`, `-` and `.`, starting with a letter")
    return name
