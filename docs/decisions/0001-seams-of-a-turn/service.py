"""One of the seven skeletons, in a process of its own: `service.py <name>`, configuration as JSON on stdin.

It prints its address, answers until stdin closes, and holds what the service does in a turn and nothing else.
"""

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4, uuid5

import asyncpg
import grpc.aio
import uvloop
from identity import Caller, TokenVerifier, sign
from joserfc.jwk import OKPKey
from rules import broken_rules
from store import POOL, Store, Write
from wire import METHODS, OPTIONS, Node, Peer, pb

BUNDLE_DIGEST = hashlib.sha256(b"canned").digest()
STUB_ANSWER = ("[stub] " + "The second speaker concedes the point and asks for evidence that it holds at scale. " * 8)[
    :600
]
TOPIC = ("Should the assembly fund the harbour? Consider the cost, the trade, the storms and the fishers. " * 11)[:1000]
BOUND_NANO_USD, ACTUAL_NANO_USD = 9_000_000, 4_000_000


@dataclass(frozen=True)
class Flags:
    """What a variant changes. The defaults are the plainest form of the turn."""

    #: Law and money inside inference; otherwise the orchestrator calls them.
    inside: bool = True
    #: Neighbours that are called by batch stream.
    frames: list[str] = field(default_factory=list)
    #: Services group the commits of concurrent calls (a called-by-frame service always does).
    grouped: bool = False
    #: Reserve also marks the hold as dispatched.
    merged: bool = False
    #: Law on the prompt first, then Reserve, instead of both at once; with `merged`, law has agreed to what is marked.
    law_first: bool = False
    #: Settle in an owner task, after the answer has been returned.
    settle_late: bool = False
    #: After the model's answer: record, settle and the verdict at once instead of in a row.
    overlap: bool = False
    #: The next turn's intent is written with this turn's completion.
    next_intent: bool = False
    #: One tool call in each turn.
    tool: bool = False
    #: Keep verified tokens in a bounded cache.
    token_cache: bool = True


class Skeleton:
    """State that all seven have: flags, neighbours, store."""

    def __init__(self, name: str, store: Store, signing_key: OKPKey, workload: str) -> None:
        self.name, self.store, self.signing_key, self.workload = name, store, signing_key, workload
        self.flags = Flags()
        self.peers: dict[str, Peer] = {}
        self.verifiers: list[TokenVerifier] = []
        self.late: set[asyncio.Task[None]] = set()

    def handlers(self) -> dict[str, Any]:
        control = {"Control.Configure": self.configure, "Control.Stats": self.stats}
        mine = [method for method in METHODS if method.startswith(f"{self.name.capitalize()}.")]
        return control | {method: getattr(self, method.partition(".")[2]) for method in mine}

    async def configure(self, request: Any, _: Caller) -> Any:
        self.flags = Flags(**json.loads(request.flags_json))
        for verifier in self.verifiers:
            verifier.cached = self.flags.token_cache
        for name, target in request.targets.items():
            self.peers[name] = Peer(name.capitalize(), target, self.workload)
        return pb.Done()

    async def stats(self, _: Any, __: Caller) -> Any:
        if self.late:
            await asyncio.wait(self.late)
        return pb.StatsResponse(write_transactions=self.store.write_transactions, rows_written=self.store.rows_written)

    def call(self, method: str, request: Any, caller: Caller) -> Awaitable[Any]:
        name = method.partition(".")[0].lower()
        return self.peers[name].call(method, request, caller.token, framed=name in self.flags.frames)

    def commit(self, kind: str, caller: Caller, *values: Any) -> Awaitable[None]:
        write = Write(kind, caller.tenant, values)
        grouped = self.flags.grouped or self.name in self.flags.frames
        return self.store.commit_grouped(write) if grouped else self.store.commit(write)

    # Law and money, called by whoever owns them in this variant.

    async def reserve(self, caller: Caller, run: bytes) -> bytes:
        hold = uuid4().bytes
        nodes = budget_nodes(caller.tenant, UUID(bytes=run))
        request = pb.ReserveRequest(
            hold=hold,
            budget_nodes=[node.bytes for node in nodes],
            bound_nano_usd=BOUND_NANO_USD,
            dispatched=self.flags.merged,
        )
        await self.call("Cost.Reserve", request, caller)
        return hold

    async def before(self, caller: Caller, request: Any) -> tuple[bytes, str]:
        """Law on the prompt and the hold; the hold is marked last, since bytes are about to leave."""
        law = self.call("Policy.Evaluate", pb.EvaluateRequest(call_id=request.call_id, text=request.prompt), caller)
        if self.flags.law_first:
            verdict = await law
            hold = await self.reserve(caller, request.run)
        else:
            verdict, hold = await asyncio.gather(law, self.reserve(caller, request.run))
        if not self.flags.merged:
            await self.call("Cost.MarkDispatched", pb.MarkDispatchedRequest(hold=hold), caller)
        return hold, verdict.verdict

    async def settle(self, caller: Caller, hold: bytes) -> None:
        await self.call("Cost.Settle", pb.SettleRequest(hold=hold, actual_nano_usd=ACTUAL_NANO_USD), caller)

    async def settle_now_or_late(self, settle: Any) -> None:
        if not self.flags.settle_late:
            await settle
            return
        task = asyncio.create_task(settle)
        self.late.add(task)
        task.add_done_callback(self.late.discard)


