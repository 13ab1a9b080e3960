"""Two replicas that lend a worker to each other: no credit is lost or spent twice, whatever happens between them."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from comitia.orchestrator.v1 import worker_loan_service_pb2
from comitia.orchestrator.v1 import worker_service_pb2 as pb
from services.meshkit.testing.mesh_keys import TENANT
from services.orchestrator.engine.leases import Desk
from services.orchestrator.engine.loans import Loan
from tests.support.step_workers import Bench, Worker, a_step, gave, gave_up, let_go

CREDITS: Final = 3


@dataclass
class Lent:
    """A worker of one replica, lent to the other; messages travel when the test says so."""

    here: Bench
    there: Bench
    worker: Worker
    stack: ExitStack = field(default_factory=ExitStack)
    loan: Loan | None = None
    desk: Desk | None = None
    #: On their way.
    to_borrower: list[worker_loan_service_pb2.LendWorkerRequest] = field(
        default_factory=list[worker_loan_service_pb2.LendWorkerRequest]
    )
    to_lender: list[bytes] = field(default_factory=list[bytes])

    def open(self) -> None:
        """Opens the loan."""
        self.loan = self.stack.enter_context(self.here.pools.lent(self.worker.desk, wake=lambda: None))
        self.desk = Desk(
            tenant=TENANT,
            subject="key_w",
            worker="w",
            pool="default",
            steps=("charge",),
            wake=lambda: None,
            lent=True,
            ids_after=self.loan.last_id,
        )
        self.stack.enter_context(self.there.pools.connected(self.desk, credits_=0))

    def breaks(self) -> None:
        """Ends the loan with all that is on its way."""
        self.stack.close()
        self.loan = self.desk = None
        self.to_borrower.clear()
        self.to_lender.clear()

    def send(self) -> None:
        """Puts what both have to say on its way."""
        if self.loan is not None and self.desk is not None:
            self.to_borrower += self.loan.messages()
            self.to_lender += self.there.pools.frames(self.desk)

    def deliver(self, *, at_lender: bool) -> bool:
        """Delivers the oldest message of one direction; False when there is none."""
        loan, desk = self.loan, self.desk
        if loan is None or desk is None:
            return False
        if at_lender and self.to_lender:
            told = worker_loan_service_pb2.LendWorkerResponse.FromString(self.to_lender.pop(0))
            self.here.pools.borrowed(self.worker.desk, loan, told)
            return True
        if not at_lender and self.to_borrower:
            said = self.to_borrower.pop(0)
            match said.WhichOneof("message"):
                case "credits":
                    self.there.pools.add_credits(desk, said.credits.count)
                case "outcomes":
                    self.there.pools.outcomes(desk, said.outcomes.outcomes)
                case "heartbeats":
                    self.there.pools.heard(desk, said.heartbeats.lease_ids)
                case _:
                    self.there.pools.drain(desk)
            return True
        return False

    def settle(self) -> None:
        """Delivers until nobody has anything to say."""
        moved = True
        while moved:
            self.send()
            moved = self.deliver(at_lender=True)
            moved = self.deliver(at_lender=False) or moved


async def test_what_a_lent_worker_says_travels_in_messages_within_bounds() -> None:
    loan = Loan(1, lambda: None)
    output = struct_pb2.Value(string_value="x" * 250_000)
    for lease_id in range(40):
        loan.answer(pb.StepOutcome(lease_id=lease_id, output=output))
    for lease_id in [*range(25_000), *range(25_000)]:
        loan.heard(lease_id)
    messages = list(loan.messages())
    assert max(message.ByteSize() for message in messages) < 4 * 1024 * 1024 * 0.6
    said = [outcome.lease_id for message in messages for outcome in message.outcomes.outcomes]
    assert said == list(range(40))
    beats = [message.heartbeats.lease_ids for message in messages if message.HasField("heartbeats")]
    assert [len(beat) for beat in beats] == [10_000, 10_000, 5_000]
    assert not list(loan.messages())


class Open:
    """The leases that the worker has not answered."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._answered = set[int]()

    def __iter__(self) -> Iterator[int]:
        self._worker.hears()
        return iter([lease.lease_id for lease in self._worker.leases if lease.lease_id not in self._answered])

    def says(self, *outcomes: pb.StepOutcome) -> None:
        """Answers."""
        self._answered.update(outcome.lease_id for outcome in outcomes)
        self._worker.says(*outcomes)


