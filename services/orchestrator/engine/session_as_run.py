"""Shows a session as the run that it is."""

from typing import cast

from comitia.orchestrator.v1 import run_pb2, session_pb2
from services.orchestrator.engine.run import RunView
from services.orchestrator.programs import dialogue


def as_run(view: RunView) -> run_pb2.Run:
    """Gives what callers see of a run, or of a session as a run: its steps are its turns, and ListRunSteps shows one in
    progress.
    """
    return _session_as_run(view) if isinstance(view, session_pb2.Session) else view


def _session_as_run(session: session_pb2.Session) -> run_pb2.Run:
    run = run_pb2.Run(
        run_id=session.session_id,
        program=dialogue.NAME,
        program_version=dialogue.VERSION,
        # Both enums have the same numbers.
        state=cast(run_pb2.RunState.ValueType, session.state),
        state_reason=session.state_reason,
        state_message=session.state_message,
        steps=run_pb2.StepCounts(succeeded=session.turn_count),
        usage=session.usage,
        cost_nano_usd=session.cost_nano_usd,
        max_cost_nano_usd=session.max_cost_nano_usd,
        budget_id=session.budget_id,
        metadata=session.metadata,
        sequence=session.sequence,
        forked_from_run_id=session.forked_from_run_id,
        forked_at_sequence=session.forked_at_sequence,
        policy=session.policy,
        policy_digest=session.policy_digest,
    )
    run.input.update(
        {
            "topic": session.topic_start,
            "mode": session_pb2.SessionMode.Name(session.mode),
            "strategy": session_pb2.SessionStrategy.Name(session.strategy),
            "agents": list(session.agents),
            "max_rounds": session.max_rounds,
        }
    )
    if session.HasField("estimate"):
        run.estimate.CopyFrom(session.estimate)
    if session.HasField("start_time"):
        run.start_time.CopyFrom(session.start_time)
    if session.HasField("end_time"):
        run.end_time.CopyFrom(session.end_time)
    if session.state == session_pb2.SESSION_STATE_SUCCEEDED:
        run.output.struct_value.update({"topic": session.topic_final, "converged": session.converged})
    return run
