"""Puts together the doors of agents, workflows, sessions, runs and workers."""

from collections.abc import Sequence
from functools import partial

from comitia.orchestrator.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from comitia.orchestrator.v1.run_service_pb2_grpc import add_RunServiceServicer_to_server
from comitia.orchestrator.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from comitia.orchestrator.v1.workflow_service_pb2_grpc import add_WorkflowServiceServicer_to_server
from services.meshkit.batching.threads import Threads
from services.meshkit.grpc.server import Registration
from services.orchestrator.engine.run_reader import RunReader
from services.orchestrator.prompts import load_prompts
from services.orchestrator.storage.turn_history import SqlTurnHistory
from services.orchestrator.transport.agent_servicer import AgentServicer
from services.orchestrator.transport.convert import agent_to_proto
from services.orchestrator.transport.run_servicer import RunServicer
from services.orchestrator.transport.session_servicer import SessionServicer
from services.orchestrator.transport.worker_servicer import WorkerLoanServicer, WorkerServicer
from services.orchestrator.transport.workflow_servicer import WorkflowServicer
from services.orchestrator.usecases.ask_agent import AskAgent
from services.orchestrator.usecases.create_agent import CreateAgent
from services.orchestrator.usecases.create_workflow import CreateWorkflow
from services.orchestrator.usecases.preflight import Preflight
from services.orchestrator.usecases.review_workflow import ReviewWorkflow
from services.orchestrator.usecases.run_access import RunAccess
from services.orchestrator.usecases.start_run import StartRun
from services.orchestrator.usecases.start_session import StartSession
from services.orchestrator.usecases.steer import Steering
from services.orchestrator.usecases.steer_run import CancelRun, PauseRun, ResumeRun, SignalRun
from services.orchestrator.usecases.steer_session import AdvanceSession, CancelSession
from services.orchestrator.usecases.stream_turns import StreamTurns
from services.orchestrator.wiring.driving import Driving
from services.orchestrator.wiring.ground import Ground


def doors(
    ground: Ground, driving: Driving, *, access: RunAccess, threads: Threads, preflight: Preflight
) -> Sequence[Registration]:
    """Gives what serves them.

    Args:
        threads: where definitions of workflows are read and checked.
    """
    reader = RunReader(driving.store.journal)
    start_session = StartSession(
        agents=driving.agents,
        neighbours=driving.preparation,
        runs=driving.engine,
        access=access,
        prompts=load_prompts(),
        agent_facts=agent_to_proto,
        preflight=preflight,
    )
    agents = AgentServicer(
        create_agent=CreateAgent(agents=driving.agents),
        ask_agent=AskAgent(start_session=start_session, watch=driving.watch, access=access),
        agents=driving.agents,
    )
    review = ReviewWorkflow(agents=driving.agents, workflows=driving.workflows, threads=threads)
    workflows = WorkflowServicer(
        create_workflow=CreateWorkflow(review=review, workflows=driving.workflows),
        review=review,
        workflows=driving.workflows,
    )
    return (
        partial(add_AgentServiceServicer_to_server, agents),
        partial(add_WorkflowServiceServicer_to_server, workflows),
        partial(add_SessionServiceServicer_to_server, _sessions(driving, reader, start_session, access)),
        partial(add_RunServiceServicer_to_server, _runs(ground, driving, reader, access, preflight)),
        WorkerServicer(driving.steps, driving.loans, access=access, clock=ground.clock).registration,
        WorkerLoanServicer(driving.steps).registration,
    )


def _sessions(driving: Driving, reader: RunReader, start_session: StartSession, access: RunAccess) -> SessionServicer:
    steer = Steering(runs=driving.engine, given=driving.store.inbox, look=reader.session, access=access)
    return SessionServicer(
        start_session=start_session,
        advance_session=AdvanceSession(steer),
        cancel_session=CancelSession(steer),
        sessions=reader,
        watch=driving.watch,
        access=access,
    )


def _runs(ground: Ground, driving: Driving, reader: RunReader, access: RunAccess, preflight: Preflight) -> RunServicer:
    steer = Steering(runs=driving.engine, given=driving.store.inbox, look=reader.seen, access=access)
    return RunServicer(
        start_run=StartRun(
            pin_workflow=driving.pin_workflow,
            preflight=preflight,
            neighbours=driving.preparation,
            runs=driving.engine,
            access=access,
            clock=ground.clock,
        ),
        pause_run=PauseRun(steer),
        resume_run=ResumeRun(steer, steps=reader.steps),
        cancel_run=CancelRun(steer),
        signal_run=SignalRun(steer),
        stream_turns=StreamTurns(history=SqlTurnHistory(ground.app), facts=driving.store.journal, access=access),
        runs=reader,
        watch=driving.watch,
        access=access,
    )
