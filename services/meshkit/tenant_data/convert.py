"""Between messages and steps of an erasure. Pure functions."""

from collections.abc import Iterable
from typing import Final

from comitia.common.v1 import tenant_data_pb2 as pb
from services.meshkit.core.tenant import ErasureAction, ErasureStep

_ACTIONS: Final = {
    ErasureAction.DELETE: pb.ERASURE_ACTION_DELETE,
    ErasureAction.DESTROY_KEY: pb.ERASURE_ACTION_DESTROY_KEY,
    ErasureAction.KEEP: pb.ERASURE_ACTION_KEEP,
}
_READ: Final[dict[int, ErasureAction]] = {number: action for action, number in _ACTIONS.items()}


def steps_to_proto(steps: Iterable[ErasureStep]) -> list[pb.ErasureStep]:
    """Writes steps."""
    return [
        pb.ErasureStep(
            service=step.service,
            store=step.store,
            action=_ACTIONS[step.action],
            count=step.count,
            reason=step.reason,
        )
        for step in steps
    ]


def steps_of(written: Iterable[pb.ErasureStep]) -> list[ErasureStep]:
    """Reads steps. An action that this release does not know is told as something that stays."""
    return [
        ErasureStep(
            service=step.service,
            store=step.store,
            action=_READ.get(step.action, ErasureAction.KEEP),
            count=step.count,
            reason=step.reason,
        )
        for step in written
    ]
