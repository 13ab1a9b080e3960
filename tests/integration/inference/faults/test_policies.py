"""What a caller says about answers that break off and about calls that it leaves, through the public door."""

import asyncio
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from comitia.inference.v1 import generation_pb2
from comitia.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from services.meshkit.core.errors import MeshError
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_error
from tests.integration.inference.conftest import InferenceMesh, StartInference, Surroundings, a_request
from tests.support.providers.fake import KEY, Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIRST = "Trams are quiet. "
#: It breaks off once the reader has seen the first sentence.
BROKEN = Behaviour(text=f"{FIRST}Cars are not so.", pause=0.05, cut_after=6)
FAIL, RESTART, CONTINUE = (
    generation_pb2.CallPolicy(mid_stream=one)  # type: ignore[arg-type]
    for one in (
        generation_pb2.MID_STREAM_FAIL,
        generation_pb2.MID_STREAM_RESTART,
        generation_pb2.MID_STREAM_CONTINUE,
    )
)
DRAIN = generation_pb2.CallPolicy(on_disconnect=generation_pb2.ON_DISCONNECT_DRAIN)
DETACH = generation_pb2.CallPolicy(on_disconnect=generation_pb2.ON_DISCONNECT_DETACH)


def with_a_chain(start: StartInference, surroundings: Surroundings, **changes: Any) -> Any:
    return start(anthropic_api_key=KEY, anthropic_base_url=surroundings.provider.anthropic_base_url, **changes)


async def watched(mesh: InferenceMesh, policy: generation_pb2.CallPolicy) -> tuple[list[Any], MeshError | None]:
    """Gives what a reader gets, and the error at the end if there is one."""
    events: list[Any] = []
    try:
        async for event in mesh.stream(policy=policy):
            events.append(event)  # noqa: PERF401  # what came before the failure is looked at
    except grpc.aio.AioRpcError as error:
        return events, remote_error(error)
    return events, None


async def test_an_answer_that_breaks_off_is_started_again_and_the_reader_is_told(
    start: StartInference, surroundings: Surroundings
) -> None:
    async with with_a_chain(start, surroundings) as mesh:
        mesh.provider.next(BROKEN, Behaviour(text="All of it."))
        events, _ = await watched(mesh, RESTART)
        assert events[0].text_delta == FIRST
        assert [event.restarted_by for event in events if event.restarted_by] == ["anthropic/claude-haiku-4-5"]
        assert events[-1].generation.parts[0].text.text == "All of it."


async def test_an_answer_that_breaks_off_is_continued_and_both_attempts_are_billed_once(
    start: StartInference, surroundings: Surroundings
) -> None:
    async with with_a_chain(start, surroundings) as mesh:
        mesh.provider.next(BROKEN, Behaviour(text="Cars are loud. That is all."))
        events, _ = await watched(mesh, CONTINUE)
        shown = "".join(event.text_delta for event in events)
        answer = events[-1].generation
        assert answer.parts[0].text.text == shown == f"{FIRST}Cars are loud. That is all."
        assert answer.continued_by == "anthropic/claude-haiku-4-5"
        assert [event.continued_by for event in events if event.continued_by] == [answer.continued_by]
        first, second = mesh.provider.meter.calls
        assert [note.hold_id for note in answer.attempts] == [first.hold_id, second.hold_id]
        assert [note.usage_known for note in answer.attempts] == [False, True]
        assert FIRST.strip() in second.text
        (charge,) = await mesh.charges()
        assert charge.hold_id == second.hold_id
        assert (await mesh.budget()).held_nano_usd > 0, "the first is left to be assumed at its bound"


async def test_an_answer_that_breaks_off_fails_when_the_reader_wants_no_other(
    start: StartInference, surroundings: Surroundings
) -> None:
    async with with_a_chain(start, surroundings) as mesh:
        mesh.provider.next(BROKEN)
        events, error = await watched(mesh, FAIL)
        assert [event.text_delta for event in events] == [FIRST]
        assert error is not None
        assert (error.kind.value, error.reason) == ("unavailable", "ANSWER_BROKE_OFF")
        assert len(mesh.provider.meter.calls) == 1


async def leave(mesh: InferenceMesh, policy: generation_pb2.CallPolicy, *, path: str) -> None:
    """Asks, and goes away as soon as the provider has been asked."""
    stub: Any = InferenceServiceStub(mesh.channel)
    call = stub.Generate(a_request(path=path, policy=policy), metadata=call_metadata(mesh.principal))
    asking = asyncio.ensure_future(call)
    await mesh.provider.until(lambda meter: meter.calls)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_who_leaves_stops_the_provider(mesh: InferenceMesh) -> None:
    mesh.provider.next(Behaviour(pause=30.0))
    stream = mesh.stream()
    reading = asyncio.ensure_future(stream.read())
    await mesh.provider.until(lambda meter: meter.calls)
    stream.cancel()
    await asyncio.wait([reading])
    await mesh.provider.until(lambda meter: meter.calls[0].abandoned)
    assert (await mesh.budget()).held_nano_usd > 0, "nobody knows what was used"