class Gateway(Skeleton):
    async def IssueTokens(self, request: Any, _: Caller) -> Any:
        tenants = request.tenants
        return pb.IssueTokensResponse(
            tokens=[
                sign(
                    self.signing_key,
                    subject=f"user-{n}",
                    tenant=tenants[n % len(tenants)],
                    audience="comitia",
                    seconds=3600,
                )
                for n in range(request.count)
            ]
        )


class Policy(Skeleton):
    def Evaluate(self, request: Any, _: Caller) -> Any:
        return pb.EvaluateResponse(
            verdict=f"verdict_{uuid4().hex}", bundle_digest=BUNDLE_DIGEST, broken_rules=broken_rules(request.text)
        )


class Memory(Skeleton):
    async def Recall(self, request: Any, caller: Caller) -> Any:
        return pb.RecallResponse(texts=await self.store.recall(caller.tenant, UUID(bytes=request.run), request.limit))

    async def Remember(self, request: Any, caller: Caller) -> Any:
        await self.commit("memory", caller, UUID(bytes=request.run), request.text)
        return pb.Done()


class Cost(Skeleton):
    async def Reserve(self, request: Any, caller: Caller) -> Any:
        nodes = [UUID(bytes=node) for node in request.budget_nodes]
        state = "dispatched" if request.dispatched else "reserved"
        await self.commit("reserve", caller, UUID(bytes=request.hold), *nodes, request.bound_nano_usd, state)
        return pb.Done()

    async def MarkDispatched(self, request: Any, caller: Caller) -> Any:
        await self.commit("mark", caller, UUID(bytes=request.hold))
        return pb.Done()

    async def Settle(self, request: Any, caller: Caller) -> Any:
        await self.commit("settle", caller, UUID(bytes=request.hold), request.actual_nano_usd)
        return pb.Done()


class Tools(Skeleton):
    async def Invoke(self, request: Any, caller: Caller) -> Any:
        law = pb.EvaluateRequest(call_id=request.call_id, text=request.arguments)
        await self.call("Policy.Evaluate", law, caller)
        await self.commit("effect", caller, request.call_id, request.arguments)
        result = str(sum(map(ord, request.arguments)))
        law = pb.EvaluateRequest(call_id=request.call_id, text=result)
        await asyncio.gather(
            self.call("Policy.Evaluate", law, caller), self.commit("outcome", caller, request.call_id, result)
        )
        return pb.InvokeResponse(result=result)


class Inference(Skeleton):
    async def Generate(self, request: Any, caller: Caller) -> Any:
        if not self.flags.inside:
            return pb.GenerateResponse(text=STUB_ANSWER, input_tokens=500, output_tokens=150)
        hold, verdict_before = await self.before(caller, request)
        after, record = self.after(caller, request), self.record(caller, request, hold)
        settle = self.settle_recorded(caller, request, hold)
        if self.flags.overlap:
            verdict_after, _, _ = await asyncio.gather(after, record, settle)
        else:
            verdict_after = await after
            await record
            await self.settle_now_or_late(settle)
        return pb.GenerateResponse(
            text=STUB_ANSWER,
            hold=hold,
            verdicts=[verdict_before, verdict_after.verdict],
            input_tokens=500,
            output_tokens=150,
        )

    async def after(self, caller: Caller, request: Any) -> Any:
        law = pb.EvaluateRequest(call_id=request.call_id, text=STUB_ANSWER)
        return await self.call("Policy.Evaluate", law, caller)

    async def record(self, caller: Caller, request: Any, hold: bytes) -> None:
        await self.commit("answer", caller, request.call_id, UUID(bytes=hold), STUB_ANSWER.encode())

    async def settle_recorded(self, caller: Caller, request: Any, hold: bytes) -> None:
        await self.settle(caller, hold)
        self.store.mark_settled(caller.tenant, request.call_id)