Moves = st.lists(
    st.sampled_from(
        [
            *("offer here", "offer there", "offer there", "offer there", "answer", "fail", "release", "twice"),
            *("talk", "talk", "talk", "send", "at lender", "at borrower", "break", "withdraw", "tick", "local", "beat"),
        ]
    ),
    min_size=20,
    max_size=60,
)


@given(moves=Moves, data=st.data())
@settings(max_examples=80, deadline=None)
def test_no_credit_is_lost_or_spent_twice_whatever_happens(moves: list[str], data: st.DataObject) -> None:
    asyncio.run(_at_random(moves, data))


async def _at_random(moves: list[str], data: st.DataObject) -> None:
    here, there = Bench(), Bench()
    timers = [asyncio.create_task(bench.pools.keep_time()) for bench in (here, there)]
    offered, withdrawn = dict[str, set[str]](here=set(), there=set()), set[str]()
    with ExitStack() as stack:
        worker = stack.enter_context(here.worker(credits_=CREDITS))
        lent, open_ = Lent(here, there, worker), Open(worker)
        stack.callback(lent.stack.close)
        lent.open()
        for number, move in enumerate(moves):
            held = list(open_)
            assert len(held) <= CREDITS
            lease_id = data.draw(st.sampled_from(held)) if held else 0
            path = f"nodes/{number}"
            match move:
                case "offer here":
                    offered["here"].add(path)
                    here.offer(a_step(path, timeout=3), run_id="run_h")
                case "offer there":
                    offered["there"].add(path)
                    there.offer(
                        a_step(path, timeout=3, heartbeat=data.draw(st.sampled_from([0.0, 1.0]))), run_id="run_t"
                    )
                case "answer" if held:
                    open_.says(gave(lease_id))
                case "fail" if held:
                    open_.says(gave_up(lease_id))
                case "release" if held:
                    open_.says(let_go(lease_id))
                case "twice" if held:
                    open_.says(gave(lease_id), gave(lease_id))
                case "beat" if held:
                    here.pools.heard(worker.desk, held)
                case "withdraw":
                    withdrawn |= offered["there"]
                    there.pools.withdraw("run_t")
                case "talk":
                    lent.settle()
                case "send":
                    lent.send()
                case "at lender":
                    lent.deliver(at_lender=True)
                case "at borrower":
                    lent.deliver(at_lender=False)
                case "break":
                    lent.breaks()
                    lent.open()
                case "local":
                    # A worker of the borrower's own comes for a moment.
                    with there.worker(credits_=1, name="local") as local:
                        local.says(*(gave(lease.lease_id) for lease in local.hears()))
                case "tick":
                    for bench in (here, there):
                        await bench.passes(1.5)
                case _:
                    pass
            assert worker.desk.taken == CREDITS
            assert worker.desk.credits >= 0
        # Whatever happened: an honest worker finishes the rest, and has all its credits in the end.
        while True:
            lent.settle()
            if not (held := list(open_)):
                break
            open_.says(*map(gave, held))
        assert (worker.desk.credits, worker.desk.taken) == (CREDITS, CREDITS)
        assert lent.loan is not None
        assert lent.loan.credits == 0
    for bench, name in ((here, "here"), (there, "there")):
        settled = {path: len(facts) for (_, path, _), facts in bench.settled.items()}
        assert set(settled.values()) <= {1}
        assert offered[name] - withdrawn <= set(settled)
        assert {name for name, value in vars(bench.pools).items() if isinstance(value, dict) and value} == set()
    for timer in timers:
        timer.cancel()
    await asyncio.gather(*timers, return_exceptions=True)
