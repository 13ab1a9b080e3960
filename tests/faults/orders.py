"""Runs of a workflow of every kind of node, as a patient client starts and follows them: orders in a shop.

An order charges its customer, has its items picked, keeps stock at the second try, reckons the price, thanks, has its
parcel sent by a run of its own, and ends once somebody says that it was paid. What it gives follows from its number.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from uuid import uuid4

from comitia.orchestrator.v1 import run_pb2
from comitia_sdk.aio import AsyncClient
from comitia_sdk.errors import FailedPrecondition
from services.orchestrator.programs.run_view import TERMINAL_STATES
from tests.faults.order_effects import POOL
from tests.faults.workload import AGENTS, Lane, patiently

#: Paths of an order's steps that workers make, with the item's place for `{}`, and that of its parcel.
STEPS: Final = ("nodes/charge", "nodes/keep", "nodes/bill")
ITEM_STEP: Final = "nodes/pick/{}"
PARCEL_STEP: Final = "nodes/send"
#: Attempts enough for any number of workers and orchestrators that die over one step.
_POLICY: Final = "policy: {retries: {max_attempts: 20, first_backoff: 20ms, max_backoff: 500ms}, heartbeat: 2s}"
PARCEL: Final = f"""
name: parcel
version: 1.0.0
input_schema: {{type: object, properties: {{number: {{type: integer}}}}, required: [number]}}
nodes:
  - {{id: collect, wait: {{timer: 100ms}}}}
  - id: send
    depends_on: [collect]
    step: {{name: send, pool: {POOL}}}
    input: {{number: {{cel: input.number}}}}
    {_POLICY}
output: {{sent: {{cel: nodes.send.output}}}}
"""
ORDER: Final = f"""
name: order
version: 1.0.0
input_schema:
  type: object
  required: [number, items]
  properties: {{number: {{type: integer}}, items: {{type: array, items: {{type: integer}}}}}}
nodes:
  - id: charge
    step: {{name: charge, pool: {POOL}}}
    input: {{number: {{cel: input.number}}}}
    {_POLICY}
  - id: pick
    depends_on: [charge]
    map:
      items: {{cel: input.items}}
      max_parallel: 2
      body:
        step: {{name: pick, pool: {POOL}}}
        input: {{number: {{cel: item}}}}
        {_POLICY}
  - id: keep
    step: {{name: keep, pool: {POOL}}}
    input: {{number: {{cel: input.number}}}}
    {_POLICY}
  - id: bill
    depends_on: [charge, keep]
    step: {{name: bill, pool: {POOL}}}
    input: {{number: {{cel: input.number}}}}
    {_POLICY}
  - {{id: price, tool: calculator, input: {{expression: {{cel: 'string(input.number) + " * 7"'}}}}, {_POLICY}}}
  - {{id: thank, agent: {{agent: {AGENTS[0]}, prompt: Thank the customer.}}, {_POLICY}}}
  - {{id: paid, wait: {{signal: paid}}}}
  - {{id: parcel, depends_on: [pick], run: {{workflow: parcel}}, input: {{number: {{cel: input.number}}}}}}
  - id: weight
    depends_on: [pick]
    aggregate: {{items: {{cel: 'nodes.pick.output.map(one, one.number)'}}, reducer: sum}}
output:
  charged: {{cel: nodes.charge.output.number}}
  kept: {{cel: nodes.keep.output.number}}
  billed: {{cel: nodes.bill.output.number}}
  price: {{cel: nodes.price.output}}
  paid: {{cel: nodes.paid.output.number}}
  sent: {{cel: nodes.parcel.output.sent.number}}
  weight: {{cel: nodes.weight.output}}
"""
_MOST_ITEMS: Final = 4
_PAUSE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order: what it was started with, and the run as it was last seen."""

    number: int
    items: Sequence[int]
    run: run_pb2.Run

    @property
    def finished(self) -> bool:
        """True when it ended well."""
        return self.run.state == run_pb2.RUN_STATE_SUCCEEDED

    @property
    def due(self) -> dict[str, Any]:
        """What it has to give."""
        same = dict.fromkeys(("charged", "kept", "billed", "paid", "sent"), float(self.number))
        return {**same, "price": str(self.number * 7), "weight": float(sum(self.items))}

    @property
    def steps(self) -> set[str]:
        """Places of all its steps that workers make, its parcel's apart."""
        return {*STEPS, *(ITEM_STEP.format(place) for place in range(len(self.items)))}


@dataclass
class Orders:
    """Keeps some orders going until it is told to stop; then lets the last ones end."""

    client: AsyncClient
    dice: Random
    at_once: int = 2
    #: Longest time for one order.
    order_seconds: float = 120.0
    started: int = 0
    #: Orders that have ended, or that nobody waits for any more.
    over: list[Order] = field(default_factory=list[Order])

    async def prepare(self) -> None:
        """Makes the workflows."""
        for document in (PARCEL, ORDER):
            await patiently(lambda document=document: self.client.workflows.create(document))

    def lanes(self, least: int = 2) -> list[Lane]:
        """Gives what keeps orders going, at least so many; see `during`."""

        async def lane(stop: asyncio.Event) -> None:
            while not stop.is_set() or self.started < least:
                self.over.append(await self.one())

        return [lane] * self.at_once

    async def one(self) -> Order:
        """Sees one order through to its end, or until that takes too long."""
        self.started += 1
        number, pays_first, request_id = self.started, self.dice.random() < 0.5, str(uuid4())
        items = [self.dice.randrange(100) for _ in range(self.dice.randint(1, _MOST_ITEMS))]
        run = await patiently(
            lambda: self.client.runs.start("order", {"number": number, "items": items}, request_id=request_id)
        )
        run_id, end = run.run_id, time.monotonic() + self.order_seconds
        if pays_first:
            await self._pay(run_id, number)
        while run.state not in TERMINAL_STATES and time.monotonic() < end:
            await asyncio.sleep(_PAUSE_SECONDS)
            run = await patiently(lambda: self.client.runs.get(run_id))
            if not pays_first and run.state == run_pb2.RUN_STATE_WAITING:
                await self._pay(run_id, number)
                pays_first = True
        return Order(number=number, items=items, run=run)

    async def _pay(self, run_id: str, number: int) -> None:
        """Signals, at least once: one whose answer was lost is sent again, and no node waits for the second."""
        with suppress(FailedPrecondition):  # it came through though it was not answered, and the order has ended
            await patiently(lambda: self.client.runs.signal(run_id, "paid", {"number": number}))
