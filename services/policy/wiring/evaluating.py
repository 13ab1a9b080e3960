"""Puts together what judges: the laws in force are asked, and what breaks them is recorded."""

from functools import partial

from comitia.policy.v1.policy_service_pb2_grpc import add_PolicyServiceServicer_to_server
from services.meshkit.grpc.server import Registration
from services.policy.transport.policy_servicer import PolicyServicer
from services.policy.usecases.evaluate import Evaluate
from services.policy.usecases.laws import Laws
from services.policy.usecases.record_violations import RecordViolations
from services.policy.wiring.ground import Ground


def evaluating(on: Ground, *, laws: Laws, record: RecordViolations) -> Registration:
    """Gives what serves it."""
    evaluate = Evaluate(
        laws=laws,
        record=record,
        threads=on.threads,
        slow_threads=on.slow_threads,
        clock=on.clock,
        ids=on.ids,
    )
    return partial(add_PolicyServiceServicer_to_server, PolicyServicer(evaluate=evaluate))
