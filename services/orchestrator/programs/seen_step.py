"""A step as callers see it, before it is written as a message."""

from google.protobuf.timestamp_pb2 import Timestamp

from comitia.orchestrator.v1 import run_pb2
from services.meshkit.content import Usage


class SeenStep:
    """A step as far as facts have told. Written as a message only when somebody looks.

    What most steps never change stands at the class alone, for one is made for each.
    """

    #: True for a step that its calls alone tell of: it ends with the answer.
    alone: bool = False
    #: The call in flight, -1 when there is none.
    call: int = -1
    attempts: int = 1
    group: int = 0
    agent: str = ""
    #: Number of items of a map, -1 for any other step.
    items: int = -1
    run_id: str = ""
    reason: str = ""
    message: str = ""
    end: Timestamp | None = None
    cost: int = 0
    usage: Usage | None = None

    def __init__(
        self, path: str, start: Timestamp, state: run_pb2.StepState.ValueType = run_pb2.STEP_STATE_RUNNING
    ) -> None:
        self.path = path
        self.start = start
        self.state: run_pb2.StepState.ValueType = state
