"""Pauses, resumes, cancels and signals runs."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from google.protobuf import struct_pb2

from comitia.orchestrator.v1 import journal_pb2, run_pb2
from services.meshkit.core.audit import caller_acts
from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import Caller, TenantId
from services.meshkit.core.once import nothing_to_repeat
from services.orchestrator.domain.errors import (
    PersonRequired,
    ProgramMissing,
    RunAlreadyTerminal,
    RunDiverged,
    RunNotPaused,
    RunStandsStill,
)
from services.orchestrator.domain.run import MAX_SIGNAL_BYTES, Json, check_signal_name
from services.orchestrator.engine.faults import UNREADABLE
from services.orchestrator.engine.run import SIGNAL
from services.orchestrator.programs.planned_turn import READ_SIGNAL, is_person
from services.orchestrator.programs.planned_values import keys_of
from services.orchestrator.programs.run_view import TERMINAL_STATES
from services.orchestrator.programs.values import NotJson, ValueTooLarge, to_value
from services.orchestrator.programs.view import ENGINE_FAULT
from services.orchestrator.usecases.steer import Steering

#: The permission to say that one has read a text; each such word is in the audit trail.
ENDORSES: Final = "runs.endorse"
_METHOD: Final = "comitia.orchestrator.v1.RunService/SignalRun"
#: What of it the audit trail tells: of which text, and whether it may pass.
_SAID: Final = frozenset({"digest", "allowed"})
#: Why a run is parked that no engine of this release drives: its facts are left as they are, so no pause is among them.
_STANDS_STILL: Final = frozenset({RunDiverged.reason, ProgramMissing.reason, *(one.reason for one in UNREADABLE)})
#: Gives the steps of a run as they stand.
StepsOf = Callable[[TenantId, str], Awaitable[Sequence[run_pb2.RunStep]]]


class PauseRun:
    """Has a run make no new call; pausing a paused run changes nothing."""

    def __init__(self, steer: Steering[run_pb2.Run]) -> None:
        self._steer = steer

    async def __call__(self, caller: Caller, run_id: str) -> run_pb2.Run:
        """Raises: RunNotFound, RelationMissing, RunAlreadyTerminal, RunStandsStill; AnsweredBefore and its kin."""
        changes = _changes_unless(run_pb2.RUN_STATE_PAUSED)

        async def can_be_paused(run: run_pb2.Run) -> bool:
            if run.state == run_pb2.RUN_STATE_PARKED and run.state_reason in _STANDS_STILL:
                raise RunStandsStill(run_id, run.state_reason)
            return await changes(run)

        return await self._steer(caller, run_id, "pause", can_be_paused)


class CancelRun:
    """Stops a run; repeating it while the run is being cancelled changes nothing."""

    def __init__(self, steer: Steering[run_pb2.Run]) -> None:
        self._steer = steer

    async def __call__(self, caller: Caller, run_id: str) -> run_pb2.Run:
        """Raises: RunNotFound, RelationMissing, RunAlreadyTerminal; AnsweredBefore and its kin for a repeat."""
        return await self._steer(caller, run_id, "cancel", _changes_unless(run_pb2.RUN_STATE_CANCELLING))


class ResumeRun:
    """Lets a paused run go on, begins its parked steps anew, and tries again what failed by a fault of the mesh."""

    def __init__(self, steer: Steering[run_pb2.Run], *, steps: StepsOf) -> None:
        self._steer = steer
        self._steps = steps

    async def __call__(self, caller: Caller, run_id: str) -> run_pb2.Run:
        """Raises: RunNotFound, RelationMissing, RunAlreadyTerminal, RunNotPaused; AnsweredBefore and its kin."""

        async def stands_still(run: run_pb2.Run) -> bool:
            _refuse_ended(run)
            if run.state == run_pb2.RUN_STATE_PAUSED or run.state_reason == ENGINE_FAULT:
                return True
            # The rest of a run goes on while a step of it is parked, so its state does not tell.
            steps = await self._steps(caller.principal.tenant, run_id)
            if all(step.state != run_pb2.STEP_STATE_PARKED for step in steps):
                raise RunNotPaused(run_id, _name_of(run))
            return True

        return await self._steer(caller, run_id, "resume", stands_still)


class SignalRun:
    """Sends a signal to a run. One that no step waits for yet is kept for a later one."""

    def __init__(self, steer: Steering[run_pb2.Run]) -> None:
        self._steer = steer

    async def __call__(self, caller: Caller, run_id: str, name: str, payload: Json) -> run_pb2.Run:
        """Sends it.

        Raises: Invalid, PersonRequired, RunNotFound, RelationMissing, RunAlreadyTerminal, SignalsAtLimit;
            AnsweredBefore and its kin.
        """
        by = caller.principal.subject
        signal = journal_pb2.SignalReceived(name=check_signal_name(name), payload=_payload_of(payload), by=by)
        encoded = signal.SerializeToString(deterministic=True)
        if name != READ_SIGNAL:
            return await self._steer(caller, run_id, SIGNAL, _changes_unless(None), payload=encoded)
        # Nor a run that acts for a person: nobody has read anything there.
        if caller.principal.run_id is not None or not is_person(by):
            raise PersonRequired(name)
        said = {key: value for key, value in keys_of(payload).items() if key in _SAID}
        with caller_acts(caller.principal, action=ENDORSES, method=_METHOD, target=run_id, details=said):
            return await self._steer(caller, run_id, SIGNAL, _changes_unless(None), payload=encoded)


def _payload_of(payload: Json) -> struct_pb2.Value:
    try:
        value = to_value(payload)
    except (NotJson, ValueTooLarge) as cause:
        raise Invalid("payload", str(cause)) from cause
    size = len(json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_SIGNAL_BYTES:
        raise Invalid("payload", f"must have at most {MAX_SIGNAL_BYTES} bytes as JSON, has {size}")
    return value


def _changes_unless(state: run_pb2.RunState.ValueType | None) -> Callable[[run_pb2.Run], Awaitable[bool]]:
    """Judges a command that an ended run refuses, and that changes nothing of a run which is in this state."""

    async def judge(run: run_pb2.Run) -> bool:
        _refuse_ended(run)
        if run.state != state:
            return True
        nothing_to_repeat()
        return False

    return judge


def _refuse_ended(run: run_pb2.Run) -> None:
    if run.state in TERMINAL_STATES:
        raise RunAlreadyTerminal(run.run_id, _name_of(run))


def _name_of(run: run_pb2.Run) -> str:
    return run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_")