class Orchestrator(Skeleton):
    async def RunSessions(self, request: Any, _: Caller) -> Any:
        """Runs one session per token until the time is over; a session is turns in a row."""
        started = time.perf_counter()
        latencies: list[int] = []
        async with asyncio.TaskGroup() as sessions:
            for token in request.tokens:
                sessions.create_task(self.session(token, started + request.seconds, latencies))
        return pb.RunSessionsResponse(latencies_us=latencies, seconds=time.perf_counter() - started)

    async def session(self, token: str, until: float, latencies: list[int]) -> None:
        caller = self.verifiers[0].verify(token)
        run = uuid5(caller.tenant, caller.subject)
        first = True
        while (started := time.perf_counter()) < until:
            await self.turn(caller, run, first)
            first = False
            latencies.append(int((time.perf_counter() - started) * 1e6))

    async def turn(self, caller: Caller, run: UUID, first: bool) -> None:
        call_id = uuid4().hex
        if first or not self.flags.next_intent:
            await self.commit("journal", caller, run, "intent", call_id.encode())
        recalled = await self.call("Memory.Recall", pb.RecallRequest(run=run.bytes, limit=5), caller)
        prompt = "\n".join([TOPIC, *(text[:200] for text in recalled.texts)])
        request = pb.GenerateRequest(call_id=call_id, run=run.bytes, prompt=prompt)
        answer = await (self.ask if self.flags.inside else self.ask_with_law_and_money)(request, caller, run)
        if self.flags.tool:
            invoke = pb.InvokeRequest(call_id=call_id, arguments=answer.text[:200])
            result = await self.call("Tools.Invoke", invoke, caller)
            await self.commit("journal", caller, run, "tool_answered", result.result.encode())
        await self.call("Memory.Remember", pb.RememberRequest(run=run.bytes, text=answer.text), caller)
        await self.commit("journal", caller, run, "completed", b"next")

    async def ask(self, request: Any, caller: Caller, run: UUID) -> Any:
        answer = await self.call("Inference.Generate", request, caller)
        await self.commit("journal", caller, run, "answered", answer.text.encode())
        return answer

    async def ask_with_law_and_money(self, request: Any, caller: Caller, run: UUID) -> Any:
        hold, _ = await self.before(caller, request)
        answer = await self.call("Inference.Generate", request, caller)
        law = pb.EvaluateRequest(call_id=request.call_id, text=answer.text)
        await self.call("Policy.Evaluate", law, caller)
        await self.commit("journal", caller, run, "answered", answer.text.encode())
        await self.settle_now_or_late(self.settle(caller, hold))
        return answer


SKELETONS = {kind.__name__.lower(): kind for kind in (Gateway, Orchestrator, Inference, Policy, Memory, Tools, Cost)}


def budget_nodes(tenant: UUID, run: UUID) -> tuple[UUID, UUID, UUID]:
    """Tenant, project and run: the nodes that a call spends from."""
    return uuid5(tenant, "budget"), uuid5(tenant, "project"), uuid5(run, "budget")


async def serve(name: str, settings: dict[str, Any]) -> None:
    token_key, workload_key = (OKPKey.import_key(settings[key]) for key in ("token_key", "workload_key"))
    workload = sign(workload_key, subject=name, tenant=str(UUID(int=0)), audience="comitia-mesh", seconds=3600)
    pool = await asyncpg.create_pool(
        host=settings["host"], user=f"app_{name}", database=name, min_size=POOL, max_size=POOL
    )
    skeleton = SKELETONS[name](name, Store(pool), token_key, workload)
    skeleton.verifiers = [TokenVerifier(token_key, "comitia"), TokenVerifier(workload_key, "comitia-mesh")]
    server = grpc.aio.server(options=OPTIONS)
    Node(name.capitalize(), *skeleton.verifiers).register(server, skeleton.handlers())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    owners = [asyncio.create_task(work()) for work in (skeleton.store.run_groups, skeleton.store.run_settled_marks)]
    await asyncio.to_thread(sys.stdin.read)
    for owner in owners:
        owner.cancel()
    for peer in skeleton.peers.values():
        await peer.close()
    await server.stop(None)
    pool.terminate()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], json.loads(sys.stdin.readline())))
