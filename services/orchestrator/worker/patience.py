"""How long each kind of call is tried before its failure is given to the program."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from comitia.orchestrator.v1 import journal_pb2
from services.meshkit.core.errors import MeshError
from services.orchestrator.domain.errors import StorageFull

#: What holds for the tenant as a whole, until somebody with the power to do so ends it.
_WAITED_OUT: Final = frozenset({"TENANT_SUSPENDED", StorageFull.reason})
#: Tries after which the run is shown as parked.
PARK_AFTER: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How one kind of call is made."""

    #: Longest single try, seconds.
    seconds: float
    #: Tries in all; None: for as long as the run lives.
    tries: int | None


_PATIENCE: Final[Mapping[int, Patience]] = {
    journal_pb2.CALL_KIND_DESCRIBE_TOOLS: Patience(seconds=10, tries=None),
    journal_pb2.CALL_KIND_RECALL: Patience(seconds=10, tries=3),
    journal_pb2.CALL_KIND_GENERATE: Patience(seconds=300, tries=None),
    journal_pb2.CALL_KIND_PLAN: Patience(seconds=300, tries=None),
    journal_pb2.CALL_KIND_EXTRACT: Patience(seconds=300, tries=None),
    journal_pb2.CALL_KIND_CHOOSE: Patience(seconds=300, tries=None),
    journal_pb2.CALL_KIND_TOOL: Patience(seconds=120, tries=None),
    journal_pb2.CALL_KIND_REMEMBER: Patience(seconds=10, tries=8),
    journal_pb2.CALL_KIND_RUN: Patience(seconds=30, tries=8),
    journal_pb2.CALL_KIND_EMBED: Patience(seconds=60, tries=3),
}


def patience_with(kind: int) -> Patience:
    """Says how a call of this kind is made."""
    return _PATIENCE[kind]


def waited_out(error: MeshError) -> bool:
    """Says whether a call waits, visibly and however long, for something to be lifted: nothing is lost by it."""
    return error.reason in _WAITED_OUT
