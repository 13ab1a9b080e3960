"""What inference is told of recorded answers."""

from typing import Any

from comitia.inference.v1 import inference_service_pb2
from services.meshkit.core.errors import NotFound, Unavailable
from services.meshkit.core.identity import Principal
from services.meshkit.core.secret import Secret
from services.meshkit.testing.fake_clock import FakeClock
from services.meshkit.testing.fault_queue import FaultQueue
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.clients.acknowledgements import Acknowledgements
from services.orchestrator.engine.run import ModelCall, OwnedRun

RUN_IDS = ("run_01jd0000000000000000000000", "run_01jd0000000000000000000001")
ONE, OTHER = (OwnedRun(tenant=TENANT, run_id=run_id, grant_id="grant_x", shard=0) for run_id in RUN_IDS)


class Generations:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str | None, list[tuple[str, int, int]]]] = []
        self.faults = FaultQueue()

    async def call(self, item: Any, *, principal: Principal, timeout_seconds: float) -> Any:
        self.faults.hit()
        calls = [(one.path, one.attempt_group, one.call_index) for one in item.acknowledged]
        assert {one.run_id for one in item.acknowledged} == {principal.run_id}
        self.told.append((principal.run_id, calls))
        return inference_service_pb2.BatchGenerateResponse.Item()


class Tokens:
    """Implements `RunTokens`."""

    async def principal(self, run: OwnedRun) -> Principal:
        return Principal(
            tenant=run.tenant, subject="grant_x", roles=frozenset(), run_id=run.run_id, token=Secret("token")
        )

    def forget(self, run: OwnedRun) -> None:
        raise AssertionError("nothing was revoked")


def room() -> tuple[Acknowledgements, Generations]:
    generations: Any = Generations()
    return Acknowledgements(generations, Tokens(), clock=FakeClock()), generations


async def test_the_calls_of_a_run_are_told_together_and_once() -> None:
    acknowledgements, generations = room()
    acknowledgements.add(ONE, [ModelCall("a", 0, 0)])
    acknowledgements.add(OTHER, [ModelCall("c", 0, 0)])
    acknowledgements.add(ONE, [ModelCall("b", 2, 1)])
    for _ in range(2):
        await acknowledgements.send_waiting()
    assert generations.told == [(ONE.run_id, [("a", 0, 0), ("b", 2, 1)]), (OTHER.run_id, [("c", 0, 0)])]


async def test_what_inference_does_not_hear_is_told_again() -> None:
    acknowledgements, generations = room()
    generations.faults.next(Unavailable("inference"))
    acknowledgements.add(ONE, [ModelCall("a", 0, 0)])
    await acknowledgements.send_waiting()
    acknowledgements.add(ONE, [ModelCall("b", 0, 0)])
    await acknowledgements.send_waiting()
    assert generations.told == [(ONE.run_id, [("a", 0, 0), ("b", 0, 0)])]


async def test_what_inference_refuses_is_let_go() -> None:
    acknowledgements, generations = room()
    generations.faults.next(NotFound("grant", "grant_x"))
    acknowledgements.add(ONE, [ModelCall("a", 0, 0)])
    for _ in range(2):
        await acknowledgements.send_waiting()
    assert generations.told == []


async def test_what_waits_is_bounded_for_each_run() -> None:
    acknowledgements, generations = room()
    for number in range(300):
        acknowledgements.add(ONE, [ModelCall("a", 0, number)])
    await acknowledgements.send_waiting()
    (told,) = generations.told
    # The newest: those before may have been told already, by who drove the run then.
    assert [index for _, _, index in told[1]] == list(range(44, 300))
