"""Policy as its neighbours see it: judges by words, on the real batch stream."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from comitia.common.v1 import content_pb2
from comitia.guard_table import GUARDS
from comitia.policy.v1 import policy_pb2
from comitia.policy.v1 import policy_service_pb2 as pb
from comitia.policy.v1.policy_service_pb2_grpc import PolicyServiceServicer, add_PolicyServiceServicer_to_server
from services.meshkit.batching.serve_batch import serve_items
from services.meshkit.batching.stream_session import BatchItem
from services.meshkit.core.ids import SystemIds
from services.meshkit.grpc.server import Server, serve
from services.meshkit.testing.fault_queue import FaultQueue
from services.meshkit.testing.mesh_keys import MeshKeys


class FakePolicy(PolicyServiceServicer):
    """Blocks and redacts the words it is given; remembers what it judged."""

    def __init__(self) -> None:
        self.target = ""
        self._ids = SystemIds()
        self.forget()

    def forget(self) -> None:
        """Starts anew."""
        self.blocked: set[str] = set()
        self.redacted: dict[str, str] = {}
        self.seen: list[policy_pb2.Subject] = []
        #: Names of the next verdicts, instead of new ones.
        self.names: list[str] = []
        self.faults = FaultQueue()

    def stages(self) -> list[str]:
        return [policy_pb2.Stage.Name(subject.stage).removeprefix("STAGE_").lower() for subject in self.seen]

    async def Evaluate(self, request: pb.EvaluateRequest, context: Any) -> pb.EvaluateResponse:
        return pb.EvaluateResponse(verdict=self._verdict(request.subject))

    async def BatchEvaluate(
        self, request_iterator: AsyncIterator[pb.BatchEvaluateRequest], context: Any
    ) -> AsyncIterator[pb.BatchEvaluateResponse]:
        async for frame in serve_items(request_iterator, self._judge, answers=pb.BatchEvaluateResponse):
            yield frame

    async def _judge(self, item: BatchItem[pb.BatchEvaluateRequest.Item]) -> pb.BatchEvaluateResponse.Item:
        return pb.BatchEvaluateResponse.Item(verdict=self._verdict(item.message.subject))

    def _verdict(self, subject: policy_pb2.Subject) -> policy_pb2.Verdict:
        self.faults.hit()
        self.seen.append(subject)
        texts = [_text(part) for part in subject.parts]
        blocked = any(word in text for word in self.blocked for text in texts)
        action = policy_pb2.ACTION_BLOCK if blocked else policy_pb2.ACTION_UNSPECIFIED
        verdict = policy_pb2.Verdict(
            verdict_id=self.names.pop(0) if self.names else self._ids.new("verdict"),
            allowed=not blocked,
            results=[policy_pb2.RuleResult(rule="words", action=action, elapsed_us=3)],
            bundle_digest="cd" * 32,
            bundle="words@1.0.0",
        )
        if any(word in text for word in self.redacted for text in texts):
            verdict.parts.extend(subject.parts)
            for part in verdict.parts:
                for word, replacement in self.redacted.items():
                    _replace(part, word, replacement)
            verdict.results[0].action = policy_pb2.ACTION_REDACT
        return verdict


def _text(part: content_pb2.Part) -> str:
    return str(MessageToDict(part.tool_call.arguments)) if part.HasField("tool_call") else part.text.text


def _replace(part: content_pb2.Part, word: str, replacement: str) -> None:
    if not part.HasField("tool_call"):
        part.text.text = part.text.text.replace(word, replacement)
        return
    for value in part.tool_call.arguments.fields.values():
        if value.HasField("string_value"):
            value.string_value = value.string_value.replace(word, replacement)


@asynccontextmanager
async def fake_policy(keys: MeshKeys, *, port: int = 0) -> AsyncGenerator[FakePolicy]:
    """Serves while the block runs."""
    policy = FakePolicy()
    server = Server(
        name="policy",
        listen=f"127.0.0.1:{port}",
        registrations=(partial(add_PolicyServiceServicer_to_server, policy),),
        admission=keys.admission(GUARDS),
        drain_seconds=0.2,
    )
    async with serve(server) as running:
        policy.target = f"127.0.0.1:{running.port}"
        yield policy


def keys_in(folder: Path, clock: Any) -> MeshKeys:
    """Makes the keys of a mesh in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return MeshKeys.make(folder, clock=clock)
