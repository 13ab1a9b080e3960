"""Measures what the calls of a turn cost each service, by how many of them come together.

Run by `make bench-turn_calls`. This process takes the orchestrator's place: it recalls, asks the stub and remembers for
so many turns at once, in lock-step, over the batch streams that the orchestrator uses. So what is counted is the work
of memory, inference, policy, cost and Postgres for one turn, at every size of a frame, whatever the engine does.
"""

import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from comitia.common.v1 import content_pb2
from comitia.inference.v1 import inference_service_pb2
from comitia.memory.v1 import memory_service_pb2
from services.launcher.layout import DataDir
from services.meshkit.core.clock import SystemClock
from services.meshkit.core.identity import Principal, Role, TenantId
from services.meshkit.core.ids import SystemIds
from services.meshkit.core.secret import Secret
from services.meshkit.grpc.channel import channel
from services.meshkit.grpc.identity import WorkloadSigner
from services.meshkit.grpc.signed_token import SigningKey
from services.orchestrator.clients.neighbours import TurnNeighbours, generations, memories
from tests.bench.whole_mesh import SHORT, BenchMesh, Report, data_dir, processor_seconds, up

SIZES: Final = (1, 8, 64)
TURNS: Final = 512 if SHORT else 4096
ALONE: Final = 100 if SHORT else 400
WARM_FRAMES: Final = 3
PARTS: Final = ("inference", "memory", "policy", "cost", "postgres")
_WORDS: Final = "Rivers argue where they meet, and the sea does not listen to either of them. "
_SECONDS: Final = 60.0

figure: Final = Report("turn_calls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A turn of a session of its own, as the programs of the orchestrator ask for it."""

    session: str
    number: int

    @property
    def context(self) -> content_pb2.CallContext:
        """Gives whose call it is: none of a run's, for the token is a person's."""
        call = content_pb2.CallId(run_id=f"bench_{self.session}", path=f"rounds/{self.number}/Ada")
        return content_pb2.CallContext(call_id=call, agent_name="Ada", agent_version="1")


class Turns:
    """Makes the calls of turns as the orchestrator does."""

    def __init__(self, neighbours: TurnNeighbours, principal: Principal) -> None:
        self._neighbours = neighbours
        self._principal = principal

    async def make(self, turn: Turn) -> None:
        """Recalls, asks and remembers."""
        await self.recall(turn)
        answer = await self.generate(turn)
        await self.remember(turn, answer)

    async def recall(self, turn: Turn) -> memory_service_pb2.RecallResponse:
        """Recalls the latest turns of the session."""
        request = memory_service_pb2.RecallRequest(
            context=turn.context, session_id=turn.session, query="Where do rivers argue?", recent_turns=6
        )
        return await self._neighbours.recall(self._principal, request, seconds=_SECONDS)

    async def generate(self, turn: Turn) -> str:
        """Asks the stub with some 1,500 characters."""
        label = content_pb2.Label(integrity=content_pb2.INTEGRITY_USER, sources=["agent:Ada"])
        messages = [
            content_pb2.Message(
                role=role, parts=[content_pb2.Part(text=content_pb2.TextPart(text=_WORDS * 6), label=label)]
            )
            for role in (content_pb2.MESSAGE_ROLE_SYSTEM, content_pb2.MESSAGE_ROLE_USER, content_pb2.MESSAGE_ROLE_USER)
        ]
        request = inference_service_pb2.StreamGenerateRequest(
            context=turn.context, model="stub", messages=messages, max_output_tokens=512
        )
        request.context.call_id.call_index = 1

        async def show(text: str, restart: bool) -> None:
            del text, restart

        made = await self._neighbours.generate(self._principal, request, seconds=_SECONDS, on_text=show)
        return made.parts[0].text.text

    async def remember(self, turn: Turn, text: str) -> memory_service_pb2.RememberResponse:
        """Keeps the answer."""
        request = memory_service_pb2.RememberRequest(
            context=turn.context,
            session_id=turn.session,
            agent_name="Ada",
            parts=[content_pb2.Part(text=content_pb2.TextPart(text=text))],
        )
        request.context.call_id.call_index = 2
        return await self._neighbours.remember(self._principal, request, seconds=_SECONDS)


async def measure(mesh: BenchMesh, turns: Turns, size: int) -> None:
    """Makes turns, so many at a time."""
    sessions = [SystemIds().new("run") for _ in range(size)]
    number = 0

    async def frame() -> None:
        nonlocal number
        number += 1
        await asyncio.gather(*(turns.make(Turn(session=session, number=number)) for session in sessions))

    for _ in range(WARM_FRAMES):
        await frame()
    count = ALONE if size == 1 else max(2, TURNS // size)
    before = processor_seconds(mesh.data_dir)
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await frame()
        took.append((time.perf_counter() - began) * 1000)
    after = processor_seconds(mesh.data_dir)
    made = count * size
    used = {part: (after[part] - before.get(part, 0.0)) / made * 1e6 for part in PARTS}
    note = ", ".join(f"{part} {micros:.0f}" for part, micros in used.items())
    figure(f"cpu_us_per_turn_{size}_together", sum(used.values()), "us", note=note)
    figure(f"calls_of_a_turn_p50_{size}_together", statistics.median(took), "ms", note="recall, answer, remember")


async def main() -> None:
    """Measures every size, one after the other."""
    with data_dir() as options:
        async with up(options) as mesh, mesh.client() as client, AsyncExitStack() as stack:
            token = await client.identity.token()
            clock = SystemClock()
            key = SigningKey.read(DataDir(mesh.data_dir).workload_key("orchestrator"))
            signer = WorkloadSigner("orchestrator", key, clock=clock)
            # Only the token is sent; the services read the rest from it.
            principal = Principal(
                tenant=TenantId(SystemIds().uuid()),
                subject="bench",
                roles=frozenset({Role.ADMIN}),
                token=Secret(token),
            )
            services = mesh.addresses.services
            to_memory, to_inference, to_tools = [
                await stack.enter_async_context(channel(services[name], identity=signer))
                for name in ("memory", "inference", "tools")
            ]
            neighbours = TurnNeighbours(
                memories=await stack.enter_async_context(memories(to_memory, clock=clock)),
                generations=await stack.enter_async_context(generations(to_inference, clock=clock)),
                inference=to_inference,
                tools=to_tools,
            )
            for size in SIZES:
                await measure(mesh, Turns(neighbours, principal), size)


if __name__ == "__main__":
    asyncio.run(main())