async def test_an_answer_that_is_drained_is_billed_for_what_it_used(mesh: InferenceMesh) -> None:
    mesh.provider.next(Behaviour(held="answer"))
    await leave(mesh, DRAIN, path="x")
    await mesh.provider.release("answer")
    (charge,) = await settled(mesh)
    (call,) = mesh.provider.meter.calls
    assert (charge.usage.input_tokens, charge.usage.output_tokens) == (call.prompt_tokens, call.completion_tokens)
    assert (await mesh.budget()).held_nano_usd == 0


async def test_a_call_that_is_detached_is_made_once_and_a_repeat_gets_its_answer(mesh: InferenceMesh) -> None:
    mesh.provider.next(Behaviour(held="answer"))
    await leave(mesh, DETACH, path="x")
    repeat = asyncio.ensure_future(mesh.generate(path="x"))
    await mesh.provider.release("answer")
    assert (await repeat).parts[0].text.text
    assert len(mesh.provider.meter.calls) == 1
    assert len(await settled(mesh)) == 1


async def settled(mesh: InferenceMesh) -> list[Any]:
    """Waits until something is charged, and gives it."""
    async with asyncio.timeout(5):
        while not (charges := await mesh.charges()):  # noqa: ASYNC110  # the ledger tells nobody
            await asyncio.sleep(0.01)
    return charges


async def test_a_model_that_keeps_failing_is_passed_over_at_once(
    start: StartInference, surroundings: Surroundings
) -> None:
    async with with_a_chain(start, surroundings, breaker_failures=2) as mesh:
        mesh.provider.next(Behaviour(status=500), Behaviour(), Behaviour(status=500), Behaviour())
        for _ in range(2):
            assert (await mesh.generate()).provider == "anthropic"
        answer = await mesh.generate()
        assert list(answer.failed_attempts) == ["openai/gpt-4o-mini: BREAKER_OPEN"]
        assert [note.deployment for note in answer.attempts] == ["anthropic/claude-haiku-4-5"]
        assert [call.dialect for call in mesh.provider.meter.calls] == ["openai", "anthropic"] * 2 + ["anthropic"]


async def test_a_deployment_is_asked_again_before_the_next_when_it_may_be(
    start: StartInference, surroundings: Surroundings
) -> None:
    async with with_a_chain(start, surroundings, hop_tries=2) as mesh:
        mesh.provider.next(Behaviour(status=500))
        answer = await mesh.generate()
        assert (answer.provider, list(answer.failed_attempts)) == (
            "openai",
            ["openai/gpt-4o-mini: PROVIDER_UNAVAILABLE"],
        )
        assert len({call.hold_id for call in mesh.provider.meter.calls}) == 2


async def test_a_second_model_beside_a_silent_one_is_paid_by_a_hold_of_its_own(
    start: StartInference, surroundings: Surroundings
) -> None:
    policy = generation_pb2.CallPolicy(hedge_after=Duration(nanos=100_000_000))
    async with with_a_chain(start, surroundings) as mesh:
        mesh.provider.next(Behaviour(held="the first"), Behaviour(text="From the second."))
        answer = await mesh.generate(policy=policy)
        assert answer.parts[0].text.text == "From the second."
        assert list(answer.failed_attempts) == []
        await mesh.provider.until(lambda meter: len(meter.calls) == 2 and meter.calls[0].abandoned)
        first, second = mesh.provider.meter.calls
        assert [(note.reason, note.hold_id, note.usage_known) for note in answer.attempts] == [
            ("CANCELLED", first.hold_id, False),
            ("", second.hold_id, True),
        ]
        assert [call.hold_id for call in mesh.provider.meter.confirmed] == [second.hold_id]
        (charge,) = await mesh.charges()
        assert charge.hold_id == second.hold_id
        assert (charge.usage.input_tokens, charge.usage.output_tokens) == (
            second.prompt_tokens,
            second.completion_tokens,
        )
        assert (await mesh.budget()).held_nano_usd > 0, "what nobody reported is left to be assumed at its bound"


async def test_a_time_that_is_none_is_refused_by_name(mesh: InferenceMesh) -> None:
    policy = generation_pb2.CallPolicy(hedge_after=Duration(seconds=-1))
    assert await mesh.refused("Generate", a_request(policy=policy)) == "invalid/INVALID_FIELD/policy.hedge_after"
