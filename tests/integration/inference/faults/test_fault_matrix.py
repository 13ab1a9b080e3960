"""Every fault in every dialect, unary and streamed, alone and in a chain, over real sockets, with the real ledger
beside the provider's own meter: a typed error or a whole answer in time, nothing left running, all paid for once.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import grpc.aio
import pytest
import pytest_asyncio
from pydantic import SecretStr

from comitia.inference.v1 import inference_service_pb2 as pb
from comitia.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from services.cost.domain.hold import HoldState
from services.meshkit.content.usage import USAGE_CLASSES
from services.meshkit.core.errors import MeshError
from services.meshkit.core.identity import TenantId
from services.meshkit.core.ids import to_uuid
from services.meshkit.grpc.channel import call_metadata
from services.meshkit.grpc.errors import remote_error
from tests.integration.inference.conftest import InferenceMesh, Surroundings, a_request
from tests.support.providers.fake import KEY
from tests.support.providers.faulty import ANSWER, FAULTS, FaultyProvider, faulty_provider

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: The local model speaks as all servers that imitate OpenAI do. It is the last of the chain.
CASES: Final = (
    ("openai", False),
    ("openai", True),
    ("responses", False),
    ("responses", True),
    ("anthropic", False),
    ("anthropic", True),
    ("local", False),
)
MODELS: Final = {
    "openai": "openai/gpt-4o-mini",
    "responses": "openai/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "local": "local/smollm2-135m-instruct",
}
#: Whoever is paid under another name than that of the dialect.
PAYEES: Final = {"responses": "openai"}
#: Faults in which no request ever reaches the provider, by the address that stands in for its own.
UNREACHED: Final = ("tls_reset", "no_such_host")
NO_HOST: Final = "provider.invalid"
DEADLINE_SECONDS: Final = 3.0

UNAVAILABLE: Final = "unavailable/PROVIDER_UNAVAILABLE"
RATE_LIMITED: Final = "exhausted/PROVIDER_RATE_LIMITED"
#: Faults that an answer comes through nevertheless.
HARMLESS: Final = {"well", "ten_times_slower", "end_mark_twice", "byte_by_byte", "no_usage", "negative_usage"}
#: Those of them after which nobody knows what was used.
NO_USAGE: Final = {"no_usage", "negative_usage"}
#: Faults after which a provider bills nothing for certain.
FREE: Final = {"too_many", "too_many_with_retry_after", "internal_error", *UNREACHED}
#: Tasks of a call: none of them outlives it.
TASKS: Final = {"inference_calls", "law before", "law during", "settle", "record"}


def comes_through(fault: str, dialect: str, *, streamed: bool) -> bool:
    # Servers that imitate OpenAI are known to leave the end mark out, and an answer in one piece has none.
    return fault in HARMLESS or (fault == "no_end_mark" and (dialect == "local" or not streamed))


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended: with a generation or with an error, and what was shown before."""

    generation: Any
    error: str
    shown: str


async def ask(mesh: InferenceMesh, *, streamed: bool, model: str) -> Ended:
    """Makes a call; whatever comes later than a second after its deadline fails the test."""
    shown = ""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS + 1):
            if not streamed:
                answer = await mesh.call("Generate", a_request(model=model, path="x"), timeout=DEADLINE_SECONDS)
                return Ended(answer.generation, "", "")
            request = a_request(kind=pb.StreamGenerateRequest, model=model, path="x")
            stub: Any = InferenceServiceStub(mesh.channel)
            metadata = call_metadata(mesh.principal)
            async for event in stub.StreamGenerate(request, metadata=metadata, timeout=DEADLINE_SECONDS):
                if event.HasField("generation"):
                    return Ended(event.generation, "", shown)
                shown = "" if event.restarted_by else shown + event.text_delta
    except (MeshError, grpc.aio.AioRpcError) as error:
        failure = error if isinstance(error, MeshError) else remote_error(error)
        return Ended(None, f"{failure.kind.value}/{failure.reason}", shown)
    raise AssertionError("a stream ended without an answer and without an error")


@dataclass(frozen=True, slots=True)
class Held:
    """What the ledger says of one hold."""

    state: HoldState
    usage: dict[str, int]
    bound: dict[str, int]


async def ledger_of(mesh: InferenceMesh) -> dict[str, Held]:
    """Reads all holds of the tenant behind the back of all services."""
    connection = await asyncpg.connect(mesh.money.url)
    try:
        rows = await connection.fetch(
            "SELECT id, state, usage, bound FROM hold WHERE tenant_id = $1 ORDER BY created_time, id",
            UUID(str(mesh.principal.tenant)),
        )
    finally:
        await connection.close()
    return {
        str(row["id"]): Held(
            HoldState(row["state"]),
            dict(zip(USAGE_CLASSES, row["usage"] or [], strict=False)),
            dict(zip(USAGE_CLASSES, row["bound"], strict=True)),
        )
        for row in rows
    }


def state_of(fault: str, dialect: str, *, streamed: bool) -> HoldState:
    """Says what becomes of the money held for a request that met a fault."""
    if fault in FREE:
        return HoldState.RELEASED
    known = comes_through(fault, dialect, streamed=streamed) and fault not in NO_USAGE
    return HoldState.SETTLED if known else HoldState.DISPATCHED


async def assert_books_agree(mesh: InferenceMesh, provider: FaultyProvider, *, states: list[HoldState]) -> None:
    """Puts the ledger beside the meter: equal where both are sure, never below it elsewhere.

    Args:
        states: of the holds, in the order in which they were made.
    """
    ledger = await ledger_of(mesh)
    assert [held.state for held in ledger.values()] == states
    metered = {str(to_uuid(call.hold_id, "hold")): call for call in provider.meter.calls}
    assert len(metered) == len(provider.meter.calls), "no hold pays for two requests"
    assert set(metered) <= set(ledger), "nothing was sent that no money is held for"
    for hold_id, held in ledger.items():
        call = metered.get(hold_id)
        if call is None:
            assert held.state is HoldState.RELEASED, "nothing was sent for it"
        elif held.state is HoldState.SETTLED:
            assert call.confirmed
            assert (held.usage["input"], held.usage["output"]) == (call.prompt_tokens, call.completion_tokens)
        elif held.state is HoldState.RELEASED:
            assert call.behaviour in FREE
        else:
            assert held.state is HoldState.DISPATCHED, "left to be assumed at its bound"
            assert held.bound["input"] >= call.prompt_tokens
            assert held.bound["output"] >= call.completion_tokens


def running_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()} & TASKS


async def no_task_is_left() -> None:
    async with asyncio.timeout(5):
        while running_tasks():  # noqa: ASYNC110  # tasks that end have no event of their own
            await asyncio.sleep(0.001)


class Matrix:
    """One service per dialect, whose first deployment has the fault and whose second answers."""

    def __init__(self, surroundings: Surroundings, provider: FaultyProvider, opened: AsyncExitStack) -> None:
        self._surroundings = surroundings
        self._opened = opened
        self._running: dict[str, InferenceMesh] = {}
        self.provider = provider

    def serving(self, dialect: str, address: str) -> Any:
        """Starts a service; its first deployment stands at an address."""
        first: dict[str, Any] = {
            "openai": {"openai_api_key": SecretStr(KEY), "openai_base_url": f"{address}/v1"},
            "responses": {
                "openai_adapter": "openai_responses",
                "openai_api_key": SecretStr(KEY),
                "openai_base_url": f"{address}/v1",
            },
            "anthropic": {"anthropic_api_key": SecretStr(KEY), "anthropic_base_url": address},
            "local": {"local_model_url": address},
        }[dialect]
        settings = {
            "openai_api_key": None,
            "local_model_url": f"{self.provider.address}/well",
            "first_byte_seconds": 0.3,
            "between_bytes_seconds": 0.3,
            "drain_seconds": 0.1,
            # What many faults in a row lead to has tests of its own.
            "breaker_failures": 1000,
        }
        return self._surroundings.start(**(settings | first))

    @asynccontextmanager
    async def mesh(self, dialect: str, fault: str) -> AsyncGenerator[InferenceMesh]:
        """Gives a service for a case; of its own when the fault is remembered, or is one of the address."""
        self.provider.fault = fault if fault in FAULTS else "well"
        principal = self._surroundings.keys.principal(tenant=TenantId(uuid4()))
        if fault in FAULTS and fault != "too_many":
            if dialect not in self._running:
                started = self.serving(dialect, self.provider.address)
                self._running[dialect] = await self._opened.enter_async_context(started)
            yield self._running[dialect].speaking_as(principal)
            return
        address = {
            "tls_reset": f"https://127.0.0.1:{self.provider.port}",
            "no_such_host": f"http://{NO_HOST}",
        }.get(fault, self.provider.address)
        async with self.serving(dialect, address) as started:
            yield started.speaking_as(principal)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_matrix(surroundings: Surroundings) -> AsyncIterator[Matrix]:
    async with faulty_provider() as provider, AsyncExitStack() as opened:
        yield Matrix(surroundings, provider, opened)


@pytest.fixture
def matrix(running_matrix: Matrix, surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> Matrix:
    """The matrix with a clean meter, and a resolver that knows one host less."""
    running_matrix.provider.forget()
    surroundings.law.forget()
    known = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == NO_HOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return running_matrix


@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize(("dialect", "chained"), CASES, ids=lambda of: "chain" if of is True else of or "alone")
@pytest.mark.parametrize("fault", [*FAULTS, *UNREACHED])
async def test_a_fault_ends_in_a_typed_error_or_a_whole_answer_and_the_books_agree(
    matrix: Matrix, fault: str, dialect: str, *, streamed: bool, chained: bool
) -> None:
    unhandled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unhandled.append(told))
    try:
        async with matrix.mesh(dialect, fault) as mesh:
            model = "default" if chained else MODELS[dialect]
            ended = await ask(mesh, streamed=streamed, model=model)
            await no_task_is_left()
            fell_back = chained and not comes_through(fault, dialect, streamed=streamed)
            states = [state_of(fault, dialect, streamed=streamed), *([HoldState.SETTLED] if fell_back else [])]
            await assert_books_agree(mesh, matrix.provider, states=states)
            reached = [] if fault in UNREACHED else [fault]
            assert [call.behaviour for call in matrix.provider.meter.calls] == reached + ["well"] * fell_back
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    if comes_through(fault, dialect, streamed=streamed):
        assert ended.error == ""
        assert ended.generation.provider == PAYEES.get(dialect, dialect)
        assert ended.generation.attempts[-1].usage_known is (fault not in NO_USAGE)
    elif chained:
        assert ended.error == ""
        assert ended.generation.provider == "local"
        assert [note.reason for note in ended.generation.attempts][1:] == [""]
    else:
        assert ended.error == (RATE_LIMITED if fault.startswith("too_many") else UNAVAILABLE)
    if ended.generation is not None:
        assert ended.generation.parts[0].text.text == ANSWER, "never a part of an answer as if it were the whole"
        assert ended.shown in ("", ANSWER)
    assert unhandled == []
